"""Run ais_bench with an .om file on the files of infer/preprocess.py, or onnxruntime in its place."""

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

from infer.files import Inputs, count_heads, new_folder, read_inputs
from infer.stand_in import run_stand_in
from runtime import names
from runtime.errors import InputError
from runtime.files import check_file

SOURCE = "https://gitee.com/ascend/tools/tree/master/ais-bench_workload/tool/ais_bench"


def ais_bench_command(args: Namespace, inputs: Inputs, output: Path) -> list[str]:
    """Return the command that writes <output>/<name of the input>_<number of the output>.bin."""
    return [
        *(sys.executable, "-m", "ais_bench", "--model", args.model, "--input", str(inputs.bins)),
        *("--output", str(output.parent), "--output_dirname", output.name, "--outfmt", "BIN"),
        *("--batchsize", str(args.batch_size), "--device", str(args.device_id)),
    ]


def run_ais_bench(args: Namespace, inputs: Inputs, output: Path) -> None:
    """Run ais_bench; raises InputError if it is not installed, or fails."""
    check_file(Path(args.model))
    missing = [name for name in ("ais_bench", "aclruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"not installed: {' and '.join(missing)}; install the wheels of ais_bench and aclruntime as {SOURCE} says, "
            "or pass --stand_in with an ONNX file to use onnxruntime on the CPU"
        )
    if code := subprocess.run(ais_bench_command(args, inputs, output)).returncode:
        raise InputError(f"ais_bench ended with status {code}; its messages are above")


def main(args: Namespace) -> None:
    """Run the network on all inputs, and check that each has its outputs."""
    inputs, output = read_inputs(Path(args.input)), Path(args.output).absolute()
    start = time.perf_counter()
    with new_folder(output, "--output"):
        if args.stand_in:
            run_stand_in(Path(args.stand_in), inputs, output, args.batch_size)
        else:
            run_ais_bench(args, inputs, output)
        heads = count_heads(output, inputs)
    seconds = time.perf_counter() - start
    images = names.counted(len(inputs.items), "image")
    print(f"{output}: {names.counted(heads, 'output')} for each of {images}, {seconds:.1f} s with reading and writing")


if __name__ == "__main__":
    startup.run(main, ARGS)
