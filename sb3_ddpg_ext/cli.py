"""The command line ``sb3-ddpg``: what a user writes -> the arguments of a command. ``--help`` ends here."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from sb3_ddpg_ext.arguments import Command


@dataclass(frozen=True)
class Options:
    """DDPG for Stable-Baselines3."""

    command: Annotated[Command, tyro.conf.arg(name="")]
    traceback: tyro.conf.FlagCreatePairsOff[bool] = False
    """show where an error began, not only the line that says what it is; or set SB3_DDPG_TRACEBACK=1"""

    @property
    def with_traceback(self) -> bool:
        """Whether an error is shown with where it began"""
        return self.traceback or os.environ.get("SB3_DDPG_TRACEBACK", "0") not in ("", "0")


def parse(argv: Sequence[str] | None = None) -> Options:
    """
    :param argv: The arguments; those of the process if not given
    :return: What they say
    :raises SystemExit: After the help, and for arguments that cannot be understood
    """
    # What all commands take stands before or after the command, and is in the help of each
    everywhere = tyro.conf.CascadeSubcommandArgs, tyro.conf.OmitSubcommandPrefixes
    return tyro.cli(Options, prog="sb3-ddpg", args=argv, config=everywhere)
