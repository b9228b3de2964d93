# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Part inference of benchmarks/run.py: a net on single images against batches, and the whole demo."""

import copy
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import archs
import demo
import engine
import options
from benchmarks.measure import Bench, Goal, Side, build_net, check_same, medians, random_batch, silence
from benchmarks.net import Variant, add_best, apply_layout, report_omitted, usable_variants
from exporting.graph import build_graph
from imaging import augment, drawing
from runtime.distributed import init_runtime
from runtime.onnx_model import OnnxModel
from runtime.precision_levels import to_half

BATCHES, IMAGES = 2, 64  # of the net alone, of the demo


def fold_batch_norm(model: nn.Module) -> nn.Module:
    """Return a copy of a net in evaluation mode, with BatchNorm folded into the convolutions before it."""
    model = copy.deepcopy(model)
    for block in model.modules():
        if isinstance(block, archs.VGGBlock):
            for k in (1, 2):
                conv, norm = getattr(block, f"conv{k}"), getattr(block, f"bn{k}")
                setattr(block, f"conv{k}", fuse_conv_bn_eval(conv, norm))
                setattr(block, f"bn{k}", nn.Identity())
    return model


def by_batches(model: nn.Module, images: Tensor, size: int) -> Callable[[], Tensor]:
    """Return a function that returns the logits of all images, computed `size` at a time."""

    @torch.inference_mode()
    def run() -> Tensor:
        return torch.cat([model(batch) for batch in images.split(size)])

    return run


def export_net(model: nn.Module, example: Tensor, path: Path) -> nn.Module:
    """Export a net to `path`; returns the export as `demo.py --onnx` runs it."""
    export = OnnxModel(path, build_graph(model, example, 11, dynamic=True).SerializeToString())
    export.set_size(*example.shape[2:], archs.STRIDE)
    return engine.ExportedNet(export)


def run_net(bench: Bench) -> None:
    """Add the rows of the net alone."""
    size = bench.batch_size
    images, _ = random_batch(BATCHES * size, bench.side)
    model = build_net("UNet", trained=True)
    plain = Variant("one image at a time", keep_memory=False)
    runs = {plain: by_batches(model, images, 1)}
    export = export_net(model, images[:1], bench.folder / "UNet.onnx")
    runs[Variant(f"onnxruntime, batch {size}")] = by_batches(export, images, size)
    report_omitted(bench.args)
    for variant in usable_variants(bench.args):
        net, own_images = apply_layout(copy.deepcopy(model), images, variant)
        net = to_half(net, init_runtime("cpu")) if variant.half else net
        variant = variant._replace(name=f"{variant.name}, batch {size}")
        runs[variant] = by_batches(net, own_images, size)
        if variant.channels_last and not variant.half:
            folded = variant._replace(name=f"BatchNorm folded, {variant.name}")
            runs[folded] = by_batches(fold_batch_norm(net), own_images, size)
    expected = runs[plain]()
    for variant, run in runs.items():
        variant.check(f"UNet, {variant.name}", expected, run())
    sides = {variant: Side(run, variant.keep_memory) for variant, run in runs.items()}
    rate = {variant: len(images) / seconds for variant, seconds in medians(sides, bench.args.repeats).items()}
    for variant in runs:
        ours = None if variant == plain else rate[variant]
        bench.add("inference", f"UNet, {variant.name}", "images/s", rate[plain], ours)
    add_best(bench, "inference", "UNet", rate, plain, Goal("ratio", least=2))


def plain_brighten(image: np.ndarray) -> np.ndarray:
    """Do what drawing.brighten does, without its look-up table."""
    low, high = np.percentile(image, (0.5, 99.8))
    if high > 200:
        return image
    gain = min(255 / max(high - low, 1), 20)
    return ((np.arange(256) - low) * gain).clip(0, 255).astype(np.uint8)[image]


@torch.inference_mode()
def plain_demo(paths: list[Path], checkpoint: Path, output: Path, side: int) -> None:
    """Read, segment and write the demo's three pictures, one image after the other."""
    model, _ = engine.load_model(checkpoint, init_runtime("cpu"))
    transform = augment.val_transform(side, side)
    for folder in ("0", "overlay"):
        (output / folder).mkdir(parents=True, exist_ok=True)
    for path in paths:
        image = cv2.imread(str(path))
        inputs = transform(image=image)["image"].astype("float32") / 255
        logits = model(torch.from_numpy(inputs.transpose(2, 0, 1)[None].copy()))
        probability = torch.sigmoid(logits)[0, 0].numpy()
        mask = drawing.to_mask(probability, *image.shape[:2])
        cv2.imwrite(str(output / "0" / f"{path.stem}.jpg"), (probability * 255).astype("uint8"))
        cv2.imwrite(str(output / "0" / f"{path.stem}_mask.png"), mask.astype("uint8") * 255)
        overlay = drawing.overlay(plain_brighten(image), [mask])
        cv2.imwrite(str(output / "overlay" / f"{path.stem}.png"), overlay)


def check_pictures(plain: Path, ours: Path, count: int, pattern: str = "*.*") -> None:
    """End the benchmark if the demo's pictures differ from the plain ones by more than half a gray level on average."""
    names = sorted(path.relative_to(plain) for path in plain.rglob(pattern))
    check_same("number of the demo's pictures", count, len(names))
    for name in names:
        found = [cv2.imread(str(folder / name)).astype(float) for folder in (plain, ours)]
        check_same(f"picture {name} of the demo, mean difference", abs(found[0] - found[1]).mean(), 0, 0.5)


def write_model(bench: Bench) -> Path:
    """Write a checkpoint of a UNet with random weights; returns its path."""
    path = bench.folder / "model_best.pth.tar"
    config = {"input_h": bench.side, "input_w": bench.side}
    state = build_net("UNet", trained=True).state_dict()
    torch.save({"state_dict": state, "epoch": 1, "config": config}, path)
    return path


def run_demo(bench: Bench) -> None:
    """Add the rows of the demo, over some prepared images."""
    source, name = bench.data
    images, checkpoint = bench.folder / "demo_images", write_model(bench)
    images.mkdir()
    for path in sorted((source / "images").glob("*.png"))[: 4 if bench.tiny else IMAGES]:
        shutil.copy(path, images)
    paths = sorted(images.iterdir())
    plain_output = bench.folder / "demo_plain"
    sides = {"plain": Side(lambda: plain_demo(paths, checkpoint, plain_output, bench.side), keep_memory=False)}
    sides["plain"].run()
    more_flags = {"ours": []}
    if bench.tiny or init_runtime("cpu").half_is_fast:
        more_flags["ours, --amp"] = ["--amp"]
    for side, more in more_flags.items():
        output = bench.folder / f"demo_{side}"
        flags = ["--input", images, "--resume", checkpoint, "--output", output, "--device", "cpu", *more]
        args = options.parse_demo([*map(str, flags), "--batch_size", str(bench.batch_size)])

        def ours(args=args) -> None:
            with silence():
                demo.main(args)

        ours()
        # With random weights, probabilities are close to the threshold. So in half precision the masks differ, and only
        # the probabilities (*.jpg) can be compared.
        check_pictures(plain_output, output, *((len(paths), "*.jpg") if more else (3 * len(paths),)))
        sides[side] = Side(ours)
    rate = {side: len(paths) / seconds for side, seconds in medians(sides, bench.args.repeats).items()}
    for side in more_flags:
        what = f"demo, {len(paths)} images of {name}, {side}"
        bench.add("inference", what, "images/s", rate["plain"], rate[side], Goal("ratio", least=2))


def run(bench: Bench) -> None:
    """Add this part's rows."""
    run_net(bench)
    run_demo(bench)
