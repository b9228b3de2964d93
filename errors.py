"""What the user can mend, told in one sentence instead of a traceback; and an orderly end at a signal."""

import errno
import os
import re
import signal
import sys
import time
from contextlib import contextmanager

import names

# a full, failing or read-only disk, whatever file it was met with
DISK_TROUBLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


class InputError(ValueError):
    """A file, flag or value that the user can put right; its text names it and says what to do."""


@contextmanager
def one_sentence():
    """Turn InputError and failures of files and disks into `[Error] …` and exit status 1.

    SIGINT ends with 130, SIGTERM with 143 and SIGUSR1 with 138, all by way of an exception, so that nothing half
    written stays; while a run trains, stopping.on_request has them instead.
    """
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, _leave)
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # see end_quietly
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
        sys.stdout.flush()
    except InputError as error:
        # a DataLoader worker wraps its exception's text in a traceback: the sentence is the last line of it
        text = str(error)
        if text.startswith("Caught InputError in DataLoader worker"):
            text = text.rstrip().splitlines()[-1].partition("InputError: ")[2]
        if os.environ.get("RANK", "0") != "0":  # a mistake mostly meets every rank: the first tells it
            stand_back()
        # a list of problems is the only text of several lines
        sys.exit("[Error] " + "\n  ".join(names.shown(line, 2000) for line in text.split("\n  ")))
    except RuntimeError as error:
        killed = re.match(r"DataLoader worker \(pid\S* (\d+).*?\) (?:is killed by signal: ([\w ]+)|exited)", str(error))
        if not killed:
            raise
        sys.exit(
            f"[Error] data loading process {killed[1]} was killed ({killed[2] or 'no word why'}), perhaps by the "
            "system for want of memory; lower --num_workers, or --batch_size, and go on with --resume auto"
        )
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        if error.filename is None and error.errno not in DISK_TROUBLE:  # not the user's: a fault of ours, shown whole
            raise
        sys.exit(f"[Error] {names.shown(error.filename or 'writing')}: {error.strerror}")
    except KeyboardInterrupt:
        print("[Stopped] by Ctrl-C", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


def stand_back() -> None:
    """Wait for torchrun to end this process, so that the rank whose fault it is speaks first and is the one named."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _expect_workers_to_end()
    time.sleep(3)


def _leave(number: int, _frame) -> None:
    _expect_workers_to_end()
    print(f"[Stopped] by {signal.Signals(number).name}", file=sys.stderr)
    sys.exit(128 + number)


def _expect_workers_to_end() -> None:
    """The signal may have met the data loader's workers too, whose end it would report as a failure."""
    signal.signal(signal.SIGCHLD, lambda *_: None)


def end_quietly() -> None:
    """Let Ctrl-C end the process without a traceback while the libraries are still being imported."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
