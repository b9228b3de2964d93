# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""The texts of a bundle: how to run the model, and the license of the images that it was trained on."""

import shlex
from collections.abc import Mapping

from imaging.augment import MEAN, STD

README = """\
A {arch} that segments nuclei in microscope images, as ONNX.

{scores}
model.onnx        the network; see the program below for what it takes and returns
model.json        settings of the training, tuned thresholds if there are any, scores
DATA_LICENSE.txt  the license of the images that the network was trained on

With the repository that made this file, which also draws outlines and counts nuclei:

  python demo.py --bundle {name} --input path/to/images --output outputs/mine

With Python alone: unpack this file, `pip install onnxruntime opencv-python-headless`, and run

{program}
This is for images of 8 bits. mask.png has the size of the network's input.
"""
DSB2018 = """\
As far as the checkpoint tells, the network was trained on the data set '{dataset}'. The repository's preparation gives
names that begin with dsb2018 to the images of the 2018 Data Science Bowl (stage1_train, published as BBBC038 in the
Broad Bioimage Benchmark Collection). These images are in the public domain: CC0 1.0,
https://creativecommons.org/publicdomain/zero/1.0/

If other images were prepared under this name, their license applies instead.
"""
OTHER = """\
As far as the checkpoint tells, the network was trained on the data set '{dataset}'. The license of these images
applies; it is not recorded. Whoever shares this file must make sure that the license allows it, and should write its
terms here.
"""


def readme(name: str, about: Mapping) -> str:
    """Return README.txt of a bundle with this file name; about: the contents of its model.json."""
    scores = "".join(f"{key.replace('_', ' ')}: {value}\n" for key, value in about["scores"].items())
    program = "".join(f"  {line}\n" for line in plain_program(about))
    return README.format(arch=about["model"]["arch"], scores=scores, name=shlex.quote(name), program=program)


def plain_program(about: Mapping) -> list[str]:
    """Return the lines of a program that runs model.onnx on image.png; about: the contents of model.json."""
    settings, model = about["settings"], about["model"]
    if diameter := settings["crop_diameter"]:  # the sides of the input are multiples of 16
        lines = [
            'x, diameter = cv2.imread("image.png"), 20  # of the nuclei in it, in pixels',
            f"sides = [16 * max(1, round(side * {diameter:g} / diameter / 16)) for side in x.shape[1::-1]]",
            "x = cv2.resize(x, sides)",
        ]
    else:
        lines = [f'x = cv2.resize(cv2.imread("image.png"), ({settings["input_w"]}, {settings["input_h"]}))']
    if not model["uint8"]:
        if settings["normalization"] == "image":
            lines.append("x = ((x - x.mean()) / (x.std() + 1e-4)).clip(-20, 20)")
        else:
            lines.append(f"x = (x / 255 - {MEAN}) / {STD}")
        lines[-1] += " / 255" if settings["divide_twice"] else ""
        lines.append('x = x.transpose(2, 0, 1).astype("float32")')
    batch = "x[None]" if model["batch_size"] in (None, 1) else f"numpy.stack([x] * {model['batch_size']})"
    limit, meaning = ("0.5", "probability") if model["uint8"] else ("0", "logit")
    return [
        "import cv2, numpy, onnxruntime" if "numpy" in batch else "import cv2, onnxruntime",
        *lines,
        'session = onnxruntime.InferenceSession("model.onnx")',
        f'inputs = {{"{model["input"]}": {batch}}}',
        f'mask = session.run(["{model["outputs"][-1]}"], inputs)[0][0, 0] > {limit}  # {meaning}',
        'cv2.imwrite("mask.png", mask.astype("uint8") * 255)',
    ]


def data_license(dataset: str) -> str:
    """Return the text on the license of a data set, by its name in the settings of the training."""
    return (DSB2018 if dataset.startswith("dsb2018") else OTHER).format(dataset=dataset)
