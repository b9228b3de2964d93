"""Setting up the processes that load data, which only the training process ends."""

import os
import signal
import sys
import threading

from runtime.interrupts import SIGNALS


def start_loader_worker(_worker_id: int) -> None:
    """Prepare a data loading process; for DataLoader's `worker_init_fn`.

    Launchers and schedulers send signals to all processes of a run. The training process then finishes its step, for
    which it needs the batches of its workers, and ends them afterwards by SIGTERM.
    """
    for number in set(SIGNALS) - {signal.SIGTERM}:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_exit_on_sigterm_of, args=(os.getppid(),), daemon=True).start()
    # One thread of the worker hands a batch to the training process while another makes the next batch. By default,
    # the first one may wait 5 ms for its turn.
    sys.setswitchinterval(0.0005)
    sys.excepthook = _report_unless_disconnected


def _exit_on_sigterm_of(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def _report_unless_disconnected(kind: type, error: BaseException, trace) -> None:
    """Do not report that the training process ended while it received a batch; the dataset's errors are sent to it."""
    if not issubclass(kind, (ConnectionError, EOFError)):
        sys.__excepthook__(kind, error, trace)
