"""test/benchmark.py, part inference: the trained net one image at a time against batches; and the whole demo."""

import copy
import shutil
from collections.abc import Callable
from pathlib import Path

import benchmark_net
import cv2
import numpy as np
import torch
from benchmark_measure import Bench, Goal, Side, build_net, check_same, medians, random_batch, silence
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import amp
import archs
import augment
import demo
import engine
import options
import pictures
import pthtar2onnx
import runtime as rt
from onnx_net import OnnxNet

BATCHES, IMAGES = 2, 64  # of the net alone, of the demo


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


def exported(model: nn.Module, example: Tensor, path: Path) -> nn.Module:
    """The net's export, as `demo.py --onnx` runs it; `path` is the file to write."""
    pthtar2onnx.export(model, example, path, 11, dynamic=True)
    return OnnxNet(path)


def run_net(bench: Bench) -> None:
    """Add the rows of the net alone."""
    size = bench.batch_size
    images, _ = random_batch(BATCHES * size, bench.side)
    model = build_net("UNet", trained=True)
    plain = benchmark_net.Variant("eager, one by one", keeps=False)
    runs = {plain: by_batches(model, images, 1)}
    onnx_net = exported(model, images[:1], bench.folder / "UNet.onnx")
    runs[benchmark_net.Variant(f"onnxruntime, batch {size}")] = by_batches(onnx_net, images, size)
    benchmark_net.say_what_is_left_out(bench.args)
    torch.compiler.reset()  # see benchmark_net.prepare_all
    for variant in benchmark_net.variants(bench.args):
        net, laid_out = benchmark_net.ready(copy.deepcopy(model), images, variant)
        net = amp.halve(net, rt.init("cpu")) if variant.half else net
        variant = variant._replace(name=f"{variant.name}, batch {size}")
        runs[variant] = by_batches(net, laid_out, size)
        if variant.channels_last and not variant.compiled and not variant.half:
            runs[variant._replace(name=f"BatchNorm folded, {variant.name}")] = by_batches(folded(net), laid_out, size)
    expected = runs[plain]()
    for variant, run in runs.items():
        variant.check(f"UNet, {variant.name}", expected, run())
    sides = {variant: Side(run, variant.keeps) for variant, run in runs.items()}
    rate = {variant: len(images) / seconds for variant, seconds in medians(sides, bench.args.repeats).items()}
    for variant in runs:
        ours = None if variant == plain else rate[variant]
        bench.add("inference", f"UNet, {variant.name}", "images/s", rate[plain], ours)
    benchmark_net.add_best(bench, "inference", "UNet", rate, plain, Goal("ratio", least=2))


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


def check_pictures(plain: Path, ours: Path, count: int, pattern: str = "*.*") -> None:
    """End the script where the demo's pictures are not the plain ones but for a grey level and a pixel at the brink."""
    names = sorted(path.relative_to(plain) for path in plain.rglob(pattern))
    check_same("number of the demo's pictures", count, len(names))
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
    paths = sorted(images.iterdir())
    plain_output = bench.folder / "demo_plain"
    sides = {"plain": Side(lambda: plain_demo(paths, checkpoint, plain_output, bench.side), keeps=False)}
    sides["plain"].run()
    ways = {"ours": []} | ({"ours, --amp": ["--amp"]} if bench.tiny or rt.init("cpu").half_is_fast else {})
    for way, more in ways.items():
        output = bench.folder / f"demo_{way}"
        flags = ["--input", images, "--resume", checkpoint, "--output", output, "--device", "cpu", *more]
        args = options.parse_demo([*map(str, flags), "--batch_size", str(bench.batch_size)])

        def ours(args=args) -> None:
            with silence():
                demo.main(args)

        ours()
        # of a net that knows nothing, every pixel is at the brink: in half precision its masks are others
        check_pictures(plain_output, output, *((len(paths), "*.jpg") if more else (3 * len(paths),)))
        sides[way] = Side(ours)
    rate = {way: len(paths) / seconds for way, seconds in medians(sides, bench.args.repeats).items()}
    for way in ways:
        what = f"demo, {len(paths)} images of {name}, {way}"
        bench.add("inference", what, "images/s", rate["plain"], rate[way], Goal("ratio", least=2))


def run(bench: Bench) -> None:
    """Add the part's rows."""
    run_net(bench)
    run_demo(bench)
