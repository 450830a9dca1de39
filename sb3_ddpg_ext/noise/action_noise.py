"""Turns what ``CustomDDPG(action_noise=...)`` accepts into SB3's ``ActionNoise``; noise that follows a schedule."""

import contextlib
import copy
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
from stable_baselines3.common.noise import ActionNoise, NormalActionNoise, VectorizedActionNoise
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import ConstantSchedule, LinearSchedule

from sb3_ddpg_ext.errors import unknown
from sb3_ddpg_ext.noise.base import NoiseProcess
from sb3_ddpg_ext.noise.parameter_noise import ParameterNoise
from sb3_ddpg_ext.noise.processes import (
    ColoredNoise,
    GaussianNoise,
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
    "parameter": ParameterNoise,
}
"""The names that ``CustomDDPG(action_noise=...)`` and the YAML key ``noise_type`` understand."""


class ExponentialSchedule:
    """
    Exponential decay from 1 to ``end`` over the course of training.

    >>> schedule = ExponentialSchedule(end=0.25)
    >>> [schedule(progress_remaining) for progress_remaining in (1.0, 0.5, 0.0)]
    [1.0, 0.5, 0.25]

    :param end: Value at the end of training
    :raises ValueError: If ``end`` is not positive and finite
    """

    def __init__(self, end: float = 0.1) -> None:
        if not 0 < end < float("inf"):
            raise ValueError(f"end must be positive, since an exponential never reaches 0; got {end}")
        self.end = end

    def __call__(self, progress_remaining: float) -> float:
        """
        :param progress_remaining: From 1 at the beginning of training to 0 at its end
        :return: ``end ** (1 - progress_remaining)``
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
The names of schedules. Linear: from 1 to ``end`` (default 0) within the first ``end_fraction`` (default 1) of training.
Exponential: from 1 to ``end`` (default 0.1).
"""

_SB3_NORMAL = NormalActionNoise.__call__
NoiseSpec = ActionNoise | NoiseProcess | str | Mapping[str, Any]
ScheduleSpec = Schedule | float | str | Mapping[str, Any]
TimeLimit = Callable[[], int | None]
T = TypeVar("T")


class ProcessActionNoise(VectorizedActionNoise):
    """
    Adapter from a :class:`NoiseProcess` to SB3's ``ActionNoise``. It is a ``VectorizedActionNoise``, which SB3 uses
    without wrapping it for any number of environments, and resets at the end of episodes.

    :param process: The process. It is copied, so that several models can be built from one; to change the noise of a
        model in use, change the copy: ``model.action_noise.process.std = 0.1``
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
        Start anew in environments whose episode has ended.

        :param indices: Indices of these environments; None for all
        """
        self.process.reset(range(self.n_envs) if indices is None else indices)


class ScheduledNoise(VectorizedActionNoise):
    """
    Any noise, multiplied by a function of training progress.

    >>> noise = ScheduledNoise("pink", schedule={"type": "linear", "end": 0.2})
    >>> noise.update(progress_remaining=0.5)  # CustomDDPG does this before every step
    >>> print(noise.scale)
    0.6

    :param noise: A process, a name, ``{"type": ..., "std": ...}``, or any ``ActionNoise``
    :param schedule: An SB3 ``Schedule``, called with the remaining progress (from 1 to 0); a number; ``"linear"`` (from
        1 to 0), ``"exponential"`` (from 1 to 0.1), or one of these with arguments, such as
        ``{"type": "linear", "end": 0.1, "end_fraction": 0.5}``
    :raises ValueError: For an unknown name or argument
    :raises TypeError: For a noise or a schedule of another type
    """

    def __init__(self, noise: NoiseSpec, schedule: ScheduleSpec) -> None:
        self.noise: ActionNoise = _make(noise)
        self.schedule = _make_schedule(schedule)
        self.n_envs = 0  # until `bind` is called
        self.update(1.0)

    def __repr__(self) -> str:
        return f"ScheduledNoise({self.noise!r}, {self.schedule!r})"

    def __call__(self) -> np.ndarray:
        """:return: The noise of this step, ``[n_envs, *action_shape]``"""
        return self.scale * sample_noise(self.noise)

    def update(self, progress_remaining: float) -> None:
        """
        Set :attr:`scale` to the schedule's value.

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
        self.scale = np.float32(scale)  # keeps float32 noise float32

    def bind(self, n_envs: int, action_shape: tuple[int, ...], seed: int | None, time_limit: TimeLimit) -> None:
        """See :func:`setup_action_noise`."""
        self.n_envs = n_envs
        noise = _bind(self.noise, n_envs, action_shape, seed, time_limit)
        # SB3's noise for a single environment has no environment dimension; the wrapper adds it
        self.noise = noise if isinstance(noise, VectorizedActionNoise) else VectorizedActionNoise(noise, n_envs)

    def reset(self, indices: Iterable[int] | None = None) -> None:
        """
        Start anew in environments whose episode has ended.

        :param indices: Indices of these environments; None for all
        """
        if isinstance(self.noise, VectorizedActionNoise):  # always, once `bind` has been called
            self.noise.reset(indices)


def sample_noise(noise: ActionNoise) -> np.ndarray:
    """
    Call a noise. SB3's Gaussian noise is drawn for all environments at once, which gives the same numbers.

    >>> noise = VectorizedActionNoise(NormalActionNoise(np.zeros(2), np.ones(2)), n_envs=3)
    >>> sample_noise(noise).shape
    (3, 2)

    :param noise: Any noise
    :return: ``noise()``
    """
    if type(noise) is VectorizedActionNoise and NormalActionNoise.__call__ is _SB3_NORMAL:
        noises: Any = noise.noises
        if {*map(type, noises)} == {NormalActionNoise} and len({each._dtype for each in noises}) == 1:
            mean, std = np.array([each._mu for each in noises]), np.array([each._sigma for each in noises])
            if mean.shape == std.shape:
                return np.random.normal(mean, std).astype(noises[0]._dtype)  # noqa: NPY002 (SB3's generator)
    return noise()


def setup_action_noise(
    action_noise: NoiseSpec | None,
    n_envs: int,
    action_shape: tuple[int, ...],
    seed: int | None,
    time_limit: TimeLimit = lambda: None,
) -> ActionNoise | None:
    """
    Turn what ``CustomDDPG(action_noise=...)`` was given into an ``ActionNoise`` that is ready to be called.

    :param action_noise: A name from :data:`NOISES`; ``{"type": name, ...}`` with arguments of its class and optionally
        a ``"schedule"``; a process; any ``ActionNoise`` (for several environments it is vectorised, as SB3 does it);
        or None
    :param n_envs: Number of environments
    :param action_shape: Shape of one action
    :param seed: Seed from which the generators of this package's processes are spawned
    :param time_limit: Returns the environment's time limit in steps, or None; called only for noise that needs it
    :return: The noise, or None for None
    :raises ValueError: For an unknown name or argument
    :raises TypeError: For a noise of another type
    """
    if action_noise is None:
        return None
    return _bind(_make(action_noise), n_envs, action_shape, seed, time_limit)


def current_std(action_noise: ActionNoise | None) -> float | None:
    """
    :param action_noise: Noise
    :return: Its current standard deviation in the scaled action space, averaged over actions; None if it is unknown,
        for another package's noise
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


def find_parameter_noise(action_noise: ActionNoise | None) -> ParameterNoise | None:
    """
    :param action_noise: Noise
    :return: The parameter noise that it is, with or without a schedule; None for other noise
    """
    match action_noise:  # the usual noise first: this is asked at every step
        case ProcessActionNoise(process=process):
            return process if isinstance(process, ParameterNoise) else None
        case ScheduledNoise():
            return find_parameter_noise(action_noise.noise)
    return None


def owns_generator(action_noise: ActionNoise | None) -> bool:
    """
    :param action_noise: Noise
    :return: Whether it draws from generators of its own, which :func:`reseed` can seed, and not from NumPy's global
        generator. That is so for this package's noise, once it is set up
    """
    return bool(_bound_processes(action_noise))


def reseed(action_noise: ActionNoise | None, seed: int) -> None:
    """
    Restart a noise with a new seed. This does for its generators what SB3's ``set_random_seed`` does for NumPy's global
    one. Nothing happens to another package's noise, or to noise that has not been set up yet
    (:func:`setup_action_noise` sets a seed itself).

    :param action_noise: Noise
    :param seed: Seed from which its generators are spawned. If there are several processes, as in a
        ``VectorizedActionNoise``, they get consecutive seeds, like SB3's environments.
    """
    for i, process in enumerate(_bound_processes(action_noise)):
        process.reseed(seed + i)


@contextlib.contextmanager
def without_reset(action_noise: ActionNoise | None) -> Iterator[None]:
    """
    Disable a noise's ``reset`` for a while. SB3's ``_setup_learn`` calls it at every call of ``learn()``, even if that
    continues a running episode.

    :param action_noise: Noise
    """
    if action_noise is None:
        yield
        return
    vars(action_noise)["reset"] = lambda indices=None: None  # noqa: ARG005
    try:
        yield
    finally:
        del vars(action_noise)["reset"]


def _bound_processes(noise: ActionNoise | None) -> list[NoiseProcess]:
    """:return: This package's processes inside a noise, as far as they are set up"""
    match noise:
        case ScheduledNoise():
            return _bound_processes(noise.noise)
        case ProcessActionNoise():
            return [noise.process] if noise.process.is_bound else []
        case VectorizedActionNoise():
            return [process for each in noise.noises for process in _bound_processes(each)]
    return []


def _make(spec: NoiseSpec) -> ActionNoise:
    """:return: An ``ActionNoise`` that does not know the environments and the action's shape yet"""
    if isinstance(spec, (str, Mapping)):
        name, arguments = _name_and_arguments("action_noise", spec)
        schedule = arguments.pop("schedule", None)
        process = ProcessActionNoise(_construct("noise", name, arguments, NOISES))
        return process if schedule is None else ScheduledNoise(process, schedule)
    if isinstance(spec, NoiseProcess):
        return ProcessActionNoise(spec)
    if not isinstance(spec, ActionNoise):
        raise TypeError(
            f"action_noise must be a name, a mapping with a type, a NoiseProcess, an ActionNoise or None, got {spec!r}"
        )
    if isinstance(spec, ScheduledNoise) and spec.n_envs == 0:
        return copy.deepcopy(spec)  # so that several models can be built from it
    return spec


def _bind(
    noise: ActionNoise, n_envs: int, action_shape: tuple[int, ...], seed: int | None, time_limit: TimeLimit
) -> ActionNoise:
    if isinstance(noise, (ProcessActionNoise, ScheduledNoise)):  # these serve any number of environments
        noise.bind(n_envs, action_shape, seed, time_limit)
        return noise
    if isinstance(noise, VectorizedActionNoise):
        ours = isinstance(noise.base_noise, (ProcessActionNoise, ScheduledNoise))
        if noise.n_envs == n_envs and not ours:
            return noise
        # Rebuild it if it was saved with another number of environments, where SB3 crashes. Rebuild it, too, if SB3 has
        # copied this package's noise for each environment: all copies would make the same noise
        return _bind(noise.base_noise, n_envs, action_shape, seed, time_limit)
    return noise if n_envs == 1 else VectorizedActionNoise(noise, n_envs)  # SB3 does the same, but only in `learn()`


def _make_schedule(spec: ScheduleSpec) -> Schedule:
    if isinstance(spec, (str, Mapping)):
        return _construct("schedule", *_name_and_arguments("schedule", spec), SCHEDULES)
    if isinstance(spec, (int, float)):
        return ConstantSchedule(float(spec))
    if not callable(spec):
        raise TypeError(f"a schedule must be a number, a name, a mapping with a type or a function, got {spec!r}")
    return spec


def _name_and_arguments(what: str, spec: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    if isinstance(spec, str):
        return spec, {}
    arguments = dict(spec)
    name = arguments.pop("type", None)
    if not isinstance(name, str):
        raise ValueError(f"{what}: expected a mapping such as {{'type': name, ...}}, got {spec!r}")
    return name, arguments


def _construct(what: str, name: str, arguments: dict[str, Any], table: Mapping[str, Callable[..., T]]) -> T:
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
    except TypeError as error:  # for instance a string where a number is expected
        raise ValueError(f"the {what} {name!r} cannot take {arguments}: {error}") from error
