"""test/benchmark.py, part inference: the trained net one image at a time against batches; and the whole demo."""

import copy
import shutil
from collections.abc import Callable
from pathlib import Path

import benchmark_net
import cv2
import numpy as np
import onnxruntime
import torch
from benchmark_measure import Bench, Goal, Side, build_net, check_same, medians, random_batch, silence
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import archs
import augment
import demo
import engine
import options
import pictures
import pthtar2onnx
import runtime as rt

TOLERANCE = 1e-4
BATCHES, IMAGES = 2, 64  # of the net alone, of the demo
CHANNELS_LAST = benchmark_net.Variant("channels_last", channels_last=True)


def folded(model: nn.Module) -> nn.Module:
    """A copy whose convolutions have taken in the BatchNorm behind them."""
    model = copy.deepcopy(model)
    for block in model.modules():
        if isinstance(block, archs.VGGBlock):
            for k in (1, 2):
                conv, norm = getattr(block, f"conv{k}"), getattr(block, f"bn{k}")
                setattr(block, f"conv{k}", fuse_conv_bn_eval(conv, norm))
                setattr(block, f"bn{k}", nn.Identity())
    return model


def by_batches(model: nn.Module, images: Tensor, size: int) -> Callable[[], Tensor]:
    """A function that returns the logits of all images, `size` at a time."""

    @torch.inference_mode()
    def run() -> Tensor:
        return torch.cat([model(batch) for batch in images.split(size)])

    return run


def by_onnxruntime(model: nn.Module, images: Tensor, size: int, path: Path) -> Callable[[], Tensor]:
    """The same by onnxruntime, of the net's export, which is written to `path`."""
    pthtar2onnx.export(model, images[:1], path, 11, dynamic=True)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    batches = [batch.numpy() for batch in images.split(size)]
    return lambda: torch.from_numpy(
        np.concatenate([session.run(None, {"actual_input_1": batch})[0] for batch in batches])
    )


def run_net(bench: Bench) -> None:
    """Add the rows of the net alone."""
    size = bench.batch_size
    images, _ = random_batch(BATCHES * size, bench.side)
    model = build_net("UNet", trained=True)
    last, images_last = benchmark_net.ready(copy.deepcopy(model), images, CHANNELS_LAST)
    runs = {
        "eager, one by one": by_batches(model, images, 1),
        f"eager, batch {size}": by_batches(model, images, size),
        f"channels_last, batch {size}": by_batches(last, images_last, size),
        f"BatchNorm folded, channels_last, batch {size}": by_batches(folded(last), images_last, size),
        f"onnxruntime, batch {size}": by_onnxruntime(model, images, size, bench.folder / "UNet.onnx"),
    }
    benchmark_net.say_what_is_left_out(bench.args)
    torch.compiler.reset()  # see benchmark_net.prepare_all
    for variant in benchmark_net.variants(bench.args):
        if variant.compiled:
            compiled, laid_out = benchmark_net.ready(copy.deepcopy(model), images, variant)
            runs[f"{variant.name}, batch {size}"] = by_batches(compiled, laid_out, size)
    plain = next(iter(runs))
    expected = runs[plain]()
    for name, run in runs.items():
        check_same(f"UNet, {name}", expected, run(), TOLERANCE)
    sides = {name: Side(run, keeps=name != plain) for name, run in runs.items()}
    rate = {name: len(images) / seconds for name, seconds in medians(sides, bench.args.repeats).items()}
    for name in runs:
        ours = None if name == plain else rate[name]
        bench.add("inference", f"UNet, {name}", "images/s", rate[plain], ours)
    best = max(rate, key=rate.get)
    bench.add("inference", f"UNet, best: {best}", "images/s", rate[plain], rate[best], Goal("ratio", least=2))


def plain_brighten(image: np.ndarray) -> np.ndarray:
    """pictures.brighten by sorting the pixels, as it once was."""
    low, high = np.percentile(image, (0.5, 99.8))
    if high > 200:
        return image
    gain = min(255 / max(high - low, 1), 20)
    return ((np.arange(256) - low) * gain).clip(0, 255).astype(np.uint8)[image]


@torch.inference_mode()
def plain_demo(paths: list[Path], checkpoint: Path, output: Path, side: int) -> None:
    """One image after the other: read, net, write the demo's three pictures."""
    model, _ = engine.load_model(checkpoint, rt.init("cpu"))
    transform = augment.val_transform(side, side)
    for folder in ("0", "overlay"):
        (output / folder).mkdir(parents=True, exist_ok=True)
    for path in paths:
        image = cv2.imread(str(path))
        inputs = transform(image=image)["image"].astype("float32") / 255
        logits = model(torch.from_numpy(inputs.transpose(2, 0, 1)[None].copy()))
        probability = torch.sigmoid(logits)[0, 0].numpy()
        mask = pictures.to_mask(probability, *image.shape[:2])
        cv2.imwrite(str(output / "0" / f"{path.stem}.jpg"), (probability * 255).astype("uint8"))
        cv2.imwrite(str(output / "0" / f"{path.stem}_mask.png"), mask.astype("uint8") * 255)
        overlay = pictures.overlay(plain_brighten(image), [mask])
        cv2.imwrite(str(output / "overlay" / f"{path.stem}.png"), overlay)


def check_pictures(plain: Path, ours: Path, count: int) -> None:
    """End the script where the demo's pictures are not the plain ones but for a grey level and a pixel at the brink."""
    names = sorted(path.relative_to(plain) for path in plain.rglob("*.*"))
    check_same("number of the demo's pictures", 3 * count, len(names))
    for name in names:
        found = [cv2.imread(str(folder / name)).astype(float) for folder in (plain, ours)]
        check_same(f"picture {name} of the demo, mean difference", abs(found[0] - found[1]).mean(), 0, 0.5)


def run_demo(bench: Bench) -> None:
    """Add the row of the demo, over some prepared images."""
    source, name = bench.data
    images = bench.folder / "demo_images"
    images.mkdir()
    chosen = sorted((source / "images").glob("*.png"))[: 4 if bench.tiny else IMAGES]
    for path in chosen:
        shutil.copy(path, images)
    checkpoint = bench.folder / "model_best.pth.tar"
    config = {"input_h": bench.side, "input_w": bench.side}
    state = build_net("UNet", trained=True).state_dict()
    torch.save({"state_dict": state, "epoch": 1, "config": config}, checkpoint)
    outputs = {side: bench.folder / f"demo_{side}" for side in ("plain", "ours")}
    flags = ["--input", images, "--resume", checkpoint, "--output", outputs["ours"]]
    flags += ["--batch_size", bench.batch_size, "--device", "cpu"]
    args = options.parse_demo([*map(str, flags)])
    paths = sorted(images.iterdir())

    def plain() -> None:
        plain_demo(paths, checkpoint, outputs["plain"], bench.side)

    def ours() -> None:
        with silence():
            demo.main(args)

    plain()
    ours()
    check_pictures(outputs["plain"], outputs["ours"], len(paths))
    found = medians({"plain": Side(plain, keeps=False), "ours": Side(ours)}, bench.args.repeats)
    rate = {side: len(paths) / seconds for side, seconds in found.items()}
    what = f"demo, {len(paths)} images of {name}"
    bench.add("inference", what, "images/s", rate["plain"], rate["ours"], Goal("ratio", least=2))


def run(bench: Bench) -> None:
    """Add the part's rows."""
    run_net(bench)
    run_demo(bench)
