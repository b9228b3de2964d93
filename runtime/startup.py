# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""What a script does before its imports: parse the flags, then check that the packages are installed and load torch."""

import importlib
import importlib.util
import os
import signal
import sys
import traceback
from argparse import Namespace
from collections.abc import Callable

from runtime.errors import report_errors

# the packages of requirements.txt, by the names that they are imported with
PACKAGES = ("torch", "albumentations", "cv2", "numpy", "sklearn", "pandas", "yaml", "tqdm", "filelock")
PACKAGES += ("matplotlib", "onnx", "onnxruntime", "tifffile", "imagecodecs", "PIL", "skimage")


def parse_flags(
    parse: Callable[[], Namespace], needs_torch: Callable[[Namespace], bool] = lambda args: True
) -> Namespace:
    """Parse the command line, then exit with one sentence if a package is missing or torch cannot be loaded.

    needs_torch: tells by the flags if the script imports torch.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # print `\xd7` for what the terminal's encoding lacks, instead of failing
            stream.reconfigure(errors="backslashreplace")
    args = parse()
    # Ctrl-C ends the process without a traceback while the libraries are being imported
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    configure_opencv()
    with_torch = needs_torch(args)
    needed = [name for name in PACKAGES if name != "torch" or with_torch]
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(f"[Error] not installed: {', '.join(missing)}; run `pip install -r requirements.txt`")
    if with_torch:
        _import_torch(args.debug)
    else:  # albumentations imports torch if it is there; an NPU's part of it would only take time, or fail
        os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")
    return args


def run(main: Callable[[Namespace], None], args: Namespace) -> None:
    """Run a script's main function; see report_errors for how its errors are reported, also with `--debug`."""
    with report_errors(args.debug):
        main(args)


def configure_opencv() -> None:
    """Set the variables that OpenCV reads when it is imported; child processes inherit them."""
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # the scripts themselves report a bad file, by its name
    # A file of 70 bytes can claim any size. OpenCV checks this limit before it allocates; its own is ten times as high.
    os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(100_000_000))


def _import_torch(debug: bool) -> None:
    try:
        importlib.import_module("torch")  # which loads torch_npu, if that is installed
    except RuntimeError as error:
        if "torch_npu" not in str(error):
            raise
        if debug:
            traceback.print_exc()
        sys.exit(
            "[Error] torch_npu is installed but cannot be loaded: source CANN's set_env.sh, uninstall torch_npu, or "
            "set TORCH_DEVICE_BACKEND_AUTOLOAD=0 to go on without the NPU"
        )
