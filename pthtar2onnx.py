# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Export a trained model to ONNX, check the file, and only then put it in place."""

import options
from runtime import startup

if __name__ == "__main__":  # before torch is imported, so that --help and a mistyped flag are answered at once
    ARGS = startup.parse_flags(options.parse_export)

import json
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

import archs
import engine
import utils
from exporting.bundle import scores_of, write_bundle
from exporting.graph import INPUT, BytesToProbabilities, build_graph
from exporting.half import to_half
from imaging import augment
from imaging.split import has_fixed_split
from imaging.instances import choose_settings
from runtime.distributed import init_runtime
from runtime.errors import InputError
from runtime.files import atomic_write
from runtime.names import one_line
from runtime.settings import apply_recorded_settings, recorded_settings

TOLERANCE = 1e-4  # of logits; with --uint8, of probabilities
HALF_TOLERANCE = 1e-2  # with --fp16, of probabilities


def example_inputs(args: Namespace, channels: int) -> list[Tensor]:
    """Return random inputs, on the scale of prepared images or as bytes; with `--dynamic` a second size."""
    generator = torch.Generator().manual_seed(0)
    sizes = [(args.batch_size, args.input_h, args.input_w)]
    if args.dynamic:  # a file that takes bytes also pads them
        more = (5, 7) if args.uint8 else (archs.STRIDE, 2 * archs.STRIDE)
        sizes.append((args.batch_size + 1, args.input_h + more[0], args.input_w + more[1]))
    if args.uint8:
        return [torch.randint(256, (*size, 3), generator=generator, dtype=torch.uint8) for size in sizes]
    divisor = 255 if args.divide_twice else 1
    return [torch.randn(size[0], channels, *size[1:], generator=generator) / divisor for size in sizes]


@torch.inference_mode()
def expected_outputs(net: nn.Module, example: Tensor, args: Namespace) -> list[np.ndarray]:
    """Return what the file must give: the logits of each head, or probabilities of images prepared as in demo.py."""
    if not args.uint8:
        outputs = net(example)
        return [head.numpy() for head in ([outputs] if isinstance(outputs, Tensor) else outputs)]
    transform = augment.val_transform(*example.shape[1:3], args.normalization)
    images = [augment.to_input(transform(image=image)["image"], args.divide_twice) for image in example.numpy()]
    outputs = engine.Padded(net)(torch.from_numpy(np.stack(images)))
    return [torch.sigmoid(head).numpy() for head in ([outputs] if isinstance(outputs, Tensor) else outputs)]


def largest_difference(content: bytes, examples: list[Tensor], expected: list[list[np.ndarray]], logits: bool) -> float:
    """Return the largest difference of onnxruntime's outputs from the expected ones, over all heads and examples.

    logits: compare the probabilities that belong to these outputs.
    """
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    differences = []
    for example, heads in zip(examples, expected):
        for found, wanted in zip(session.run(None, {INPUT: example.numpy()}), heads, strict=True):
            if logits:
                found, wanted = (torch.sigmoid(torch.from_numpy(values)).numpy() for values in (found, wanted))
            differences.append(np.abs(found - wanted).max())
    return float(max(differences))


def export_checked(net: nn.Module, args: Namespace, metadata: dict[str, str], path: Path) -> tuple[bytes, list[str]]:
    """Return a net's ONNX file and the names of its outputs; raises InputError, which names `path`, if it is wrong."""
    examples = example_inputs(args, net.input_channels)
    expected = [expected_outputs(net, example, args) for example in examples]
    if args.uint8:
        net = BytesToProbabilities(net, args.normalization, args.divide_twice, args.dynamic)
    try:
        graph = build_graph(net, examples[0], args.opset, args.dynamic)
    except (RuntimeError, ValueError) as error:
        raise InputError(f"--opset {args.opset}: torch cannot export to it ({one_line(error)})") from error
    if args.fp16:
        to_half(graph)
    onnx.helper.set_model_props(graph, metadata)
    onnx.checker.check_model(graph, full_check=True)
    content = graph.SerializeToString()
    difference = largest_difference(content, examples, expected, args.fp16 and not args.uint8)
    print(f"largest difference from torch in onnxruntime: {difference:.2e}")
    tolerance = HALF_TOLERANCE if args.fp16 else TOLERANCE
    if not difference <= tolerance:
        raise InputError(
            f"{path}: its export differs from torch by more than {tolerance}; {args.bundle or args.output} is left as "
            f"it was{'; leave out --fp16' if args.fp16 else ''}"
        )
    return content, [output.name for output in graph.graph.output]


def prune(net: nn.Module, level: int, path: Path) -> nn.Module:
    """Return the part of a net that its head `level` needs; raises InputError if it has a single head."""
    try:
        return archs.PrunedNestedUNet(net, level)
    except ValueError:
        raise InputError(
            f"--prune_level {level}: {path} holds a net with a single head; leave the flag out, or train a net with "
            "four (train.py --arch NestedUNet --deep_supervision True)"
        ) from None


def metadata_of(settings: Mapping, thresholds: Mapping[str, float], args: Namespace) -> dict[str, str]:
    """Return what the ONNX file records, as text: settings, tuned thresholds as JSON, and what differs from the net."""
    metadata = {name: str(value) for name, value in settings.items()}
    metadata |= {"instances": json.dumps(thresholds)} if thresholds else {}
    metadata |= {"output": "probability", "normalizes": args.normalization} if args.uint8 else {}
    return metadata | ({"prune_level": str(args.prune_level)} if args.prune_level else {})


def write_file(content: bytes, outputs: list[str], args: Namespace, facts: Mapping, dataset: str) -> None:
    """Write the ONNX file, or a bundle with it; facts: the contents of the bundle's model.json."""
    target = Path(args.bundle or args.output)
    if args.bundle:
        names = {"input": INPUT, "outputs": outputs, "batch_size": None if args.dynamic else args.batch_size}
        model = facts["model"] | {"uint8": args.uint8, "fp16": args.fp16, "opset": args.opset, **names}
        write_bundle(target, content, {**facts, "model": model}, dataset)
    else:
        with atomic_write(target) as partial:
            partial.write_bytes(content)
    sides = ("batch", "height", "width") if args.dynamic else (args.batch_size, args.input_h, args.input_w)
    channels = facts["model"]["input_channels"]
    shape = (*sides, channels) if args.uint8 else (sides[0], channels, *sides[1:])
    kind = "uint8 " if args.uint8 else ""
    axes = "×".join(map(str, shape))
    print(f"{target}: input {INPUT} {kind}{axes}, output {', '.join(outputs)}, opset {args.opset}")


def main(args: Namespace) -> None:
    """Load, export, check, compare, replace the target."""
    path = Path(args.checkpoint) if args.checkpoint else utils.find_model(args.name)
    net, checkpoint = engine.load_model(path, init_runtime("cpu"), any_channels=True, trust=args.trust_checkpoint)
    for flag in ("uint8", "bundle"):
        if vars(args)[flag] and net.input_channels != 3:
            raise InputError(f"--{flag}: the net in {path} takes {net.input_channels} channels, not 3; leave it out")
    description = archs.describe(checkpoint["state_dict"])
    if args.prune_level:
        net = prune(net, args.prune_level, path)
        description["prune_level"] = args.prune_level
    print(f"model: {path}, {', '.join(f'{key} {value}' for key, value in description.items())}")
    recorded = recorded_settings(checkpoint, path, options.RECORDED_FLAGS)
    apply_recorded_settings(args, recorded, options.INPUT_FLAGS)
    settings = {name: (vars(args) if flag.input else recorded)[name] for name, flag in options.EVALUATION_FLAGS.items()}
    if args.crop_diameter and not args.dynamic:
        need = f"{path}: its net needs images scaled to nuclei of {args.crop_diameter:g} pixels, so of all sizes"
        if args.bundle:
            raise InputError(f"{need}; add --dynamic")
        print(f"warning: {need}; add --dynamic if demo.py is to use the file")
    if args.uint8:  # the file normalizes images itself
        del settings["normalization"], settings["divide_twice"]
    tuned = checkpoint.get("instances")
    thresholds = {} if tuned is None else choose_settings(tuned, {}, path)._asdict()
    metadata = metadata_of(settings, thresholds, args)
    if has_fixed_split({}, checkpoint.get("data")):
        metadata["split"] = "fixed"  # without its ids: those who get the file need not know them
    content, outputs = export_checked(net, args, metadata, path)
    facts = {"model": description, "settings": settings, "scores": scores_of(checkpoint)}
    facts |= {"instances": thresholds} if thresholds else {}
    write_file(content, outputs, args, facts, Path(recorded.get("data_path", "")).name or recorded["dataset"])


if __name__ == "__main__":
    startup.run(main, ARGS)
