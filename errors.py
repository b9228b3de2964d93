"""What the user can mend, told in one sentence instead of a traceback."""

import sys
from contextlib import contextmanager


class InputError(ValueError):
    """A file, flag or value that the user can put right; its text names it and says what to do."""


@contextmanager
def one_sentence():
    """Turn InputError and failures of the disk into `[Error] …` and exit status 1, Ctrl-C into 130."""
    try:
        yield
    except InputError as error:
        # a DataLoader worker wraps its exception's text in a traceback: the sentence is the last line of it
        text = str(error)
        if text.startswith("Caught InputError in DataLoader worker"):
            text = text.rstrip().splitlines()[-1].partition("InputError: ")[2]
        sys.exit(f"[Error] {text}")
    except OSError as error:
        if error.filename is None:  # not about a file of the user's: a fault of ours, to be seen whole
            raise
        sys.exit(f"[Error] {error.filename}: {error.strerror}")
    except KeyboardInterrupt:
        print("[Stopped] by Ctrl-C", file=sys.stderr)
        sys.exit(130)
