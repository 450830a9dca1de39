"""Files that are there whole or not at all, and directories that one process has to itself."""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

LOCK = ".lock"
_NEARLY_FULL = 2**20  # bytes


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """
    Write a file so that it is there whole or not at all: under a temporary name first, then renamed.

    :param path: Where the file is to appear.
    :return: Where to write it (of the same suffix).
    :raises OSError: If it cannot be written, with its name: the system does not say what did not fit on a full disk
    """
    partial = path.with_name(f".partial-{os.getpid()}-{path.name}")
    try:
        yield partial
        partial.replace(path)
    except OSError as error:
        if error.filename not in (None, str(partial)):  # of another file
            raise
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    except RuntimeError as error:  # in which PyTorch wraps what its writer meets
        if not is_nearly_full(path.parent):
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
    finally:
        partial.unlink(missing_ok=True)


def is_nearly_full(directory: Path) -> bool:
    """:return: Whether hardly anything fits on the disk of a directory any more"""
    return shutil.disk_usage(directory).free < _NEARLY_FULL


@contextlib.contextmanager
def lock(directory: Path, wait: bool) -> Iterator[bool]:
    """
    Exclude all other processes that lock the same directory, until the end of the block or of this process.

    :param directory: The directory, which gets a file for it
    :param wait: Whether to wait for a process that has the lock
    :return: Whether this process has the lock
    """
    file_lock = FileLock(directory / LOCK)
    try:
        file_lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        file_lock.release()
