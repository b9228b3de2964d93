"""A run's folder belongs to one run at a time."""

import contextlib
import errno
import fcntl
import os
import socket
from pathlib import Path

from errors import InputError


@contextlib.contextmanager
def locked(folder: Path):
    """Hold the folder, made if need be, for this process; a dead process holds nothing, however it died.

    Raises InputError saying who has it where another process does, or where the folder cannot be written.
    """
    path = folder / ".lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = _take(path)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error.strerror}") from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()  # while it is still held, so that nobody else's goes
        file.close()
        with contextlib.suppress(OSError):
            os.removedirs(folder)  # where the run came to nothing


def _take(path: Path):
    while True:
        file = path.open("a+", encoding="utf-8", errors="replace")
        try:
            # a POSIX lock: unlike flock's it is not handed down to data loading processes, which may outlive the run
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):  # a file system without locks
                print(f"warning: {path.parent} cannot be locked ({error.strerror}); see that no other run writes there")
                return file
            file.seek(0)
            holder = file.read(200).strip() or "a process"
            file.close()
            raise InputError(
                f"{path.parent}: another run is at work there ({holder}); wait for it, or give this one another --name"
            ) from error
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                file.truncate(0)
                file.write(f"process {os.getpid()} on {socket.gethostname()}")
                file.flush()
                return file
        file.close()  # the one who held it has removed it meanwhile
