"""Writing the winner to a hyperparameter file, so that nothing else in the file changes."""

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sb3_ddpg_ext.errors import SettingsError
from sb3_ddpg_ext.files import atomic
from sb3_ddpg_ext.settings import read_yaml

_HEAD = "# Settings in RL Zoo's format. In the folder that this one is in, they come before those of sb3_ddpg_ext.\n"


@dataclass(frozen=True)
class WinningEntry:
    """
    The winner as an entry of a hyperparameter file.

    :param env: Id of the environment
    :param values: The settings
    :param comments: The results that it won by, in lines for people
    """

    env: str
    values: Mapping[str, Any]
    comments: tuple[str, ...]

    @property
    def text(self) -> str:
        """The entry in YAML, with its comments"""
        lines = [f"# {line}" for line in self.comments]
        lines += yaml.dump(dict(self.values), Dumper=_Dumper, sort_keys=False).splitlines()
        return "\n".join([f"{self.env}:", *(f"  {line}" for line in lines)])


def write_entry(file: Path, entry: WinningEntry) -> None:
    """
    Write an entry to a hyperparameter file, in the place of the environment's entry or at the end. All other entries
    and comments stay as they are. Besides that, an anchor in the replaced entry moves to the first entry that refers to
    it, all lines get the same line ends, and empty lines at the end are removed.

    :param file: The file, which is made if it is not there
    :param entry: The entry
    :raises SettingsError: If the file is written in a way that does not allow this; it is left as it is
    """
    file = file.resolve()  # of a symbolic link, replace the target
    is_new = not file.exists()
    before, text = ({}, _HEAD) if is_new else (read_yaml(file), f"{file.read_text(encoding='utf-8').rstrip()}\n")
    old = _find(text, entry.env)
    text = f"{text}\n{entry.text}\n" if old is None else _replace(old, entry)
    has_crlf = not is_new and b"\r\n" in file.read_bytes()
    with atomic(file) as partial:
        partial.write_text(text, encoding="utf-8", newline="\r\n" if has_crlf else "\n")
        if not is_new:
            shutil.copymode(file, partial)
        try:
            after: Any = read_yaml(partial)
        except SettingsError:
            after = None
        if after != {**before, entry.env: entry.values} or (old is None) != (entry.env not in before):
            raise SettingsError(f"{file}: {entry.env} cannot be replaced without touching other entries; do it by hand")


def _find(text: str, name: str) -> re.Match[str] | None:
    """The line of a key, and all indented lines after it, with the empty lines between them."""
    body = r"(?P<body>(?:[ \t]+\S.*\n|[ \t]*\n(?=(?:[ \t]*\n)*[ \t]+\S))*)"
    return re.search(rf"^{re.escape(name)}:(?P<rest>.*)\n{body}", text, re.MULTILINE)


def _replace(old: re.Match[str], entry: WinningEntry) -> str:
    following = old.string[old.end() :]
    if anchor := re.match(r"\s*&(\S+)", old["rest"]):  # the first entry that refers to the anchor gets it
        body = re.sub(r"^(?=.)", "  ", old["body"], flags=re.MULTILINE)
        reference = rf"<<: \*{re.escape(anchor[1])}\s*\n"
        following = re.sub(reference, lambda _: f"<<: &{anchor[1]}\n{body}", following, count=1)
    return f"{old.string[: old.start()]}{entry.text}\n{following}"


class _Dumper(yaml.SafeDumper):
    """Writes lists on one line, ``net_arch: [64, 64]``, and no anchors."""


_Dumper.ignore_aliases = lambda *_: True  # type: ignore[method-assign]
_Dumper.add_representer(list, lambda dumper, value: dumper.represent_sequence("tag:yaml.org,2002:seq", value, True))
