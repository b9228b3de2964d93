# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Run scripts in forks of this process, which has already imported what they need: this saves seconds per start."""

import os
import runpy
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from runtime.errors import report_errors


class Fork:
    """A fork of this process, with those members of subprocess.Popen that the harness needs."""

    def __init__(self, work: Callable[[], object], folder: Path, log: Path):
        """Run `work` in `folder`, with its output in `log`; if it raises an exception, the exit status is 70."""
        self.returncode: int | None = None
        log.write_bytes(b"")  # nobody may read an earlier log
        self.pid = os.fork()
        if not self.pid:
            _run_and_exit(work, folder, log)

    def poll(self) -> int | None:
        """Return the exit status; None if the fork still runs."""
        if self.returncode is None:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if done else None
        return self.returncode

    def wait(self, timeout: float = float("inf")) -> int:
        """Wait for the exit status; raises subprocess.TimeoutExpired after `timeout` seconds."""
        end = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired("a fork", timeout)
            time.sleep(0.005)
        return self.returncode

    def kill(self) -> None:
        """Kill the fork, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()


def _run_and_exit(work: Callable[[], object], folder: Path, log: Path) -> None:
    status = 70
    try:
        os.dup2(os.open(log, os.O_WRONLY | os.O_APPEND), 1)
        os.dup2(1, 2)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
        os.chdir(folder)
        with report_errors():
            work()
        status = 0
    except SystemExit as leaving:
        if isinstance(leaving.code, str):
            print(leaving.code, file=sys.stderr)
        status = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def start_script(script: Path, flags: list[str], folder: Path, log: Path, processes: int = 1) -> Fork:
    """Start a script that trains or prepares, in a process group of its own.

    processes: number of ranks. Without torchrun, nothing ends the others if one of them fails.
    """
    # here, since only forks need them: they take seconds, and each fork would import them anew
    import matplotlib.figure  # noqa: F401
    import torch._dynamo

    import preprocess_dsb2018  # noqa: F401
    import train  # noqa: F401

    torch.set_num_threads(1)  # threads do not survive a fork
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
    shared |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}

    def run_rank(rank: int) -> None:
        if processes > 1:
            os.environ.update(shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        sys.argv = [str(script), *flags]
        runpy.run_path(str(script), run_name="__main__")

    def run_all() -> None:
        os.setsid()
        others = [Fork(lambda rank=rank: run_rank(rank), folder, Path(f"{log}{rank}")) for rank in range(1, processes)]
        run_rank(0)
        statuses = [other.wait() for other in others]  # of all of them, so that none is left
        sys.exit(int(any(statuses)))

    return Fork(run_all, folder, log)
