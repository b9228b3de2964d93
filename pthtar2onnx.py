"""Export a trained model to ONNX, check it, and only then put it in place."""

import options
import runtime as rt
import startup
from errors import InputError, one_sentence

if __name__ == "__main__":  # before torch is imported: --help and a mistyped flag are answered at once
    ARGS = options.parse_export()
    startup.require_torch()

import warnings
from argparse import Namespace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

import archs
import engine
import files
import utils

TOLERANCE = 1e-4


def export(model: nn.Module, example: torch.Tensor, path: Path, opset: int, dynamic: bool) -> list[str]:
    """Write the net's graph for inputs like `example` (N, 3, H, W) to `path`; returns the names of its outputs.

    The TorchScript exporter: the newer one needs opset 18, and Ascend's ATC wants a modest one.
    """
    heads = 4 if getattr(model, "deep_supervision", False) else 1
    outputs = [f"output{k}" for k in range(1, heads + 1)]
    axes = {name: {0: "batch", 2: "height", 3: "width"} for name in ["actual_input_1", *outputs]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter announces its successor
        torch.onnx.export(
            model,
            example,
            str(path),
            opset_version=opset,
            input_names=["actual_input_1"],
            output_names=outputs,
            dynamic_axes=axes if dynamic else None,
            dynamo=False,
        )
    return outputs


@torch.inference_mode()
def largest_difference(model: nn.Module, path: Path, examples: list[torch.Tensor]) -> float:
    """The largest difference between torch's and onnxruntime's outputs over all heads and examples."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    differences = []
    for example in examples:
        expected = model(example)
        expected = [expected] if isinstance(expected, torch.Tensor) else expected
        found = session.run(None, {"actual_input_1": example.numpy()})
        differences += [np.abs(a - b.numpy()).max() for a, b in zip(found, expected, strict=True)]
    return float(max(differences))


def main(args: Namespace) -> None:
    """Load, export, check, compare, replace the target."""
    path = Path(args.checkpoint) if args.checkpoint else utils.find_model(args.name)
    model, checkpoint = engine.load_model(path, rt.init("cpu"), any_channels=True, trust=args.trust_checkpoint)
    description = archs.describe(checkpoint["state_dict"])
    print(f"model: {path}, {', '.join(f'{key} {value}' for key, value in description.items())}")

    settings = utils.settings_of(checkpoint, path)

    def example(batch: int, height: int, width: int) -> torch.Tensor:
        # what the net sees of an image: normalised, and mostly divided by 255
        return torch.randn(batch, model.input_channels, height, width, generator=generator) / (
            255 if settings["divide_twice"] else 1
        )

    generator = torch.Generator().manual_seed(0)
    examples = [example(args.batch_size, args.input_h, args.input_w)]
    if args.dynamic:  # another batch size, height and width than the graph was traced with
        examples.append(example(args.batch_size + 1, args.input_h + archs.STRIDE, args.input_w + 2 * archs.STRIDE))
    target = Path(args.output)
    with files.replacing(target) as partial:
        try:
            outputs = export(model, examples[0], partial, args.opset, args.dynamic)
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"--opset {args.opset}: torch cannot export to it ({reason})") from error
        graph = onnx.load(partial)
        # which the file's user has to know
        onnx.helper.set_model_props(graph, utils.preparation_to_text(settings))
        onnx.save(graph, partial)
        onnx.checker.check_model(graph, full_check=True)
        difference = largest_difference(model, partial, examples)
        print(f"largest difference from torch in onnxruntime: {difference:.2e}")
        if not difference <= TOLERANCE:
            raise InputError(
                f"{path}: its export differs from torch by more than {TOLERANCE}; {target} is left as it was"
            )
    shape = "batch×3×height×width" if args.dynamic else "×".join(map(str, examples[0].shape))
    print(f"{target}: input actual_input_1 {shape}, output {', '.join(outputs)}, opset {args.opset}")


if __name__ == "__main__":
    with one_sentence():
        main(ARGS)
