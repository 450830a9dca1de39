"""Errors, and their messages: one line that says what was wrong, what was expected and how to mend it."""

import errno
import traceback
from collections.abc import Collection
from difflib import get_close_matches
from importlib.util import find_spec
from typing import Any, TypeGuard

import numpy as np
from gymnasium import spaces


class SettingsError(ValueError):
    """A setting that cannot be used. One line: what was wrong, what was expected, how to mend it."""


class NonFiniteError(FloatingPointError, ValueError):
    """
    A number that is NaN or infinite where training needs finite ones.

    It is a ``ValueError`` as well, since RL Zoo and many Optuna examples catch that one around ``learn()`` to prune a
    trial that diverges.
    """


class SavedFileError(ValueError):
    """A saved file that is damaged, or that does not hold what it should. One line, with the file and what is wrong."""


class UntrustedFileError(SavedFileError):
    """A saved file that could only be loaded by running code from it, which nobody has allowed."""


class FaultyEnvironmentError(Exception):
    """
    An error in an environment, which its author has to mend.

    :param name: What the environment is called
    :param index: Its index in the vectorized environment
    :param when: At which step, and at which line of its code if that is known
    :param what: What was wrong, and what was expected; or what was raised in it
    :param trace: The traceback of what was raised in it
    """

    def __init__(self, name: str, index: int, when: str, what: str, trace: str = "") -> None:
        super().__init__(name, index, when, what, trace)  # pickled as it was made, for it comes from other processes
        self.name, self.index, self.when, self.what, self.trace = name, index, when, what, trace

    @property
    def where(self) -> str:
        """Which environment, and when"""
        return f"{self.name} (index {self.index}), {self.when}"

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


def require(module: str, extra: str) -> None:
    """
    Check that an optional package is installed.

    :param module: What will be imported
    :param extra: The extra of this package that brings it
    :raises SettingsError: With the line that installs it
    """
    if find_spec(module) is None:
        raise SettingsError(f"{module} is not installed: pip install 'sb3_ddpg_ext[{extra}]'")


def describe(error: BaseException) -> str:
    """:return: Class and message of an error, in one line. Of one in an environment, those of the original error"""
    if isinstance(error, FaultyEnvironmentError):
        return error.what
    name = FloatingPointError.__name__ if isinstance(error, NonFiniteError) else type(error).__name__
    return f"{name}: {one_line(error)}" if str(error).strip() else name


def trace(error: BaseException) -> str:
    """:return: The traceback of an error. Of one in an environment, that of the original error, if there was one"""
    own = error.trace if isinstance(error, FaultyEnvironmentError) else ""
    return own or "".join(traceback.format_exception(error))


def is_full_disk(error: object) -> TypeGuard[OSError]:
    """:return: Whether this is the system's error for a disk without space"""
    return isinstance(error, OSError) and error.errno == errno.ENOSPC


def unusable_action_space(space: spaces.Box) -> str | None:
    """
    :param space: Action space
    :return: Why DDPG and its kin cannot act in it, None where they can
    """
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        return "its bounds must be finite; set them with gymnasium.wrappers.RescaleAction or in the environment"
    if space.dtype.kind != "f":
        return (
            f"its numbers are integers ({space.dtype}), to which every action would be rounded; declare it as "
            "Box(low, high, dtype=np.float32) and round in the environment"
        )
    equal = np.argwhere(space.low >= space.high)
    if len(equal):
        component = tuple(int(i) for i in equal[0])
        return (
            f"its bounds are equal in component {component[0] if len(component) == 1 else component} (low == high == "
            f"{space.low[component]}), which leaves nothing to choose; leave that component out"
        )
    return None


_WIDE_BOUNDS = 1e5
_UNEQUAL_RANGES = 1e3  # the widest of the action's components, relative to the narrowest


def doubtful_action_space(space: spaces.Box) -> str | None:
    """
    :param space: Action space with finite and different bounds
    :return: Why exploration in it is probably not what was meant, None if nothing is wrong
    """
    ranges = (space.high.astype(np.float64) - space.low).ravel()
    if ranges.max() > _WIDE_BOUNDS:
        return (
            f"The action space is very wide ({space.low.min():g} to {space.high.max():g}), and exploration covers all "
            "of it. Give it the bounds that are useful, in the environment or with gymnasium.wrappers.RescaleAction."
        )
    if ranges.max() > _UNEQUAL_RANGES * ranges.min():
        widest, narrowest = int(ranges.argmax()), int(ranges.argmin())
        return (
            f"Component {widest} of the action has a range {ranges.max() / ranges.min():,.0f} times that of component "
            f"{narrowest}, and noise is relative to it. Check the bounds, and give the noise one std for each "
            "component if they are meant."
        )
    return None


def on_the_command_line(error: UntrustedFileError) -> str:
    """:return: The message of an error, which names an argument of Python, with the option of the command line"""
    return str(error).replace("pass trusted=True", "say --trusted").replace("trusted=True", "--trusted")


def one_line(error: BaseException) -> str:
    """:return: The message of an error, without line breaks"""
    return " ".join(str(error).split()) or repr(error)


def unknown(what: str, name: str, known: Collection[Any]) -> str:
    """:return: The line that says that a name is not known, with the nearest name, or with all that are known"""
    return f"unknown {what} {name!r}; {nearest(name, known)}"


def nearest(name: str, known: Collection[Any]) -> str:
    """:return: The end of a line about a name that is not known: the nearest name, or all that are known"""
    names = {str(item).lower(): str(item) for item in known}
    near = get_close_matches(name.lower(), names, n=1)
    question = f"did you mean {names[near[0]]!r}?" if near else ""
    everything = f"known: {', '.join(sorted(names.values()))}"
    return question if near and len(names) > 9 else f"{question} {everything}".strip()
