"""Export a trained model to ONNX, check the file, and only then put it in place."""

import options
from runtime import startup

if __name__ == "__main__":  # before torch is imported, so that --help and a mistyped flag are answered at once
    ARGS = startup.parse_flags(options.parse_export)

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
import utils
from runtime.distributed import init_runtime
from runtime.errors import InputError
from runtime.files import atomic_write
from runtime.names import one_line
from runtime.settings import apply_recorded_settings, recorded_settings

TOLERANCE = 1e-4


def export(model: nn.Module, example: torch.Tensor, path: Path, opset: int, dynamic: bool) -> list[str]:
    """Write the net's graph for inputs like `example` (N, 3, H, W) to `path`; returns the names of its outputs."""
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
            dynamo=False,  # the newer exporter needs opset 18, and Ascend's ATC needs a lower one
        )
    return outputs


@torch.inference_mode()
def largest_difference(model: nn.Module, path: Path, examples: list[torch.Tensor]) -> float:
    """Return the largest difference between torch's and onnxruntime's outputs over all heads and examples."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    differences = []
    for example in examples:
        expected = model(example)
        expected = [expected] if isinstance(expected, torch.Tensor) else expected
        found = session.run(None, {"actual_input_1": example.numpy()})
        differences += [np.abs(a - b.numpy()).max() for a, b in zip(found, expected, strict=True)]
    return float(max(differences))


def example_inputs(args: Namespace, channels: int) -> list[torch.Tensor]:
    """Return random inputs (N, channels, H, W) on the scale of prepared images; with `--dynamic` a second size."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(args.batch_size, channels, args.input_h, args.input_w)]
    if args.dynamic:
        shapes.append((args.batch_size + 1, channels, args.input_h + archs.STRIDE, args.input_w + 2 * archs.STRIDE))
    return [torch.randn(shape, generator=generator) / (255 if args.divide_twice else 1) for shape in shapes]


def write_checked(model: nn.Module, args: Namespace, metadata: dict[str, str], source: Path) -> None:
    """Export the model with its metadata to `--output`; raises InputError, and keeps the old file, if it is wrong."""
    examples, target = example_inputs(args, model.input_channels), Path(args.output)
    with atomic_write(target) as partial:
        try:
            outputs = export(model, examples[0], partial, args.opset, args.dynamic)
        except (RuntimeError, ValueError) as error:
            raise InputError(f"--opset {args.opset}: torch cannot export to it ({one_line(error)})") from error
        graph = onnx.load(partial)
        onnx.helper.set_model_props(graph, metadata)
        onnx.save(graph, partial)
        onnx.checker.check_model(graph, full_check=True)
        difference = largest_difference(model, partial, examples)
        print(f"largest difference from torch in onnxruntime: {difference:.2e}")
        if not difference <= TOLERANCE:
            raise InputError(
                f"{source}: its export differs from torch by more than {TOLERANCE}; {target} is left as it was"
            )
    shape = "batch×3×height×width" if args.dynamic else "×".join(map(str, examples[0].shape))
    print(f"{target}: input actual_input_1 {shape}, output {', '.join(outputs)}, opset {args.opset}")


def main(args: Namespace) -> None:
    """Load, export, check, compare, replace the target."""
    path = Path(args.checkpoint) if args.checkpoint else utils.find_model(args.name)
    model, checkpoint = engine.load_model(path, init_runtime("cpu"), any_channels=True, trust=args.trust_checkpoint)
    description = archs.describe(checkpoint["state_dict"])
    print(f"model: {path}, {', '.join(f'{key} {value}' for key, value in description.items())}")
    settings = recorded_settings(checkpoint, path, options.RECORDED_FLAGS)
    apply_recorded_settings(args, settings, options.INPUT_FLAGS)
    settings |= {name: vars(args)[name] for name in options.INPUT_FLAGS}
    metadata = {name: str(settings[name]) for name in options.EVALUATION_FLAGS}
    write_checked(model, args, metadata, path)


if __name__ == "__main__":
    startup.run(main, ARGS)
