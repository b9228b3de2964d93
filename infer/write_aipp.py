# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Write the AIPP file of an exported network: python infer/write_aipp.py --onnx UNet_npu8p.onnx"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import options
from runtime import startup

if __name__ == "__main__":
    ARGS = startup.parse_flags(options.parse_write_aipp, lambda args: False)

from argparse import Namespace

from exporting.aipp import aipp_text
from infer.network import open_network
from runtime.files import atomic_write


def main(args: Namespace) -> None:
    """Read how the network's input is prepared, and write the file."""
    open_network(args, with_aipp=True)
    with atomic_write(Path(args.output)) as partial:
        partial.write_text(aipp_text(args.input_h, args.input_w, args.divide_twice), encoding="utf-8")
    print(f"{args.output}: for uint8 images in the order BGR, {args.input_h}×{args.input_w}; pass it to infer/atc.sh")


if __name__ == "__main__":
    startup.run(main, ARGS)
