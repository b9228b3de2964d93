"""Tracing some training steps with the device's profiler."""

import contextlib
from pathlib import Path

from runtime.distributed import Runtime


@contextlib.contextmanager
def profile_steps(runtime: Runtime, tool: str, start: int, stop: int, folder: Path):
    """Yield a function to call after each training step; the steps [start, stop) are traced unless `tool` is "False".

    The main process writes its trace into `folder`: that of the NPU's own profiler, or torch.profiler's Chrome trace.
    """
    if tool == "False" or not runtime.is_main:
        yield lambda: None
        return
    profiler, activities = runtime.profiler()
    warmup = min(1, start)  # the step before the first traced one, if there is one
    schedule = profiler.schedule(wait=start - warmup, warmup=warmup, active=stop - start, repeat=1)
    folder.mkdir(parents=True, exist_ok=True)
    earlier = set(folder.rglob("*"))
    handler = profiler.tensorboard_trace_handler(str(folder))
    with profiler.profile(activities=activities, schedule=schedule, on_trace_ready=handler) as profile:
        yield profile.step
    if set(folder.rglob("*")) - earlier:
        print(f"trace: {folder}")
    else:
        print(f"--profiling: no trace, since the run ended before step {start}; lower --start_step")
