"""
Zip archives from strangers: what they say of themselves is checked before anything of the size that they name is
allocated.
"""

import hashlib
import io
import json
import re
import struct
import zipfile
import zlib
from typing import Any, BinaryIO

from sb3_ddpg_ext.errors import SavedFileError, one_line

MAX_JSON_BYTES = 4 * 2**20  # Python's lists and numbers take about 25 times as much
_FREE_BYTES = 64 * 2**20  # that a compressed file may hold, however small it is
_RATIO = 4  # and how many times its own size beyond that
_NAME = re.compile(r"[A-Za-z0-9_.\-]+(/[A-Za-z0-9_.\-]+)*")
_MAX_NAME = 200
_ENTRY_BYTES = 46 + _MAX_NAME + 100  # of a member in the directory: fixed fields, its name, and extra fields
_DAMAGE = (
    zipfile.BadZipFile,
    EOFError,
    zlib.error,
    NotImplementedError,
    RuntimeError,
    struct.error,
    ValueError,
    OSError,
)


class SafeArchive:
    """
    The members of a zip archive, which is never extracted.

    :param file: The archive, open for reading
    :param what: What it is called in errors
    :param max_members: How many members it may have
    :raises SavedFileError: If it is not a zip archive, is damaged, or asks for more than a file of its size should
    """

    def __init__(self, file: BinaryIO, what: str, max_members: int = 100) -> None:
        self.what = what
        try:
            self.size = file.seek(0, io.SEEK_END)
            self._check_directory(file, max_members)
            file.seek(0)
            self._zip = zipfile.ZipFile(file)
            self._members = self._checked(max_members)
        except SavedFileError:
            raise
        except _DAMAGE as error:
            raise SavedFileError(f"{what} is not a zip archive, or is damaged: {error}") from error

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def names(self) -> list[str]:
        """:return: The names of the members"""
        return list(self._members)

    def size_of(self, name: str) -> int:
        """:return: The bytes of a member"""
        return self._member(name).file_size

    def read(self, name: str) -> bytes:
        """
        Read a member.

        :param name: Its name
        :return: Its content
        :raises SavedFileError: If there is none, or it is damaged
        """
        with self.open(name) as member:
            return self._read(member, name)

    def _read(self, member: BinaryIO, name: str) -> bytes:
        try:
            return member.read()
        except _DAMAGE as error:
            raise SavedFileError(f"{self.what}: {name} is damaged: {error}") from error

    def open(self, name: str) -> BinaryIO:
        """
        Open a member.

        :param name: Its name
        :return: A stream, which ends after the size that the archive's directory gives
        :raises SavedFileError: If there is none, or it is damaged
        """
        try:
            return self._zip.open(self._member(name))  # type: ignore[return-value]
        except _DAMAGE as error:
            raise SavedFileError(f"{self.what}: {name} is damaged: {error}") from error

    def read_json(self, name: str) -> Any:
        """
        Read a member that is JSON.

        :param name: Its name
        :return: Its content
        :raises SavedFileError: If it is not JSON, or too large
        """
        if self.size_of(name) > MAX_JSON_BYTES:
            raise SavedFileError(
                f"{self.what}: {name} has {self.size_of(name)} bytes; at most {MAX_JSON_BYTES} are read"
            )
        return parse_json(self.read(name), f"{self.what}: {name}")

    def _member(self, name: str) -> zipfile.ZipInfo:
        if name not in self._members:
            raise SavedFileError(f"{self.what} has no member {name}")
        return self._members[name]

    def _check_directory(self, file: BinaryIO, max_members: int) -> None:
        """`zipfile` builds an object for each entry of the directory at once, so the directory's size is checked."""
        tail_size = min(self.size, 2**16 + 22)
        file.seek(self.size - tail_size)
        tail = file.read(tail_size)
        end = tail.rfind(b"PK\x05\x06")
        if end < 0 or len(tail) < end + 22:
            raise SavedFileError(f"{self.what} is not a zip archive")
        size = struct.unpack_from("<I", tail, end + 12)[0]
        large = tail.rfind(b"PK\x06\x06", 0, end)  # of 64 bits, which takes precedence if there is a locator
        if end >= 20 and tail[end - 20 : end - 16] == b"PK\x06\x07" and large >= 0 and len(tail) >= large + 48:
            size = max(0 if size == 2**32 - 1 else size, struct.unpack_from("<Q", tail, large + 40)[0])
        if size > max_members * _ENTRY_BYTES:
            raise SavedFileError(f"{self.what} has too many members; at most {max_members} are read")

    def _checked(self, max_members: int) -> dict[str, zipfile.ZipInfo]:
        infos = self._zip.infolist()
        if len(infos) > max_members:
            raise SavedFileError(f"{self.what} has {len(infos)} members; at most {max_members} are read")
        members = {info.filename: info for info in infos}
        if len(members) < len(infos):
            raise SavedFileError(f"{self.what} has two members of the same name")
        end = 0
        for info in sorted(infos, key=lambda info: info.header_offset):
            name = info.filename
            if not _NAME.fullmatch(name) or len(name) > _MAX_NAME or ".." in name.split("/"):
                raise SavedFileError(
                    f"{self.what} has a member with the name {name[:_MAX_NAME]!r}, which is not allowed"
                )
            if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise SavedFileError(f"{self.what}: {name} is encrypted, or compressed in another way than zip's own")
            if info.compress_type == zipfile.ZIP_STORED and info.compress_size != info.file_size:
                raise SavedFileError(f"{self.what}: {name} has two different sizes")
            if info.header_offset < end:
                raise SavedFileError(f"{self.what}: {name} overlaps another member")
            end = info.header_offset + 30 + info.compress_size
        total = sum(info.file_size for info in infos)
        if end > self.size or total > _FREE_BYTES + _RATIO * self.size:
            raise SavedFileError(f"{self.what} claims to hold {total} bytes, too many for a file of {self.size}")
        return members


def reason(error: Exception) -> str:
    """:return: What was wrong with something in a file, in one line that is not too long"""
    message = one_line(error)[:500]
    return f"{message} is missing or unknown" if isinstance(error, KeyError) else message


def check_checksum(content: bytes | memoryview, checksum: object, what: str) -> None:
    """
    :param content: What was read
    :param checksum: Its SHA-256 when it was saved
    :param what: What it is called in errors
    :raises SavedFileError: If that is another one
    """
    if hashlib.sha256(content).hexdigest() != checksum:
        raise SavedFileError(f"{what} is damaged: it has another checksum than when it was saved")


def parse_json(text: bytes, what: str) -> Any:
    """
    Parse JSON strictly: no duplicate keys, no NaN, no deep nesting.

    :param text: UTF-8
    :param what: What it is called in errors
    :return: The content
    :raises SavedFileError: If it is not such JSON
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) < len(pairs):
            raise ValueError("a key appears twice")
        return content

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    if len(text) > MAX_JSON_BYTES:
        raise SavedFileError(f"{what} has {len(text)} bytes; at most {MAX_JSON_BYTES} are read")
    try:
        return json.loads(text.decode(), object_pairs_hook=unique, parse_constant=refuse)
    except RecursionError:
        raise SavedFileError(f"{what} is nested too deeply") from None
    except ValueError as error:
        raise SavedFileError(f"{what} is not valid JSON: {error}") from error
