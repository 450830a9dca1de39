"""What accidents do to files, and strangers."""

import random
import zipfile
from pathlib import Path
from typing import Any


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return Path.touch, (self.canary,)


def members(file: Path) -> dict[str, bytes]:
    """:return: The content of each member of a zip file"""
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def damage(directory: Path, rng: random.Random) -> str:
    """:return: What was done to a random file of a directory"""
    files = sorted(path for path in directory.rglob("*") if path.is_file() and path.stat().st_size)
    path, other = rng.sample(files, 2)
    content = bytearray(path.read_bytes())
    match kind := rng.choice(["truncated", "flipped", "removed", "emptied", "swapped"]):
        case "truncated":
            path.write_bytes(content[: rng.randrange(len(content))])
        case "flipped":
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
            path.write_bytes(content)
        case "removed":
            path.unlink()
        case "emptied":
            path.write_bytes(b"")
        case "swapped":
            path.write_bytes(other.read_bytes())
            other.write_bytes(content)
    return f"{path.relative_to(directory)} {kind}"
