"""
A directory of checkpoints, each of which is complete or not there.

::

    checkpoint-000007/   model.zip, state.json, arrays.npz, manifest.json
    checkpoint-000008/   ...
    rows/                the replay buffer's rows in segments, which both of them refer to

Files are written under a temporary name, forced to the disk and renamed. The manifest has the size and the SHA-256 of
every other file, those in ``rows/`` as well, so that a checkpoint is either what it was, or is known not to be.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from sb3_ddpg_ext.checkpoint.codec import decode, encode
from sb3_ddpg_ext.files import sync

ROWS = "rows"
FORMAT = 1
"""Of the files. A later version that cannot be read by this one has a higher number."""
_MANIFEST = "manifest.json"
_NAME = re.compile(r"checkpoint-(\d{6,})")
_FILE = re.compile(r"[\w-]+\.\w+")
_CHUNK = 2**22  # bytes


class CheckpointError(ValueError):
    """A checkpoint that cannot be used. One line: what was wrong, and how to mend it."""


class InexactResumeWarning(UserWarning):
    """Training goes on, but not with the same bits as if it had not been interrupted."""


@dataclass(frozen=True)
class FileSum:
    """What a file of a checkpoint must be: its name below the directory of checkpoints or of one, size and SHA-256."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint on the disk: where it is, its number, and its manifest."""

    path: Path
    number: int
    manifest: Mapping[str, Any]

    def segments(self) -> list[dict[str, Any]]:
        """:return: The segments of the replay buffer, oldest first"""
        return [dict(segment) for segment in self.manifest["segments"]]

    def state(self) -> Any:
        """:return: The state, as it was given to :func:`write_state`"""
        with np.load(self.path / "arrays.npz", allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return decode(json.loads((self.path / "state.json").read_text()), arrays)


class HashingFile:
    """
    A file for writing that knows what was written into it.

    :param file: The file
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.size, self._hash = file, 0, hashlib.sha256()

    def write(self, data: Any) -> int:
        """:return: The number of bytes"""
        view = memoryview(data).cast("B")
        self._file.write(view)
        self._hash.update(view)
        self.size += len(view)
        return len(view)

    def sum(self, name: str) -> FileSum:
        """:return: Size and hash of what was written so far"""
        return FileSum(name, self.size, self._hash.hexdigest())


@contextlib.contextmanager
def durable(path: Path) -> Iterator[HashingFile]:
    """
    Write a file completely or not at all, and force it to the disk.

    :param path: Where the file is to appear
    :return: What to write to
    """
    partial = path.with_name(f".partial-{path.name}")
    try:
        with partial.open("wb") as file:
            yield HashingFile(file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_state(directory: Path, state: Any) -> None:
    """
    Write plain data.

    :param directory: A folder, which gets ``state.json`` and ``arrays.npz``
    :param state: The data
    """
    arrays: dict[str, np.ndarray] = {}
    tree = encode(state, arrays)
    (directory / "state.json").write_text(json.dumps(tree))
    with (directory / "arrays.npz").open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


class CheckpointDirectory:
    """
    The checkpoints in one directory, of one run.

    :param path: The directory, which is made if need be
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._good: set[int] = set()  # numbers of checkpoints that were written or read here

    def checkpoints(self) -> list[Path]:
        """:return: All checkpoints, newest first, whether they are intact or not"""
        found = [path for path in self.path.glob("checkpoint-*") if _NAME.fullmatch(path.name) and path.is_dir()]
        return sorted(found, key=_number, reverse=True)

    def next_number(self) -> int:
        """:return: The number of the checkpoint that is written next"""
        paths = self.checkpoints()
        return _number(paths[0]) + 1 if paths else 1

    def write(self, fill: Callable[[Path], object], segments: list[dict[str, Any]], keep: int, step: int) -> Checkpoint:
        """
        Write a checkpoint, and remove those that are not needed any more.

        :param fill: Writes its files into a folder
        :param segments: The segments of the replay buffer that belong to it, which are on the disk
        :param keep: How many to keep
        :param step: Environment steps up to now
        :return: The checkpoint
        :raises OSError: If it cannot be written
        """
        number = self.next_number()
        path = self.path / f"checkpoint-{number:06d}"
        partial = self.path / f".partial-{path.name}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            fill(partial)
            files = [vars(file_sum(each)) for each in sorted(partial.iterdir())]
            for file in files:
                sync(partial / file["name"])
            manifest = {"format": FORMAT, "step": step, "files": files, "segments": segments}
            content = json.dumps(manifest)
            content = json.dumps({"sha256": hashlib.sha256(content.encode()).hexdigest(), "manifest": content})
            (partial / _MANIFEST).write_text(content)
            sync(partial / _MANIFEST)
            sync(partial)
            partial.rename(path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        sync(self.path)
        self._good.add(number)
        self._prune(keep)
        return Checkpoint(path, number, manifest)

    def _prune(self, keep: int) -> None:
        """Remove all but the newest intact checkpoints, and the segments that none of them needs."""
        self._good = set(sorted(self._good)[-keep:])
        needed: set[str] = set()
        for path in self.checkpoints():
            if _number(path) in self._good:
                needed |= {segment["file"]["name"] for segment in _manifest(path)["segments"]}
            else:
                shutil.rmtree(path, ignore_errors=True)
        for path in (self.path / ROWS).iterdir():
            if path.name not in needed:
                path.unlink(missing_ok=True)

    def newest(self) -> tuple[Checkpoint, list[str]]:
        """
        Find the newest checkpoint that is intact.

        :return: The checkpoint, and what is wrong with newer ones
        :raises CheckpointError: If there is none
        """
        damages: list[str] = []
        for path in self.checkpoints():
            try:
                checkpoint = Checkpoint(path, _number(path), self._verified(path))
            except CheckpointError as error:
                damages.append(str(error))
                continue
            self._good = {_number(each) for each in self.checkpoints() if _number(each) <= checkpoint.number}
            return checkpoint, damages
        if damages:
            raise CheckpointError(f"no checkpoint in {self.path} is intact: {'; '.join(damages)}")
        raise CheckpointError(f"there is no checkpoint in {self.path}; model.save_checkpoint writes one")

    def _verified(self, path: Path) -> dict[str, Any]:
        manifest = _manifest(path)
        if manifest["format"] > FORMAT:
            raise CheckpointError(f"{path.name} was written by a later version; update sb3_ddpg_ext")
        expected = [(path, FileSum(**file)) for file in manifest["files"]]
        expected += [(self.path / ROWS, FileSum(**segment["file"])) for segment in manifest["segments"]]
        for folder, file in expected:
            if not _FILE.fullmatch(file.name):
                raise CheckpointError(f"{path.name}: {file.name!r} is no name of one of its files")
            try:
                if file_sum(folder / file.name) != file:
                    raise CheckpointError(f"{path.name}: {file.name} has changed since it was written")
            except OSError as error:
                raise CheckpointError(f"{path.name}: {file.name} cannot be read: {error.strerror}") from error
        return manifest


def has_checkpoints(path: Path) -> bool:
    """:return: Whether there is a checkpoint in a directory, intact or not"""
    return bool(CheckpointDirectory(path).checkpoints())


def file_sum(path: Path) -> FileSum:
    """:return: Size and SHA-256 of a file"""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
        return FileSum(path.name, file.tell(), digest.hexdigest())


def _number(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1])


def _manifest(path: Path) -> dict[str, Any]:
    try:
        outer = json.loads((path / _MANIFEST).read_text())
        content = outer["manifest"]
        if hashlib.sha256(content.encode()).hexdigest() != outer["sha256"]:
            raise CheckpointError(f"{path.name}: {_MANIFEST} has changed since it was written")
        manifest: dict[str, Any] = json.loads(content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path.name}: {_MANIFEST} cannot be read: {error!r}") from error
    return manifest
