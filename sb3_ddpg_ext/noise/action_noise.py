"""What ``CustomDDPG(action_noise=...)`` takes -> SB3's ``ActionNoise``; noise that follows a schedule."""

import copy
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import numpy as np
from stable_baselines3.common.noise import ActionNoise, NormalActionNoise, VectorizedActionNoise
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import ConstantSchedule, LinearSchedule

from sb3_ddpg_ext.errors import unknown
from sb3_ddpg_ext.noise.processes import (
    ColoredNoise,
    GaussianNoise,
    NoiseProcess,
    OrnsteinUhlenbeckNoise,
    PinkNoise,
    UniformNoise,
)

NOISES: Mapping[str, Callable[..., NoiseProcess]] = {
    "normal": GaussianNoise,
    "ou": OrnsteinUhlenbeckNoise,
    "pink": PinkNoise,
    "colored": ColoredNoise,
    "uniform": UniformNoise,
}
"""The names that ``CustomDDPG(action_noise=...)`` and the YAML key ``noise_type`` understand."""


class ExponentialSchedule:
    """
    A schedule from 1 down to ``end`` by the same factor in every step.

    :param end: The last value
    :raises ValueError: Where ``end`` is not positive
    """

    def __init__(self, end: float = 0.1) -> None:
        if not 0 < end < float("inf"):
            raise ValueError(f"end must be positive, since an exponential never reaches 0; got {end}")
        self.end = end

    def __call__(self, progress_remaining: float) -> float:
        """
        :param progress_remaining: From 1 at the beginning of training to 0 at its end
        :return: The value
        """
        return float(self.end ** (1 - progress_remaining))

    def __repr__(self) -> str:
        return f"ExponentialSchedule(end={self.end})"


def _linear(end: float = 0.0, end_fraction: float = 1.0) -> LinearSchedule:
    if not (0 <= end < float("inf") and 0 < end_fraction <= 1):
        raise ValueError(f"end must be 0 or more and end_fraction above 0 and at most 1, got {end} and {end_fraction}")
    return LinearSchedule(1.0, end, end_fraction)


SCHEDULES: Mapping[str, Callable[..., Schedule]] = {"linear": _linear, "exponential": ExponentialSchedule}
"""
The names of schedules. Linear: from 1 to ``end`` (0 if not given) in the first ``end_fraction`` (1) of training;
exponential: from 1 to ``end`` (0.1).
"""

NoiseSpec = ActionNoise | NoiseProcess | str | Mapping[str, Any]
ScheduleSpec = Schedule | float | str | Mapping[str, Any]
TimeLimit = Callable[[], int | None]
Made = TypeVar("Made")


class ProcessActionNoise(VectorizedActionNoise):
    """
    SB3's view of a :class:`NoiseProcess`. SB3 takes a ``VectorizedActionNoise`` as it is, for any number of
    environments, and resets it at the end of an episode.

    :param process: copied, so that one specification can serve several models. To change the noise in use, change the
        copy: ``noise.process.std = 0.1``.
    """

    def __init__(self, process: NoiseProcess) -> None:
        self.process = copy.deepcopy(process)

    def __repr__(self) -> str:
        return repr(self.process)

    def __call__(self) -> np.ndarray:
        """:return: The noise of this step, ``[n_envs, *action_shape]``, float32"""
        return self.process.sample().astype(np.float32)

    def bind(self, n_envs: int, action_shape: tuple[int, ...], seed: int | None, time_limit: TimeLimit) -> None:
        """See :func:`setup_action_noise`."""
        self.n_envs = n_envs
        if isinstance(self.process, ColoredNoise) and self.process.horizon is None and (limit := time_limit()):
            self.process.horizon = max(limit, 2)
        self.process.bind(n_envs, action_shape, seed)

    def reset(self, indices: Iterable[int] | None = None) -> None:
        """
        Begin anew where an episode ended.

        :param indices: The environments of these episodes, None for all
        """
        self.process.reset(range(self.n_envs) if indices is None else indices)


class ScheduledNoise(VectorizedActionNoise):
    """
    Any noise times a function of training progress.

    :param noise: A process, a name, ``{"type": ..., "std": ...}``, or SB3's or another package's ``ActionNoise``
    :param schedule: An SB3 ``Schedule``, called with the remaining progress (from 1 to 0); a number; ``"linear"`` (from
        1 to 0), ``"exponential"`` (from 1 to 0.1), or one of these with arguments, such as
        ``{"type": "linear", "end": 0.1, "end_fraction": 0.5}``
    :raises ValueError: For an unknown name or argument
    :raises TypeError: For anything else
    """

    def __init__(self, noise: NoiseSpec, schedule: ScheduleSpec) -> None:
        self.noise: ActionNoise = _make(noise)
        self.schedule = _make_schedule(schedule)
        self.n_envs = 0  # not bound
        self.update(1.0)

    def __repr__(self) -> str:
        return f"ScheduledNoise({self.noise!r}, {self.schedule!r})"

    def __call__(self) -> np.ndarray:
        """:return: The noise of this step, ``[n_envs, *action_shape]``"""
        return self.scale * self.noise()

    def update(self, progress_remaining: float) -> None:
        """
        Follow the schedule.

        :param progress_remaining: From 1 at the beginning of training to 0 at its end
        :raises ValueError: If the schedule's value is negative or not finite
        """
        if isinstance(self.noise, ScheduledNoise):
            self.noise.update(progress_remaining)
        scale = float(self.schedule(progress_remaining))
        if not 0 <= scale < float("inf"):
            raise ValueError(
                f"the noise's schedule gives {scale} at the remaining progress {progress_remaining:g}; expected a "
                "finite number of 0 or more"
            )
        self.scale = np.float32(scale)  # a Python number would do, but for the noise's type

    def bind(self, n_envs: int, action_shape: tuple[int, ...], seed: int | None, time_limit: TimeLimit) -> None:
        """See :func:`setup_action_noise`."""
        self.n_envs = n_envs
        noise = _bind(self.noise, n_envs, action_shape, seed, time_limit)
        # Of SB3's noise one environment's would come without its dimension
        self.noise = noise if isinstance(noise, VectorizedActionNoise) else VectorizedActionNoise(noise, n_envs)

    def reset(self, indices: Iterable[int] | None = None) -> None:
        """
        Begin anew where an episode ended.

        :param indices: The environments of these episodes, None for all
        """
        if isinstance(self.noise, VectorizedActionNoise):  # it is from the day it is bound
            self.noise.reset(indices)


def setup_action_noise(
    action_noise: NoiseSpec | None,
    n_envs: int,
    action_shape: tuple[int, ...],
    seed: int | None,
    time_limit: TimeLimit = lambda: None,
) -> ActionNoise | None:
    """
    What ``CustomDDPG(action_noise=...)`` was given -> what SB3's collection loop calls.

    :param action_noise: A name of :data:`NOISES`, ``{"type": name, ...}`` with arguments of its class and
        ``"schedule"``, a process, any ``ActionNoise`` (used as it is, but vectorised for several environments as SB3
        does it) or None
    :param n_envs: Number of environments
    :param action_shape: Shape of one action
    :param seed: Where the generators of our own processes are spawned from
    :param time_limit: Tells after how many steps an episode is cut off, for noise that wants to know
    :return: Noise that is ready to be called, or None
    :raises ValueError: For an unknown name or argument
    :raises TypeError: For anything else
    """
    if action_noise is None:
        return None
    return _bind(_make(action_noise), n_envs, action_shape, seed, time_limit)


def current_std(action_noise: ActionNoise | None) -> float | None:
    """
    How strong a noise is now.

    :param action_noise: Noise
    :return: Its standard deviation in the scaled action space, on average over actions; None where noise that is not
        this package's does not tell it
    """
    match action_noise:
        case ScheduledNoise():
            std = current_std(action_noise.noise)
            return None if std is None else float(action_noise.scale) * std
        case ProcessActionNoise():
            return float(action_noise.process.std.mean())
        case VectorizedActionNoise():
            stds = [std for noise in action_noise.noises if (std := current_std(noise)) is not None]
            return float(np.mean(stds)) if len(stds) == action_noise.n_envs else None
        case NormalActionNoise():
            return float(np.mean(action_noise._sigma))
    return 0.0 if action_noise is None else None


def owns_generator(action_noise: ActionNoise | None) -> bool:
    """
    Whether a noise draws from generators of its own, which :func:`reseed` begins anew, and not from numpy's global one.

    :param action_noise: Noise
    :return: True for this package's noise, once it is set up
    """
    return bool(_bound_processes(action_noise))


def reseed(action_noise: ActionNoise | None, seed: int) -> None:
    """
    Begin a noise anew, with the numbers of this seed, as SB3's ``set_random_seed`` does it for all that draws from
    numpy's global generator. Noise that is not this package's is left alone, and so is noise that is not set up yet:
    :func:`setup_action_noise` brings a seed of its own.

    :param action_noise: Noise
    :param seed: Where its generators are spawned from. Of several processes, as in a ``VectorizedActionNoise``, each
        gets the next seed, as SB3's environments do.
    """
    for i, process in enumerate(_bound_processes(action_noise)):
        process.reseed(seed + i)


def _bound_processes(noise: ActionNoise | None) -> list[NoiseProcess]:
    match noise:
        case ScheduledNoise():
            return _bound_processes(noise.noise)
        case ProcessActionNoise():
            return [noise.process] if noise.process.is_bound else []
        case VectorizedActionNoise():
            return [process for each in noise.noises for process in _bound_processes(each)]
    return []


def _make(given: NoiseSpec) -> ActionNoise:
    """A specification -> an ``ActionNoise`` that does not know its shapes yet."""
    if isinstance(given, (str, Mapping)):
        name, arguments = _name_and_arguments("action_noise", given)
        schedule = arguments.pop("schedule", None)
        process = ProcessActionNoise(_construct("noise", name, arguments, NOISES))
        return process if schedule is None else ScheduledNoise(process, schedule)
    if isinstance(given, NoiseProcess):
        return ProcessActionNoise(given)
    if not isinstance(given, ActionNoise):
        raise TypeError(
            f"action_noise must be a name, a mapping with a type, a NoiseProcess, an ActionNoise or None, got {given!r}"
        )
    if isinstance(given, ScheduledNoise) and given.n_envs == 0:
        return copy.deepcopy(given)  # a specification, as a process is
    return given


def _bind(
    noise: ActionNoise, n_envs: int, action_shape: tuple[int, ...], seed: int | None, time_limit: TimeLimit
) -> ActionNoise:
    if isinstance(noise, (ProcessActionNoise, ScheduledNoise)):  # for any number of environments
        noise.bind(n_envs, action_shape, seed, time_limit)
        return noise
    if isinstance(noise, VectorizedActionNoise):
        ours = isinstance(noise.base_noise, (ProcessActionNoise, ScheduledNoise))
        if noise.n_envs == n_envs and not ours:
            return noise
        # Saved with another number of environments (SB3 crashes here), or of ours: copies would all make the same noise
        return _bind(noise.base_noise, n_envs, action_shape, seed, time_limit)
    return noise if n_envs == 1 else VectorizedActionNoise(noise, n_envs)  # what SB3 does at `learn()` only


def _make_schedule(given: ScheduleSpec) -> Schedule:
    if isinstance(given, (str, Mapping)):
        return _construct("schedule", *_name_and_arguments("schedule", given), SCHEDULES)
    if isinstance(given, (int, float)):
        return ConstantSchedule(float(given))
    if not callable(given):
        raise TypeError(f"a schedule must be a number, a name, a mapping with a type or a function, got {given!r}")
    return given


def _name_and_arguments(what: str, given: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    if isinstance(given, str):
        return given, {}
    arguments = dict(given)
    name = arguments.pop("type", None)
    if not isinstance(name, str):
        raise ValueError(f"{what}: expected a mapping such as {{'type': name, ...}}, got {given!r}")
    return name, arguments


def _construct(what: str, name: str, arguments: dict[str, Any], table: Mapping[str, Callable[..., Made]]) -> Made:
    if name not in table:
        raise ValueError(unknown(what, name, table))
    parameters = inspect.signature(table[name]).parameters
    for argument in arguments:
        if argument not in parameters:
            known = [*parameters, *(["schedule"] if what == "noise" else [])]
            raise ValueError(unknown(f"argument of the {what} {name!r}", argument, known))
    missing = [p.name for p in parameters.values() if p.default is p.empty and p.name not in arguments]
    if missing:
        raise ValueError(f"the {what} {name!r} needs {missing[0]}, such as {{'type': {name!r}, {missing[0]!r}: 0.5}}")
    try:
        return table[name](**arguments)
    except TypeError as error:  # compared with something that is no number
        raise ValueError(f"the {what} {name!r} cannot take {arguments}: {error}") from error
