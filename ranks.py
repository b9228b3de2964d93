"""Which of a run's processes this is, how they meet, and where each of them but the first prints."""

import atexit
import contextlib
import os
import re
import sys
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from errors import InputError

ECHOED_LINES = 15  # of a failed process's own output, on the terminal


@dataclass(frozen=True)
class Place:
    """A process's rank of how many, and its rank of how many on its host; ranks count from 0."""

    rank: int
    world_size: int
    local_rank: int
    local_size: int  # 1 where nobody says how many there are
    torchrun: bool  # the environment told all this

    @property
    def alone(self) -> bool:
        """True where there are no others to meet."""
        return self.world_size == 1


def find_place(rank_id: int = 0, num_gpus: int = 1, addr: str = "127.0.0.1") -> Place:
    """Read torchrun's environment; without it, process `rank_id` of `num_gpus`. Raises InputError for no such rank."""
    if not {"RANK", "WORLD_SIZE"} <= os.environ.keys():
        if rank_id >= num_gpus:
            raise InputError(f"--rank_id {rank_id}: with --num_gpus {num_gpus} the ranks are 0 to {num_gpus - 1}")
        all_here = addr in ("127.0.0.1", "localhost", "::1")
        return Place(rank_id, num_gpus, rank_id, num_gpus if all_here else 1, torchrun=False)
    try:
        rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        local_rank = int(os.environ.get("LOCAL_RANK", rank))
        local_size = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    except ValueError:
        raise InputError("RANK, WORLD_SIZE or LOCAL_RANK in the environment is not a number; unset them") from None
    if not 0 <= rank < world_size:
        raise InputError(f"RANK={rank} and WORLD_SIZE={world_size} in the environment do not fit; unset them")
    return Place(rank, world_size, local_rank, local_size, torchrun="LOCAL_RANK" in os.environ)


def meet(place: Place, backend: str, kind: str, addr: str, port: int, seconds: float) -> None:
    """Form the process group: under torchrun where its environment says, else at `addr`:`port`, which rank 0 opens.

    backend, kind: collective library and kind of device; seconds: how long to wait for the others, now and in each
    collective. Raises InputError where the library is not there, the port is taken, or the others do not come.
    """
    import torch.distributed as dist

    capable = [name for name, kinds in dist.Backend.backend_capability.items() if kind in kinds and name != "fake"]
    usable = [name for name in capable if dist.is_backend_available(name)]
    if backend not in usable:
        raise InputError(f"--dist_backend {backend}: for {kind} this torch has {' and '.join(usable) or 'none'}")
    addr = os.environ.get("MASTER_ADDR", addr)
    port = os.environ.get("MASTER_PORT", port)
    if not place.torchrun:
        print(f"rank {place.rank} of {place.world_size}: meeting the others at {addr}:{port}", flush=True)
    try:
        with _cpp_silenced():
            dist.init_process_group(
                backend,
                init_method="env://" if place.torchrun else f"tcp://{addr}:{port}",
                rank=place.rank,
                world_size=place.world_size,
                timeout=timedelta(seconds=seconds),
            )
    except (ValueError, RuntimeError) as error:  # dist.DistError is one of the latter
        text = " ".join(str(error).split())
        if "EADDRINUSE" in text:
            raise InputError(f"--port {port}: taken by another program; give all ranks another one") from error
        raise InputError(
            f"rank {place.rank} did not meet the other ranks of {place.world_size} at {addr}:{port} in {seconds:g} s; "
            f"see that all are started, with the same --addr and --port ({text[:160]})"
        ) from error


@contextlib.contextmanager
def _cpp_silenced():
    """Without what the libraries write past Python: a page of addresses ahead of the error that they raise."""
    sys.stderr.flush()
    terminal, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
        os.close(nowhere)


@contextlib.contextmanager
def own_output(rank: int, path: Path, append: bool = False):
    """Send what a process other than the first prints to the file; if it fails, its last lines go to stderr as well."""
    if rank == 0:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    terminal = os.dup(sys.stderr.fileno())
    sys.stdout.flush()
    with path.open("a" if append else "w", encoding="utf-8") as log:
        for stream in (sys.stdout, sys.stderr):  # their descriptors, since libraries print from C++ as well
            os.dup2(log.fileno(), stream.fileno())
    try:
        yield
    except Exception:
        atexit.register(_echo, rank, path, terminal)  # by then the sentence or the traceback is in the file
        raise


def _echo(rank: int, path: Path, terminal: int) -> None:
    # without the lines that a harness would take for the run's
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    lines = [line for line in lines if not re.search("FPS|AVG|Epoch:|Test", line)][-ECHOED_LINES:]
    os.write(terminal, "".join(f"[rank {rank}] {line}\n" for line in lines).encode())
