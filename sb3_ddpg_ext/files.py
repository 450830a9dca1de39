"""Files that are written completely or not at all, and locks that only one process can have."""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from sb3_ddpg_ext.errors import SettingsError

LOCK = ".lock"
_NEARLY_FULL = 2**20  # bytes


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """
    Write a file completely or not at all, also if the power fails: under a temporary name first, which is forced to the
    disk and then renamed.

    :param path: Where the file is to appear.
    :return: Where to write it (of the same suffix).
    :raises OSError: If it cannot be written. It has the file's name, which the system leaves out on a full disk
    """
    partial = path.with_name(f".partial-{os.getpid()}-{path.name}")
    try:
        yield partial
        sync(partial)  # the new name could reach the disk before the content does
        partial.replace(path)
        sync(path.parent)
    except OSError as error:
        if error.filename not in (None, str(partial)):  # of another file
            raise
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    except RuntimeError as error:  # PyTorch raises this one in place of an OSError
        if not is_nearly_full(path.parent):
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
    finally:
        partial.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Force a file or a directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_partial(directory: Path) -> None:
    """
    Remove what a process has left that was killed in :func:`atomic`.

    :param directory: A directory in which nobody writes at the moment, with those inside of it
    """
    for path in directory.rglob(".partial-*"):
        if path.is_file():
            path.unlink(missing_ok=True)


def make_directory(directory: Path, option: str = "--log-dir") -> None:
    """
    Make a directory for results, if there is none.

    :param directory: The directory
    :param option: The option that names it
    :raises SettingsError: If it cannot be made
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"cannot write to {directory}: {error.strerror}; choose another {option}") from error


def is_nearly_full(directory: Path) -> bool:
    """:return: Whether the disk of a directory is full, or nearly so"""
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
