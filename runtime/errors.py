"""What the user can put right, reported in one sentence instead of a traceback; and an orderly exit at a signal."""

import errno
import os
import re
import signal
import sys
import time
from contextlib import contextmanager

from runtime import names

# a full, failing or read-only disk, whatever file it was met with
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


class InputError(ValueError):
    """A file, flag or value that the user can put right; the text names it and says what to do."""


class DivergedError(InputError):
    """A loss or a weight that is no longer a finite number; the text says which one and when."""

    def __init__(self, what: str):
        super().__init__(
            f"{what}; training stops, the last checkpoint stays. Try a lower --lr, and look at the images and masks"
        )


@contextmanager
def report_errors():
    """Turn InputError and failures of files and disks into `[Error] …` and exit status 1.

    SIGINT, SIGTERM and SIGUSR1 raise exceptions, so that cleanup code runs; the exit status is 128 + their number.
    """
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, _exit_by_signal)
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # see startup.parse_flags
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
        sys.stdout.flush()
    except InputError as error:
        # a DataLoader worker wraps the text in a traceback, whose last line it is
        text = str(error)
        if text.startswith("Caught InputError in DataLoader worker"):
            text = text.rstrip().splitlines()[-1].partition("InputError: ")[2]
        if os.environ.get("RANK", "0") != "0":  # most mistakes meet every rank, and rank 0 is to report them
            wait_for_torchrun()
        # only a list of problems has several lines
        sys.exit("[Error] " + "\n  ".join(names.printable(line, 2000) for line in text.split("\n  ")))
    except RuntimeError as error:
        killed = re.match(r"DataLoader worker \(pid\S* (\d+).*?\) (?:is killed by signal: ([\w ]+)|exited)", str(error))
        if not killed:
            raise
        sys.exit(
            f"[Error] data loading process {killed[1]} was killed ({killed[2] or 'reason unknown'}), perhaps by the "
            "system for want of memory; lower --num_workers, or --batch_size, and go on with --resume auto"
        )
    except BrokenPipeError:  # the reader of our output, such as `head`, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        if error.filename is None and error.errno not in DISK_ERRORS:  # a fault of the program, shown as a traceback
            raise
        sys.exit(f"[Error] {names.printable(error.filename or 'writing')}: {error.strerror}")
    except KeyboardInterrupt:
        print("[Stopped] by Ctrl-C", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


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
