# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""What the user can put right, reported in one sentence instead of a traceback; and an orderly exit at a signal."""

import errno
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime import names

# a full, failing or read-only disk, whatever file it was met with
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
SMALL_SHARED_MEMORY = (
    "/dev/shm is too small for the batches of the data loading processes; pass --num_workers 0 or fewer workers, or "
    "start the container with a larger --shm-size"
)
SEE_DEBUG = "--debug shows where"
# what a value of the wrong type or shape in a checkpoint may raise when it is used
MISFIT_ERRORS = (ValueError, KeyError, TypeError, IndexError, AttributeError, RuntimeError, OverflowError)


class InputError(ValueError):
    """A file, flag or value that the user can put right; the text names it and says what to do."""


class DivergedError(InputError):
    """A loss or a weight that is no longer a finite number; the text says which one and when."""

    def __init__(self, what: str):
        super().__init__(
            f"{what}; training stops, the last checkpoint stays. Try a lower --lr, and look at the images and masks"
        )


@contextmanager
def checkpoint_errors(path: Path) -> Iterator[None]:
    """Report an unsuitable value of a checkpoint as an InputError that names the checkpoint."""
    try:
        yield
    except MISFIT_ERRORS as error:
        raise InputError(f"{path} does not fit this run: {names.one_line(error, 300)}") from error


@contextmanager
def report_errors(debug: bool = False):
    """Turn InputError, failures of files and disks, and any error of a data loading process into `[Error] …`, status 1.

    debug: print the traceback before the sentence. Other errors are faults of the program: they pass through, and
    Python prints their traceback.

    SIGINT, SIGTERM and SIGUSR1 raise exceptions, so that cleanup code runs; the exit status is 128 + their number.
    """
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, _exit_by_signal)
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # see startup.parse_flags
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output, such as `head`, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except KeyboardInterrupt:
        print("[Stopped] by Ctrl-C", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        text = _sentence(error, debug)
        if text is None:
            raise
        if isinstance(error, InputError) and os.environ.get("RANK", "0") != "0":
            wait_for_torchrun()  # most mistakes meet every rank, and rank 0 is to report them
        if debug:
            traceback.print_exception(error)
        # only a list of problems has several lines
        sys.exit("[Error] " + "\n  ".join(names.printable(line, 2000) for line in text.split("\n  ")))


def _sentence(error: Exception, debug: bool = False) -> str | None:
    """Return what an error tells the user; None if it is a fault of the program. debug: was --debug given?"""
    text = str(error)
    # a quote may precede `Caught`, because Python prints the text of a KeyError in quotes
    if re.match(r"'?Caught \w+ in DataLoader worker|DataLoader worker \(pid.*\) (is killed|exited)", text):
        return _loader_sentence(text, debug)
    if isinstance(error, InputError):
        return text
    if isinstance(error, OSError) and (error.filename is not None or error.errno in DISK_ERRORS):
        return f"{error.filename or 'writing'}: {error.strerror}"
    return None


def _loader_sentence(text: str, debug: bool) -> str:
    """Return what the error of a data loading process tells the user.

    text: as torch raises it in the training process. It ends with the traceback of the data loading process, unless
    that process was killed. debug: was --debug given? If not, the sentence recommends it.
    """
    if killed := re.match(r"DataLoader worker \(pid\S* (\d+).*?\) (?:is killed by signal: ([\w ]+)|exited)", text):
        if killed[2] == "Bus error":  # the system cannot provide a page of shared memory
            return SMALL_SHARED_MEMORY
        return (
            f"data loading process {killed[1]} was killed ({killed[2] or 'reason unknown'}), perhaps by the system "
            "because memory ran out; lower --num_workers, or --batch_size (train.py: go on with --resume auto)"
        )
    kind = re.search(r"Caught (\w+)", text)[1]
    starts = [found.end() for found in re.finditer(rf"^(?:[\w.]+\.)?{kind}(?:: |$)", text, re.MULTILINE)]
    message = text[starts[-1] if starts else 0 :].strip()
    if kind == InputError.__name__:
        return message
    if "shared memory" in message:
        return SMALL_SHARED_MEMORY
    # dataset.py raises a RuntimeError that names the image and the type of the original error
    message = " ".join(message.split())
    message = message if kind == "RuntimeError" else f"{kind}: {message}"
    return f"a data loading process failed: {message}" + ("" if debug else f"; {SEE_DEBUG}")


def wait_for_torchrun() -> None:
    """Give torchrun time to end this process, so that the rank that caused the failure reports it first."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _ignore_ending_workers()
    time.sleep(3)


def _exit_by_signal(number: int, _frame) -> None:
    _ignore_ending_workers()
    print(f"[Stopped] by {signal.Signals(number).name}", file=sys.stderr)
    sys.exit(128 + number)


def _ignore_ending_workers() -> None:
    """Do not report the end of data loading workers as a failure: the signal may have reached them too."""
    signal.signal(signal.SIGCHLD, lambda *_: None)
