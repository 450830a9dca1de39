"""The command line ``sb3-ddpg``: what a user writes -> the arguments of a command. Help and versions end here."""

import contextlib
import io
import os
import platform
import re
import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Annotated, TextIO, get_args

import tyro

from sb3_ddpg_ext import __version__
from sb3_ddpg_ext.arguments import Command

_COLOUR = re.compile(r"\x1b\[[\d;]*m")
COMMANDS = tuple(subcommand.name for _, subcommand in map(get_args, get_args(Command)))


@dataclass(frozen=True)
class Options:
    """DDPG for Stable-Baselines3. `sb3-ddpg COMMAND --help` lists the options of a command, --version the versions."""

    command: Annotated[Command, tyro.conf.arg(name="")]
    traceback: tyro.conf.FlagCreatePairsOff[bool] = False
    """show where an error began, not only the line that says what it is; or set SB3_DDPG_TRACEBACK=1"""

    @property
    def with_traceback(self) -> bool:
        """Whether an error is shown with where it began"""
        return self.traceback or os.environ.get("SB3_DDPG_TRACEBACK", "0") not in ("", "0")


class _Terminal(io.StringIO):
    """Keeps what is written, in the colours and characters of the stream that it stands for."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding

    def isatty(self) -> bool:
        return self._stream.isatty()


def parse(argv: Sequence[str] | None = None) -> Options:
    """
    :param argv: The arguments; those of the process if not given
    :return: What they say
    :raises SystemExit: After the help or the versions, and after a line about arguments that cannot be understood
    """
    args = [*(sys.argv[1:] if argv is None else argv)]
    if args[:1] == ["--version"]:
        sys.stdout.write(f"{versions()}\n")
        raise SystemExit(0)
    out, err = _Terminal(sys.stdout), _Terminal(sys.stderr)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            return _understand(args or ["--help"])
    except SystemExit as end:
        if end.code:
            sys.stderr.write(f"error: {_mistake(args, err.getvalue())}\n")
            raise
        is_help = not args or not {"-h", "--help"}.isdisjoint(args)  # otherwise a script, for a shell to complete words
        (sys.stdout if args else sys.stderr).write(_wrapped(out.getvalue()) if is_help else out.getvalue())
        raise SystemExit(0 if args else 2) from None


def versions() -> str:
    """:return: The versions of this package and of what it stands on, in one line. Imports none of them"""
    packages = ("stable_baselines3", "torch", "gymnasium", "numpy")
    beside = ", ".join(f"{package} {version(package)}" for package in packages)
    return f"sb3_ddpg_ext {__version__} ({beside}, Python {platform.python_version()})"


def _understand(args: Sequence[str]) -> Options:
    # What all commands take stands before or after the command, and is in the help of each
    everywhere = tyro.conf.CascadeSubcommandArgs, tyro.conf.OmitSubcommandPrefixes, tyro.conf.DisallowNone
    return tyro.cli(Options, prog="sb3-ddpg", args=args, config=everywhere)


def _wrapped(text: str) -> str:
    """:return: Tyro's help. What is not in a box there has lines of any length, which a terminal breaks within words"""
    text = text.replace("{" + ",".join(COMMANDS) + "}", "COMMAND")
    columns = shutil.get_terminal_size().columns
    lines = [
        textwrap.fill(line, columns, break_long_words=False) if len(_COLOUR.sub("", line)) > columns else line
        for line in text.splitlines()
    ]
    return "".join(f"{line}\n" for line in lines)


def _mistake(args: Sequence[str], box: str) -> str:
    """
    :param args: Arguments that cannot be understood
    :param box: What tyro says of them: in a box, a title, the message, and after a rule what may help
    :return: What is wrong with them, in one line, with the nearest word where one is misspelt
    """
    from sb3_ddpg_ext.errors import unknown

    command = next((word for word in args if word in COMMANDS), None)
    if command is None:
        misspelt = [word for word in args if not word.startswith("-")]
        return unknown("command", misspelt[0], COMMANDS) if misspelt else f"say a command: {', '.join(COMMANDS)}"
    with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit):
        _understand([command, "--help"])
    options = {*re.findall(r"--[a-z][\w-]*", text.getvalue())}
    given = (word.partition("=")[0].replace("_", "-") for word in args if word.startswith("--"))
    if (misspelt_option := next((option for option in given if option not in options), None)) is not None:
        return unknown("option", misspelt_option, options)
    _, *lines = (line.strip("│╭╮╰╯ ") for line in box.splitlines())
    parts = re.split(r"^[─-]+$", "\n".join(lines), flags=re.MULTILINE)  # without UTF-8, a rule follows the title, too
    message = " ".join(next(filter(str.strip, parts), "").split())
    message = message.removeprefix("Error parsing ").partition(" Got errors:")[0].rstrip(".")
    return f"{message}; sb3-ddpg {command} --help lists the options"
