"""The one place that knows the kinds of device: which there are, how to pick one, what to switch on it.

torch is imported inside the functions, so that options.py can show the choices of `--device` at once.
"""

import contextlib
import importlib
import importlib.util
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from errors import InputError, end_quietly

# requirements.txt, by the names they are imported with
PACKAGES = ("torch", "albumentations", "cv2", "numpy", "sklearn", "pandas", "yaml", "tqdm")
PACKAGES += ("matplotlib", "onnx", "onnxruntime")
DEVICES = ("auto", "npu", "gpu", "cuda", "cpu")


@dataclass(frozen=True)
class Runtime:
    """Where this process computes and which of the run's processes it is."""

    device: Any  # torch.device
    device_id: int  # the number in the log lines and result files, also on the CPU
    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """True for the one process that prints, logs and writes."""
        return self.rank == 0

    @property
    def pin_memory(self) -> bool:
        """Page-locked host memory only helps where there is a device to copy to."""
        return self.device.type != "cpu"


def _has_npu(required: bool) -> bool:
    """Is a usable NPU here? Where `required`, raise InputError saying why not."""
    import torch

    try:
        importlib.import_module("torch_npu")  # older torch does not load it by itself
        if torch.npu.is_available():
            return True
        reason = "torch_npu finds no NPU; check `npu-smi info`"
    except ModuleNotFoundError:
        reason = "torch_npu is not installed; see requirements-npu.txt"
    except (ImportError, OSError, RuntimeError) as error:
        reason = f"torch_npu is installed but cannot be used ({error}); source CANN's set_env.sh or uninstall torch_npu"
    if required:
        raise InputError(f"--device npu: {reason}")
    return False


def _has_cuda(required: bool) -> bool:
    import torch

    if torch.cuda.is_available():
        return True
    if required:
        raise InputError("--device cuda: this torch finds no CUDA GPU; use --device auto or cpu")
    return False


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


def init(device: str = "auto", device_id: int = 0) -> Runtime:
    """Pick the device: the named one, or for `auto` the first there is of NPU, CUDA GPU and CPU.

    ASCEND_DEVICE_ID, which schedulers set, beats `device_id`. Raises InputError where the device is not there.
    """
    import torch

    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise InputError("training runs in one process; start it without torchrun")
    try:
        device_id = int(os.environ.get("ASCEND_DEVICE_ID") or device_id)
    except ValueError:
        raise InputError(
            f"ASCEND_DEVICE_ID={os.environ['ASCEND_DEVICE_ID']}: not a device's number; unset it"
        ) from None
    if device == "npu" or (device == "auto" and _has_npu(required=False)):
        _has_npu(required=True)
        kind, count = "npu", torch.npu.device_count()
    elif device in ("gpu", "cuda") or (device == "auto" and _has_cuda(required=False)):
        _has_cuda(required=True)
        kind, count = "cuda", torch.cuda.device_count()
    else:
        return Runtime(torch.device("cpu"), device_id)
    if not 0 <= device_id < count:
        raise InputError(f"--device_id {device_id}: there are {count} {kind} devices, numbered from 0")
    getattr(torch, kind).set_device(device_id)
    return Runtime(torch.device(kind, device_id), device_id)


def configure(runtime: Runtime, *, hf32: bool = False, fp32: bool = False, bin_mode: int = 0) -> None:
    """Set how the device computes: `hf32` and `fp32` for fp32 products, `bin_mode` 1 for precompiled operators."""
    import torch

    kind = runtime.device.type
    if kind == "npu":
        if bin_mode:
            torch.npu.set_compile_mode(jit_compile=False)
        if hf32 or fp32:
            torch.npu.conv.allow_hf32 = torch.npu.matmul.allow_hf32 = hf32
    elif kind == "cuda":
        if hf32 or fp32:
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = hf32
    elif hf32 or fp32 or bin_mode:
        print("--hf32, --fp32 and --bin_mode have no effect on the CPU")


@contextlib.contextmanager
def profiler(runtime: Runtime, wanted: str, start: int, stop: int, folder: Path):
    """Yield a function to call after each training step; with `wanted` not False, steps [start, stop) are traced.

    The trace goes into `folder`: the NPU's own profiler there, torch.profiler's Chrome trace elsewhere.
    """
    if wanted == "False":
        yield lambda: None
        return
    import torch

    module, activities = torch.profiler, [torch.profiler.ProfilerActivity.CPU]
    if runtime.device.type == "npu":
        module = importlib.import_module("torch_npu").profiler
        activities = [module.ProfilerActivity.CPU, module.ProfilerActivity.NPU]
    elif runtime.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    warmup = min(1, start)  # the step before the first traced one, where there is one
    schedule = module.schedule(wait=start - warmup, warmup=warmup, active=stop - start, repeat=1)
    folder.mkdir(parents=True, exist_ok=True)
    handler = module.tensorboard_trace_handler(str(folder))
    with module.profile(activities=activities, schedule=schedule, on_trace_ready=handler) as profile:
        yield profile.step
    if any(folder.iterdir()):
        print(f"trace: {folder}")
    else:
        print(f"--profiling: no trace, since the run ended before step {start}; lower --start_step")
