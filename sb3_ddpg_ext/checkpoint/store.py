"""
A directory of checkpoints, each of which is complete or not there.

::

    checkpoint-000007/   model.zip, state.bin, manifest.json
    checkpoint-000008/   ...
    rows/                the replay buffer's rows in segments, which both of them refer to

A checkpoint is written under a temporary name, forced to the disk together with its rows, and renamed: until then,
nothing refers to new rows. The manifest has the size and the SHA-256 of every other file, those in ``rows/`` as well,
so that a checkpoint is either what it was, or is known not to be. What is read may be from a stranger: it runs no code,
and takes no more memory than its size allows for.
"""

import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from sb3_ddpg_ext.checkpoint.codec import decode, encode, join, split
from sb3_ddpg_ext.files import sync

ROWS = "rows"
FORMAT = 1
"""Of the files. A later version that cannot be read by this one has a higher number."""
_MODEL, _STATE, _MANIFEST = "model.zip", "state.bin", "manifest.json"
_MAX_MANIFEST_BYTES = 2**24
_NAME = re.compile(r"checkpoint-(\d{6,})")
_FILE = re.compile(r"rows-[\d-]+\.npy", re.ASCII)
_PARTIAL = ".partial-"
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
    """
    One checkpoint on the disk.

    :ivar path: Where it is
    :ivar number: Its number
    :ivar manifest: Its manifest
    :ivar damage: What is wrong with segments of the replay buffer, empty if nothing is
    :ivar n_lost: How many segments cannot be used, the oldest ones: all up to the last one that is damaged
    """

    path: Path
    number: int
    manifest: Mapping[str, Any]
    damage: str = ""
    n_lost: int = 0

    def segments(self) -> list[dict[str, Any]]:
        """:return: The segments of the replay buffer that can be used, oldest first"""
        return [dict(segment) for segment in self.manifest["segments"][self.n_lost :]]

    def state(self) -> Any:
        """
        :return: The state, as it was given to :func:`write_state`
        :raises CheckpointError: If it is not one
        """
        try:
            tree, arrays = split((self.path / _STATE).read_bytes())
            return decode(tree, arrays)
        except Exception as error:  # whatever NumPy raises for what are no arrays
            raise CheckpointError(f"{self.path.name}: {_STATE} does not hold a state: {error!r}") from error


def sync_all(paths: Iterable[Path]) -> None:
    """Force files and directories to the disk, all at once, which takes it little longer than one."""
    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(sync, paths):
            pass


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


def write_state(directory: Path, state: Any) -> None:
    """
    Write plain data.

    :param directory: A folder, which gets the file
    :param state: The data
    """
    with (directory / _STATE).open("wb") as file:
        arrays: dict[str, Any] = {}
        file.writelines(join(encode(state, arrays), arrays))


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
        partial = self.path / f"{_PARTIAL}{path.name}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            fill(partial)
            files = [vars(file_sum(each)) for each in sorted(partial.iterdir())]
            manifest = {"format": FORMAT, "step": step, "files": files, "segments": segments}
            content = json.dumps(manifest)
            content = json.dumps({"sha256": hashlib.sha256(content.encode()).hexdigest(), "manifest": content})
            (partial / _MANIFEST).write_text(content)
            sync_all([*self._rows_of(number), self.path / ROWS, *partial.iterdir(), partial])
            partial.rename(path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        sync(self.path)
        self._good.add(number)
        self._prune(keep)
        return Checkpoint(path, number, manifest)

    def discard(self) -> None:
        """Remove the rows of a checkpoint that could not be written: the disk may be full."""
        for path in self._rows_of(self.next_number()):
            path.unlink(missing_ok=True)

    def _rows_of(self, number: int) -> list[Path]:
        return list((self.path / ROWS).glob(f"rows-{number:06d}-*"))

    def _prune(self, keep: int) -> None:
        """
        Remove all but the newest intact checkpoints, the segments that none of them needs, and what a process that was
        killed has left. The new checkpoint is complete, so that what cannot be removed now is left for the next time.
        """
        self._good = set(sorted(self._good)[-keep:])
        needed: set[str] = set()
        for path in self.checkpoints():
            with contextlib.suppress(CheckpointError):
                if _number(path) in self._good:
                    needed |= {segment["file"]["name"] for segment in _manifest(path)["segments"]}
                    continue
            shutil.rmtree(path, ignore_errors=True)
        for path in self.path.glob(f"{_PARTIAL}*"):
            shutil.rmtree(path, ignore_errors=True)
        for path in (self.path / ROWS).iterdir():
            if path.name not in needed:
                with contextlib.suppress(OSError):
                    path.unlink()

    def newest(self) -> tuple[Checkpoint, list[str]]:
        """
        Find the newest checkpoint that is intact. If there is none, since they share segments of the replay buffer,
        find the newest one of which nothing else is damaged.

        :return: The checkpoint, and what is wrong with newer ones
        :raises CheckpointError: If there is none
        """
        damages: list[str] = []
        in_part: tuple[Checkpoint, list[str]] | None = None
        for path in self.checkpoints():
            try:
                checkpoint = self._verified(path)
            except CheckpointError as error:
                damages.append(str(error))
                continue
            if checkpoint.damage:
                in_part = in_part or (checkpoint, [*damages])
                damages.append(checkpoint.damage)
                continue
            return self._found(checkpoint), damages
        if in_part is not None:
            return self._found(in_part[0]), in_part[1]
        if damages:
            raise CheckpointError(f"no checkpoint in {self.path} is intact: {'; '.join(damages)}")
        raise CheckpointError(f"there is no checkpoint in {self.path}; model.save_checkpoint writes one")

    def _found(self, checkpoint: Checkpoint) -> Checkpoint:
        self._good = {number for number in map(_number, self.checkpoints()) if number <= checkpoint.number}
        return checkpoint

    def _verified(self, path: Path) -> Checkpoint:
        manifest = _manifest(path)
        for file in manifest["files"]:
            if problem := _problem(path, file):
                raise CheckpointError(f"{path.name}: {problem}")
        damage, n_lost = "", 0
        for i, segment in enumerate(manifest["segments"]):
            if problem := _problem(self.path / ROWS, segment["file"]):
                damage, n_lost = f"{path.name}: {problem}", i + 1
        return Checkpoint(path, _number(path), manifest, damage, n_lost)


def _problem(folder: Path, expected: dict[str, Any]) -> str | None:
    """:return: What is wrong with a file, None if it is what the manifest says"""
    file = folder / expected["name"]
    try:
        # A pipe would never end
        if file.is_file() and file.stat().st_size == expected["size"] and file_sum(file) == FileSum(**expected):
            return None
        file.stat()
    except OSError as error:
        return f"{file.name} cannot be read: {error.strerror}"
    return f"{file.name} has changed since it was written"


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
    file = path / _MANIFEST
    try:
        if file.exists() and not (file.is_file() and file.stat().st_size <= _MAX_MANIFEST_BYTES):
            raise ValueError("it is no file, or too large")
        outer = json.loads(file.read_text())
        content = outer["manifest"]
        if hashlib.sha256(content.encode()).hexdigest() != outer["sha256"]:
            raise CheckpointError(f"{path.name}: {_MANIFEST} has changed since it was written")
        manifest: dict[str, Any] = json.loads(content)
        if manifest["format"] != FORMAT:
            raise CheckpointError(f"{path.name} was written by another version of sb3_ddpg_ext; use that one")
        _check(manifest)
    except CheckpointError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path.name}: {_MANIFEST} cannot be read: {error!r}") from error
    return manifest


def _check(manifest: dict[str, Any]) -> None:
    """Whoever made the manifest has also made its checksum."""
    if {_MODEL, _STATE} != {file["name"] for file in manifest["files"]}:
        raise ValueError("it does not name the files of a checkpoint")
    for segment in manifest["segments"]:
        if not _FILE.fullmatch(segment["file"]["name"]):
            raise ValueError(f"{segment['file']['name']!r} is no name of one of its files")
    for file in [*manifest["files"], *(segment["file"] for segment in manifest["segments"])]:
        FileSum(**file)
    if type(manifest["step"]) is not int:
        raise ValueError("its step is no number")
