"""What the scripts ask for before their imports: that the packages are installed and torch can be loaded."""

import importlib
import importlib.util
import os
import sys

from errors import end_quietly

# requirements.txt, by the names they are imported with
PACKAGES = ("torch", "albumentations", "cv2", "numpy", "sklearn", "pandas", "yaml", "tqdm")
PACKAGES += ("matplotlib", "onnx", "onnxruntime")


def prepare_opencv() -> None:
    """Set what OpenCV, once it is loaded, reads from the environment; processes that are started inherit it."""
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # a bad file is ours to tell, by its name
    # a file of 70 bytes can claim any size; OpenCV looks before it takes memory, but allows ten times as much
    os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(100_000_000))


def require_packages() -> None:
    """End with one sentence where a package of requirements.txt is not installed. For scripts, before their imports."""
    end_quietly()
    prepare_opencv()
    lacking = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if lacking:
        sys.exit(f"[Error] not installed: {', '.join(lacking)}; run `pip install -r requirements.txt`")


def require_torch() -> None:
    """The same, and import torch: one sentence where torch_npu, which torch loads by itself, is in the way."""
    require_packages()
    try:
        importlib.import_module("torch")
    except RuntimeError as error:
        if "torch_npu" not in str(error):
            raise
        sys.exit(
            "[Error] torch_npu is installed but cannot be loaded: source CANN's set_env.sh, uninstall torch_npu, or "
            "set TORCH_DEVICE_BACKEND_AUTOLOAD=0 to go on without the NPU"
        )
