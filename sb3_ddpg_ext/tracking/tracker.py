"""What a tool that tracks experiments has to do, and how a resumed run finds its tracked run."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from sb3_ddpg_ext.files import atomic

PROJECT = "sb3_ddpg_ext"
"""Where runs are, if the user's environment names nothing else"""


class Tracker(Protocol):
    """One run in one tool. Each method may raise whatever the disk, the network or a server raise."""

    def start(self, directory: Path, config: Mapping[str, Any]) -> None:
        """
        Begin to track a run, or go on with it if it was tracked before.

        :param directory: The run directory, which keeps the id of the tracked run
        :param config: Settings and arguments of the run, as plain data
        """

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """
        :param numbers: What SB3's logger has, by name
        :param step: Environment steps so far
        """

    def end(self, status: str, final: Mapping[str, float], step: int) -> None:
        """
        Say how the run has ended, and wait until everything is written or sent.

        :param status: finished, interrupted or failed
        :param final: What the last model scores, by name; empty if it was not evaluated
        :param step: Environment steps of the run
        """


def kept(file: Path, make: Callable[[], str]) -> str:
    """
    :param file: The file in a run directory that keeps the id of the tracked run
    :param make: Makes the id of a new one
    :return: The id, the same one each time
    """
    if not file.exists():
        tracked = make()
        with atomic(file) as partial:
            partial.write_text(tracked)
    return file.read_text()
