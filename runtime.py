"""The one place that knows the kinds of device and their collective libraries: picking, joining, switching, leaving.

torch is imported inside the functions, so that options.py can show the choices of `--device` at once.
"""

import contextlib
import importlib.util
import os
import re
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import memory
import ranks
from errors import InputError, stand_back

DEVICES = ("auto", "npu", "gpu", "cuda", "cpu")
BACKENDS = {"npu": "hccl", "cuda": "nccl", "cpu": "gloo"}
# what a collective raises, name or text, when another process has gone or does not answer
LOST_THE_OTHERS = "^Dist[A-Z]|gloo/|gloo::|hccl|HCCL"


@dataclass(frozen=True)
class Later:
    """Numbers that the device has yet to compute and send."""

    numbers: Any  # torch.Tensor on the CPU
    arrived: Any = None  # the device's event, None where there is nothing to wait for

    def read(self) -> list[float]:
        """The numbers, once they have arrived."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.numbers.tolist()


@dataclass(frozen=True)
class Runtime:
    """Where this process computes and which of the run's processes it is; as a context, leaves the others at its end.

    The sums and means below are over the processes, each of which must ask for them; one process gets its own back.
    """

    device: Any  # torch.device
    device_id: int  # the number in the log lines and result files, also on the CPU
    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """True for the one process that logs to the terminal and writes the run's files."""
        return self.rank == 0

    @property
    def accelerated(self) -> bool:
        """True for anything but the CPU."""
        return self.device.type != "cpu"

    @property
    def takes_channels_last(self) -> bool:
        """False for the NPU, which has memory formats of its own."""
        return self.device.type != "npu"

    @property
    def half(self) -> Any:
        """The half-precision torch.dtype that the device is good at."""
        import torch

        return torch.float16 if self.accelerated else torch.bfloat16

    @property
    def half_is_fast(self) -> bool:
        """Are half-precision products faster than fp32's? Of CPUs' only where they multiply bfloat16."""
        import torch

        capabilities = {} if self.accelerated else torch.cpu.get_capabilities()
        return self.accelerated or any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))

    @property
    def saturates(self) -> bool:
        """Does what overflows become the largest number, so that only the device's flag, which must be asked, tells?

        So it is on NPUs in saturation mode, as the first Ascend 910.
        """
        if self.device.type != "npu":
            return False
        import torch_npu

        return not torch_npu.npu.utils.is_support_inf_nan()

    @property
    def lacking_to_compile(self) -> str:
        """What torch.compile needs here and does not find, in words; empty where nothing."""
        if self.device.type == "npu":
            return "torch_npu compiles by other means than torch.compile alone"
        if self.device.type == "cuda":
            there = importlib.util.find_spec("triton") and any(
                map(shutil.which, (os.environ.get("CC", "gcc"), "clang"))
            )
            return "" if there else "on CUDA GPUs it needs triton and a C compiler, gcc or what CC names"
        compiler = os.environ.get("CXX", "g++")
        return "" if shutil.which(compiler) else f"on the CPU it needs a C++ compiler, and {compiler} is not there"

    @property
    def image_format(self) -> Any:
        """The torch.memory_format of images (N, C, H, W) with which nets compute their outputs fastest."""
        import torch

        return torch.contiguous_format if self.accelerated else torch.channels_last

    def adam(self, parameters: Iterable, lr: float, weight_decay: float, decoupled: bool = False):
        """Adam, or with `decoupled` weight decay AdamW, fused where the device has such a one."""
        import torch

        if self.device.type == "npu":
            import torch_npu

            fused_adam = torch_npu.optim.NpuFusedAdamW if decoupled else torch_npu.optim.NpuFusedAdam
            return fused_adam(parameters, lr=lr, weight_decay=weight_decay)
        adam = torch.optim.AdamW if decoupled else torch.optim.Adam
        fused = True if self.device.type == "cuda" else None  # on the CPU torch is to choose
        return adam(parameters, lr=lr, weight_decay=weight_decay, fused=fused)

    def grad_scaler(self, scale: float):
        """A GradScaler that begins with `scale`; the NPU's own knows the flag of a device that `saturates`."""
        if self.device.type == "npu":
            import torch_npu

            return torch_npu.npu.amp.GradScaler(init_scale=scale)
        import torch

        return torch.amp.GradScaler(self.device.type, init_scale=scale)

    def random_state(self):
        """The state of the device's random generator, a tensor on the CPU; None for the CPU, whose is torch's own."""
        import torch

        return torch.get_device_module(self.device).get_rng_state(self.device) if self.accelerated else None

    def set_random_state(self, state) -> None:
        """Put `random_state` back; one of another kind of device does not count."""
        import torch

        if self.accelerated and state is not None:
            torch.get_device_module(self.device).set_rng_state(state, self.device)

    def sum(self, *values) -> list[float]:
        """Each number, a float or a tensor of one, summed over the processes; waits for the device."""
        return self.sum_later(*values).read()

    def sum_later(self, *values) -> "Later":
        """`sum` without waiting for the device: one collective, in float32, since the NPU's library has no float64."""
        import torch

        def placed(value) -> torch.Tensor:
            if isinstance(value, torch.Tensor):
                return value.detach().to(self.device, torch.float32)
            return torch.full((), value, dtype=torch.float32, device=self.device)  # no copy, which would wait

        total = torch.stack([placed(value) for value in values])
        if self.world_size > 1:
            torch.distributed.all_reduce(total)
        return self.fetch(total)

    def fetch(self, numbers) -> "Later":
        """Numbers in a tensor on the device, on their way to the CPU; nothing is waited for until they are read."""
        import torch

        if not self.accelerated:
            return Later(numbers)
        there = numbers.to("cpu", non_blocking=True)
        arrived = torch.get_device_module(self.device).Event()
        arrived.record()
        return Later(there, arrived)

    def average_(self, tensors: Iterable) -> None:
        """Replace floating-point tensors by their means over the processes, in one collective."""
        tensors = list(tensors)
        if self.world_size == 1 or not tensors:
            return
        import torch

        flat = torch.cat([tensor.detach().float().flatten() for tensor in tensors])
        torch.distributed.all_reduce(flat)
        for tensor, mean in zip(tensors, (flat / self.world_size).split([tensor.numel() for tensor in tensors])):
            tensor.copy_(mean.view_as(tensor))

    def gather(self, value) -> list:
        """Every process's `value`, anything that can be pickled, by rank."""
        if self.world_size == 1:
            return [value]
        import torch

        values = [None] * self.world_size
        torch.distributed.all_gather_object(values, value)
        return values

    def from_main(self, value):
        """The main process's `value`, anything that can be pickled, for all of them."""
        if self.world_size == 1:
            return value
        import torch

        values = [value]
        torch.distributed.broadcast_object_list(values, src=0, device=self.device)
        return values[0]

    def __enter__(self) -> "Runtime":
        return self

    def __exit__(self, kind, error, _) -> None:
        if self.world_size == 1:
            return
        # gloo's threads have yet to let go of the last collective's tensors, for which they want Python's lock: one
        # that waits for it when Python ends aborts the process ("terminate called without an active exception")
        time.sleep(0.3)
        if error is None:
            import torch

            torch.distributed.destroy_process_group()
        elif isinstance(error, RuntimeError) and re.search(LOST_THE_OTHERS, f"{type(error).__name__}: {error}"):
            if "RANK" in os.environ:
                stand_back()
            text = " ".join(str(error).split())[:200]
            raise InputError(
                f"rank {self.rank}: another process of the run has ended or does not answer; its own output says why "
                f"({text})"
            ) from error


def init(
    device: str = "auto",
    device_id: int | None = None,
    *,
    rank_id: int = 0,
    num_gpus: int = 1,
    addr: str = "127.0.0.1",
    port: int = 29588,
    dist_backend: str | None = None,
    dist_timeout: float = 600,
    several: bool = False,
) -> Runtime:
    """Pick the device: the named one, or for `auto` the first there is of NPU, CUDA GPU and CPU; and join the others.

    Which of how many processes this is, torchrun's environment says, else `rank_id` and `num_gpus`; only where
    `several` may there be more than one. ASCEND_DEVICE_ID, which schedulers set, beats `device_id`.
    Raises InputError where the device is not there, or the processes do not come together within `dist_timeout` s.
    """
    import torch

    memory.keep_freed()
    place = ranks.find_place(rank_id, num_gpus, addr)
    if not place.alone and not several:
        raise InputError("this script runs in one process; start it without torchrun")
    kind, count = _pick(device)
    if kind != "cpu" and count < place.local_size:
        raise InputError(f"{place.local_size} processes on this host, but {count} {kind} devices; start fewer")
    device_id = _device_id(device_id, place, count)
    if kind != "cpu" and not 0 <= device_id < count:
        raise InputError(f"--device_id {device_id}: there are {count} {kind} devices, numbered from 0")
    if kind == "npu":
        torch.npu.set_device(device_id)
    elif kind == "cuda":
        torch.cuda.set_device(device_id)
    if not place.alone:
        if "OMP_NUM_THREADS" not in os.environ:  # else each of them would use every core
            torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // place.local_size))
        ranks.meet(place, dist_backend or BACKENDS[kind], kind, addr, port, dist_timeout)
    chosen = torch.device("cpu") if kind == "cpu" else torch.device(kind, device_id)
    return Runtime(chosen, device_id, place.rank, place.world_size)


def _device_id(device_id: int | None, place: ranks.Place, count: int) -> int:
    """The number of this process's device; of several, each takes by default the one of its rank on its host."""
    if place.torchrun and not place.alone:
        return place.local_rank
    try:
        given = os.environ.get("ASCEND_DEVICE_ID") or device_id
        return place.local_rank % count if given is None else int(given)
    except ValueError:
        raise InputError(
            f"ASCEND_DEVICE_ID={os.environ['ASCEND_DEVICE_ID']}: not a device's number; unset it"
        ) from None


def _pick(device: str) -> tuple[str, int]:
    """The kind of device and how many of it there are."""
    import torch

    if device == "npu" or (device == "auto" and _has_npu(required=False)):
        _has_npu(required=True)
        return "npu", torch.npu.device_count()
    if device in ("gpu", "cuda") or (device == "auto" and _has_cuda(required=False)):
        _has_cuda(required=True)
        return "cuda", torch.cuda.device_count()
    return "cpu", 1


def _has_npu(required: bool) -> bool:
    """Is a usable NPU here? Where `required`, raise InputError saying why not."""
    import torch

    try:
        import torch_npu  # noqa: F401  # older torch does not load it by itself

        if torch.npu.is_available():
            return True
        reason = "torch_npu finds no NPU; check `npu-smi info`"
    except (ImportError, OSError, RuntimeError) as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "torch_npu":
            if required:
                raise InputError("--device npu: torch_npu is not installed; see requirements-npu.txt") from None
            return False
        reason = f"torch_npu is installed but cannot be used ({error}); source CANN's set_env.sh or uninstall torch_npu"
    if required:
        raise InputError(f"--device npu: {reason}")
    print(f"warning: going on without the NPU: {reason}")
    return False


def _has_cuda(required: bool) -> bool:
    import torch

    if torch.cuda.is_available():
        return True
    if required:
        raise InputError("--device cuda: this torch finds no CUDA GPU; use --device auto or cpu")
    return False


def configure(
    runtime: Runtime,
    *,
    hf32: bool = False,
    fp32: bool = False,
    bin_mode: int = 0,
    precision_mode: str = "allow_mix_precision",
) -> None:
    """Set how the device computes.

    `hf32` and `fp32` leave or switch off the shortened fp32 products of convolutions and matrices, `bin_mode` 1 takes
    precompiled operators, and `precision_mode` must_keep_origin_dtype keeps the NPU from computing fp32 in fp16.
    """
    import torch

    kind = runtime.device.type
    if kind == "npu":
        if bin_mode:
            torch.npu.set_compile_mode(jit_compile=False)
        if precision_mode == "must_keep_origin_dtype":
            torch.npu.set_option({"ACL_PRECISION_MODE": precision_mode})
        if hf32 or fp32:
            torch.npu.conv.allow_hf32 = hf32
            torch.npu.matmul.allow_hf32 = hf32
    elif kind == "cuda":
        if hf32 or fp32:
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = hf32
        if bin_mode:
            print("--bin_mode has no effect on CUDA GPUs")
    elif hf32 or fp32 or bin_mode or precision_mode == "must_keep_origin_dtype":
        print("--hf32, --fp32, --bin_mode and --precision_mode must_keep_origin_dtype have no effect on the CPU")


@contextlib.contextmanager
def profiler(runtime: Runtime, wanted: str, start: int, stop: int, folder: Path):
    """Yield a function to call after each training step; with `wanted` not False, steps [start, stop) are traced.

    The main process's trace goes into `folder`: the NPU's own profiler's, torch.profiler's Chrome trace elsewhere.
    """
    if wanted == "False" or not runtime.is_main:
        yield lambda: None
        return
    if runtime.device.type == "npu":
        import torch_npu.profiler as tool

        activities = [tool.ProfilerActivity.CPU, tool.ProfilerActivity.NPU]
    else:
        import torch.profiler as tool

        activities = list(tool.supported_activities())
    warmup = min(1, start)  # the step before the first traced one, where there is one
    schedule = tool.schedule(wait=start - warmup, warmup=warmup, active=stop - start, repeat=1)
    folder.mkdir(parents=True, exist_ok=True)
    earlier = set(folder.rglob("*"))
    handler = tool.tensorboard_trace_handler(str(folder))
    with tool.profile(activities=activities, schedule=schedule, on_trace_ready=handler) as profile:
        yield profile.step
    if set(folder.rglob("*")) - earlier:
        print(f"trace: {folder}")
    else:
        print(f"--profiling: no trace, since the run ended before step {start}; lower --start_step")
