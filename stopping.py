"""Ending a run at a signal in good order: after the step that it is in, and with a checkpoint of it."""

import contextlib
import os
import signal

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)


class Interrupted(Exception):
    """The run was asked to stop, and the last step is done."""


class StopRequest:
    """Whether this process was asked to stop, and by which signal."""

    def __init__(self):
        self.signal: int | None = None
        self.torchrun = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None

    def __call__(self) -> bool:
        """Was it asked to, or has the torchrun that would have handed on the signal gone?"""
        return self.signal is not None or self.torchrun not in (None, os.getppid())

    def take(self, number: int, _frame) -> None:
        """To be called at a signal: remember it. A second SIGINT then ends the process at once."""
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        if self.signal is None:
            self.signal = number
            # not by print, which may be what the signal interrupted
            os.write(2, f"[Stopping] by {signal.Signals(number).name}, after this step\n".encode())

    @property
    def exit_code(self) -> int:
        """128 + the signal's number; where another process of the run got the signal, as at SIGTERM."""
        return 128 + (self.signal or signal.SIGTERM)


@contextlib.contextmanager
def on_request():
    """Within it, the signals that ask a run to stop only set the StopRequest that it yields."""
    request = StopRequest()
    heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]  # as nohup and `&` set it
    earlier = {number: signal.signal(number, request.take) for number in heard}
    try:
        yield request
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
