# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Run an .om file on the files of infer/preprocess.py with ais_bench or pyACL, or onnxruntime in their place."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import options
from runtime import startup

if __name__ == "__main__":
    ARGS = startup.parse_flags(options.parse_infer_om, lambda args: False)

import importlib.util
import subprocess
import time
from argparse import Namespace

from infer.acl_model import AclModel
from infer.batches import run_batches
from infer.files import Inputs, count_heads, new_folder, read_inputs, record_inputs
from infer.stand_in import run_stand_in
from runtime import names
from runtime.errors import InputError
from runtime.files import check_file
from runtime.flags import given_device_id

SOURCE = "https://gitee.com/ascend/tools/tree/master/ais-bench_workload/tool/ais_bench"
TOOLS = {  # the packages that each needs, and how to get them
    "ais_bench": (("ais_bench", "aclruntime"), f"install the wheels of ais_bench and aclruntime as {SOURCE} says"),
    "pyacl": (("acl",), "run `source <CANN>/set_env.sh`, which makes CANN's package acl available"),
}


def ais_bench_command(args: Namespace, inputs: Inputs, output: Path) -> list[str]:
    """Return the command that writes <output>/<name of the input>_<number of the output>.bin."""
    return [
        *(sys.executable, "-m", "ais_bench", "--model", args.model, "--input", str(inputs.bins)),
        *("--output", str(output.parent), "--output_dirname", output.name, "--outfmt", "BIN"),
        *("--batchsize", str(args.batch_size), "--device", str(args.device_id)),
    ]


def choose_tool(choice: str) -> str:
    """Return the tool of `--tool`; auto: the first that is installed. Raises InputError if it is not installed."""
    tools = list(TOOLS) if choice == "auto" else [choice]
    for tool in tools:
        if all(importlib.util.find_spec(module) for module in TOOLS[tool][0]):
            return tool
    remedies = ", or ".join(TOOLS[tool][1] for tool in tools)
    raise InputError(
        f"not installed: {' and '.join(tools)}; {remedies}, or pass --stand_in with an ONNX file to use onnxruntime on "
        "the CPU"
    )


def run_ais_bench(args: Namespace, inputs: Inputs, output: Path) -> None:
    """Run ais_bench; raises InputError if it fails."""
    if code := subprocess.run(ais_bench_command(args, inputs, output)).returncode:
        raise InputError(f"ais_bench ended with status {code}; its messages are above")


def main(args: Namespace) -> None:
    """Run the network on all inputs, and check that each has its outputs."""
    inputs, output = read_inputs(Path(args.input)), Path(args.output).absolute()
    if args.model:
        check_file(Path(args.model))
    tool = "onnxruntime" if args.stand_in else choose_tool(args.tool)
    args.device_id = given_device_id(args.device_id)
    start = time.perf_counter()
    with new_folder(output, "--output"):
        if args.stand_in:
            run_stand_in(Path(args.stand_in), inputs, output, args.batch_size)
        elif tool == "ais_bench":
            run_ais_bench(args, inputs, output)
        else:
            with AclModel(Path(args.model), args.device_id) as model:
                run_batches(inputs, output, args.batch_size, model)
        heads = count_heads(output, inputs)
        record_inputs(output, inputs)
    seconds = time.perf_counter() - start
    images = names.counted(len(inputs.items), "image")
    print(f"{output}: {names.counted(heads, 'output')} for each of {images}, by {tool}")
    print(f"{seconds:.1f} s with reading and writing")


if __name__ == "__main__":
    startup.run(main, ARGS)
