"""What the scripts ask for before their imports: that the packages are installed and torch can be loaded."""

import importlib
import importlib.util
import os
import sys

from errors import end_quietly

# requirements.txt, by the names they are imported with
PACKAGES = ("torch", "albumentations", "cv2", "numpy", "sklearn", "pandas", "yaml", "tqdm")
PACKAGES += ("matplotlib", "onnx", "onnxruntime")


def require_packages() -> None:
    """End with one sentence where a package of requirements.txt is not installed. For scripts, before their imports."""
    end_quietly()
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # a bad file is ours to tell, by its name
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
