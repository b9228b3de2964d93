# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""What surrounds the training loop: device, processes, locked folder and logs of a run; signals; profiler; events."""

import contextlib
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path

from runtime.checkpoint import CheckpointSaver
from runtime.distributed import Runtime, init_runtime, redirect_output
from runtime.files import remove_partial_files
from runtime.interrupts import Interrupted, handle_signals, lock_folder
from runtime.state import TrainingState
from runtime.tensorboard import Board, import_writer, open_board, remove_events


@contextlib.contextmanager
def start_session(args: Namespace, folder: Path) -> Iterator[Runtime]:
    """Yield the Runtime of a run of train.py in `folder`; raises InputError if something that it needs is missing."""
    if args.tensorboard:
        import_writer()
    runtime = init_runtime(args.device, args.device_id, launch=args)
    own_log = folder / f"{'eval_' if args.evaluate else ''}rank{runtime.rank}.log"
    writes_files = runtime.is_main and not args.evaluate
    with runtime, lock_folder(folder) if writes_files else contextlib.nullcontext():
        runtime.wait_for_main()  # no process writes before the main one has the lock
        with redirect_output(runtime.rank, own_log, append=bool(args.resume)):
            if writes_files:
                remove_partial_files(folder)
            runtime.configure(args.hf32, args.fp32, args.bin_mode, args.precision_mode, args.deterministic)
            yield runtime


@contextlib.contextmanager
def interruptible(args: Namespace, state: TrainingState, saver: CheckpointSaver, read: Callable[[str], tuple]):
    """Yield a StopRequest, a function to call after each step, and a Board for each epoch.

    Saves the run and exits if the loop is interrupted. At its end, also after an error, what was saved is on the disk.
    read: returns a validation image by its id, see Board.
    """
    runtime, board, events = state.runtime, Board(), saver.folder / "tensorboard"
    if runtime.is_main and not saver.keep_previous:
        remove_events(events)  # of an earlier run of this name
    if runtime.is_main and args.tensorboard:
        board = open_board(events, state.epoch, state.history, read)
    profile = profile_steps(runtime, args.profiling, args.start_step, args.stop_step, saver.folder / "profile")
    with profile as profile_step, contextlib.closing(board), handle_signals() as stop, saver:
        try:
            yield stop, profile_step, board
        except Interrupted:
            saver.save(state)
            saver.wait()
            runtime.wait_for_main()  # whose checkpoint is then on the disk
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
