# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Part nuclei of benchmarks/run.py: the demo with and without single nuclei, and large images by windows."""

from pathlib import Path

import cv2
import numpy as np

import demo
import engine
import options
from benchmarks.inference import write_model
from benchmarks.measure import Bench, Side, build_net, check_same, medians, replaced, silence
from imaging import tiles
from imaging.instances import SplitSettings, find_nuclei
from imaging.large_image import from_pixels
from imaging.raw.compose import compose
from imaging.raw.rawset import RawSet
from runtime.distributed import init_runtime

IMAGES = 24


class KnownMasks:
    """Replaces engine.predict: computes the net, but returns probabilities that show nuclei: random weights would not.

    masks: the blurred masks of the images, float32 (H, W), in their order.
    """

    def __init__(self, masks: list[np.ndarray]):
        self.masks, self.next, self.compute = masks, 0, engine.predict

    def __call__(self, model, batches, runtime):
        for probability in self.compute(model, batches, runtime):
            found = []
            for channel in probability.numpy()[:, 0]:
                mask = self.masks[self.next % len(self.masks)]
                self.next += 1
                found.append(cv2.resize(mask, channel.shape[::-1])[None])
            yield np.stack(found)


def run_demo(bench: Bench) -> None:
    """Add the row of the demo: masks on the plain side, single nuclei on ours."""
    raw, name = bench.raw
    raw_set, source = RawSet(raw), bench.folder / "nuclei_images"
    source.mkdir()
    masks = []
    for img_id in raw_set.ids[: 4 if bench.tiny else IMAGES]:
        sample = compose(raw_set, img_id)
        cv2.imwrite(str(source / f"{img_id}.png"), sample.image)
        masks.append(cv2.GaussianBlur((sample.labels > 0).astype(np.float32), (0, 0), 1))
    flags = ["--input", source, "--resume", write_model(bench), "--device", "cpu", "--output"]
    sides = {}
    for side, more in (("masks", []), ("nuclei", ["--instances"])):
        args = options.parse_demo([*map(str, flags), str(bench.folder / side), *more])

        def segment(args=args) -> None:
            with silence(), replaced((engine, "predict", KnownMasks(masks))):
                demo.main(args)

        segment()
        sides[side] = Side(segment)
    check_same("number of pictures", count(bench.folder / "masks"), count(bench.folder / "nuclei"))
    rate = {side: len(masks) / seconds for side, seconds in medians(sides, bench.args.repeats).items()}
    what = f"demo, {len(masks)} of {name}, masks against --instances"
    bench.add("nuclei", what, "images/s", rate["masks"], rate["nuclei"])


def count(folder: Path) -> int:
    """Return the number of overlays in an output folder of the demo."""
    return len(list((folder / "overlay").glob("*.png")))


def run_windows(bench: Bench) -> None:
    """Add the row of a net on an image that fits into memory: whole on the plain side, by windows on ours."""
    side, tile = (192, 96) if bench.tiny else (1536, 512)
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    model = engine.for_any_size(build_net("UNet", trained=True))
    runtime = init_runtime("cpu")

    def predict(batches):
        yield from (probability.numpy() for probability in engine.predict(model, batches, runtime))

    large = from_pixels(image)
    prepare = tiles.input_function(large, "image", False)
    tiling = tiles.Tiling(tile, 64 if tile > 96 else 32)

    def whole() -> np.ndarray:
        return next(predict([prepare(image)[None]]))[0]

    def by_windows() -> np.ndarray:
        return np.concatenate(list(tiles.probability_strips(large, prepare, predict, tiling)), axis=1)

    check_same("shape by windows", whole().shape, by_windows().shape)
    seconds = medians({"whole": Side(whole), "windows": Side(by_windows)}, bench.args.repeats)
    what = f"UNet on {side}×{side}, whole against windows of {tile}"
    bench.add("nuclei", what, "s", seconds["whole"], seconds["windows"])


def run_split(bench: Bench) -> None:
    """Add the row of finding nuclei: connected regions on the plain side, split nuclei on ours."""
    raw, name = bench.raw
    raw_set = RawSet(raw)
    ids = raw_set.ids[: 4 if bench.tiny else IMAGES]
    masks = [(compose(raw_set, img_id).labels > 0).astype(np.float32) for img_id in ids]
    probabilities = [cv2.GaussianBlur(mask, (0, 0), 1)[None] for mask in masks]
    sides = {
        "regions": Side(
            lambda: [cv2.connectedComponents((p[0] > 0.5).astype(np.uint8), connectivity=8) for p in probabilities]
        ),
        "nuclei": Side(lambda: [find_nuclei(p, SplitSettings()) for p in probabilities]),
    }
    rate = {side: len(ids) / seconds for side, seconds in medians(sides, bench.args.repeats).items()}
    what = f"{len(ids)} of {name}, connected regions against split nuclei"
    bench.add("nuclei", what, "images/s", rate["regions"], rate["nuclei"])


def run(bench: Bench) -> None:
    """Add this part's rows."""
    run_demo(bench)
    run_split(bench)
    run_windows(bench)
