"""What surrounds the training loop: device, processes, locked folder and logs of a run; its signals; its profiler."""

import contextlib
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

from runtime.checkpoint import CheckpointSaver
from runtime.distributed import Runtime, init_runtime, redirect_output
from runtime.files import remove_partial_files
from runtime.interrupts import Interrupted, handle_signals, lock_folder
from runtime.state import TrainingState


@contextlib.contextmanager
def start_session(args: Namespace, folder: Path) -> Iterator[Runtime]:
    """Yield the Runtime of a run of train.py in `folder`; raises InputError if device or folder is not available."""
    runtime = init_runtime(args.device, args.device_id, launch=args)
    own_log = folder / f"{'eval_' if args.evaluate else ''}rank{runtime.rank}.log"
    writes_files = runtime.is_main and not args.evaluate
    with runtime, lock_folder(folder) if writes_files else contextlib.nullcontext():
        runtime.wait_for_main()  # no process writes before the main one has the lock
        with redirect_output(runtime.rank, own_log, append=bool(args.resume)):
            if writes_files:
                remove_partial_files(folder)
            runtime.configure(args.hf32, args.fp32, args.bin_mode, args.precision_mode)
            yield runtime


@contextlib.contextmanager
def interruptible(args: Namespace, state: TrainingState, saver: CheckpointSaver):
    """Yield a StopRequest and a function to call after each step; save the run and exit if the loop is interrupted."""
    runtime = state.runtime
    profile = profile_steps(runtime, args.profiling, args.start_step, args.stop_step, saver.folder / "profile")
    with profile as profile_step, handle_signals() as stop:
        try:
            yield stop, profile_step
        except Interrupted:
            saver.save(state)
            runtime.wait_for_main()  # which writes the checkpoint
            done = f"{state.epoch} epochs and {state.step} steps"
            print(f"[Stopped] after {done}, which are saved; --resume auto goes on from there", flush=True)
            sys.exit(stop.exit_code)


@contextlib.contextmanager
def profile_steps(runtime: Runtime, tool: str, start: int, stop: int, folder: Path):
    """Yield a function to call after each step; the main process's steps [start, stop) are traced into `folder`."""
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
