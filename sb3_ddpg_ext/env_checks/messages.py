"""What is wrong with a value that an environment returned, in words, and where in its code an error was raised."""

import reprlib
import sysconfig
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

_NUMBER_KINDS = "biuf"  # of NumPy dtypes: bool, int, unsigned int, float
_SCALARS = float, int, np.floating, np.integer, np.bool_
_LIBRARIES = tuple(str(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
_THIS_PACKAGE = str(Path(__file__).parents[1])


def make_observation_check(space: spaces.Space[Any]) -> Callable[[Any], str | None]:
    """
    :param space: The observation space
    :return: A function that returns what is wrong with an observation, or None
    """
    if isinstance(space, spaces.Dict):
        return partial(_wrong_dict, {key: make_observation_check(part) for key, part in space.items()})
    shape = space.shape
    if shape is None:  # SB3 rejects such spaces with a message of its own
        return lambda _: None

    def wrong(observation: Any) -> str | None:
        if type(observation) is np.ndarray and observation.shape == shape and observation.dtype.kind in _NUMBER_KINDS:
            return None
        array = _as_numbers(observation)
        if array is None:
            return f"the observation {_short(observation)}, expected numbers of the shape {shape}"
        if array.shape != shape:
            return f"an observation of the shape {array.shape}, expected {shape}, as its observation_space says"
        return None

    return wrong


def _wrong_dict(checks: Mapping[str, Callable[[Any], str | None]], observation: Any) -> str | None:
    if not isinstance(observation, dict) or observation.keys() != checks.keys():
        actual = (
            f"the keys {', '.join(map(str, observation))}" if isinstance(observation, dict) else _short(observation)
        )
        return f"an observation with {actual}, expected a dict with the keys {', '.join(checks)}"
    for key, check in checks.items():
        if (wrong := check(observation[key])) is not None:
            return f"{wrong} (key {key!r})"
    return None


def wrong_reward(reward: Any) -> str | None:
    """:return: What is wrong with a reward, or None"""
    if isinstance(reward, _SCALARS):
        return None
    # An array with one element is not a number: NumPy no longer converts it, and several of them form a matrix
    array = _as_numbers(reward)
    return None if array is not None and array.shape == () else f"the reward {_short(reward)}, expected a number"


def wrong_flag(name: str, flag: Any) -> str | None:
    """:return: What is wrong with ``terminated`` or ``truncated``, or None"""
    if isinstance(flag, bool | np.bool_) or (isinstance(flag, np.ndarray) and flag.shape == () and flag.dtype == bool):
        return None
    return f"{name}={_short(flag)}, expected True or False"


def wrong_info(info: Any) -> str | None:
    """:return: What is wrong with an info, or None"""
    return None if isinstance(info, dict) else f"the info {_short(info)}, expected a dict"


def _as_numbers(value: Any) -> np.ndarray | None:
    try:
        array = np.asarray(value)
    except Exception:  # for instance for nested lists of different lengths, or tensors with gradients
        return None
    return array if array.dtype.kind in _NUMBER_KINDS else None


def wrong_number_of_values(result: Any, expected: str) -> str:
    """:return: A message about what ``step()`` or ``reset()`` returned, and what was expected"""
    count = f"{len(result)} values" if isinstance(result, tuple | list) else _short(result)
    return f"returned {count}, expected {expected}"


def _short(value: Any) -> str:
    return f"{' '.join(reprlib.repr(value).split())} ({type(value).__name__})"


def code_location(error: BaseException) -> str:
    """:return: The last line of the user's code in a traceback, as ``" (file:line)"``, or an empty string"""
    frames = traceback.extract_tb(error.__traceback__)
    user_frames = [frame for frame in frames if not frame.filename.startswith((*_LIBRARIES, _THIS_PACKAGE))]
    return f" ({Path(user_frames[-1].filename).name}:{user_frames[-1].lineno})" if user_frames else ""
