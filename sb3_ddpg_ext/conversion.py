"""Values as YAML has them -> values of the types that constructors expect, or one line that says why not."""

import itertools
import math
import re
import reprlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
from pydantic import ConfigDict, TypeAdapter, ValidationError
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnvWrapper, VecNormalize

from sb3_ddpg_ext.errors import SettingsError, unknown
from sb3_ddpg_ext.expressions import EXPONENT_NUMBER, evaluate
from sb3_ddpg_ext.imports import import_class, parameters_of
from sb3_ddpg_ext.noise import NOISES

NOISE_TYPES = (*NOISES, "ornstein-uhlenbeck")  # the latter is RL Zoo's name for SB3's process

_Path = str | dict[str, dict[str, Any] | None]
Paths = _Path | list[_Path] | None
# What an import path has to lead to. It is called with the arguments of the file alone
_CLASSES: Mapping[str, type] = {"env_wrapper": gym.Wrapper, "vec_env_wrapper": VecEnvWrapper, "callback": BaseCallback}
_COUNTS = ("n_timesteps", "n_envs", "frame_stack", "buffer_size", "batch_size", "n_steps", "policy_delay")
# Values of the right type that Stable-Baselines3 would accept without a warning, or fail on much later.
_RANGES: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys((*_COUNTS, "stats_window_size"), ("1 or more", lambda value: value >= 1)),
    "learning_starts": ("0 or more", lambda value: value >= 0),
    "gradient_steps": ("0 or more, or -1 for as many as environment steps", lambda value: value >= -1),
    "gamma": ("between 0 and 1", lambda value: 0 <= value <= 1),
    "tau": ("above 0 and at most 1", lambda value: 0 < value <= 1),
    **dict.fromkeys(
        ("learning_rate", "critic_learning_rate", "qf_learning_rate", "max_grad_norm", "huber_delta"),
        ("above 0", lambda value: 0 < value < math.inf),
    ),
    **dict.fromkeys(
        ("pre_activation_coef", "target_policy_noise", "target_noise_clip"),
        ("0 or more", lambda value: 0 <= value < math.inf),
    ),
    "noise_std": ("0 or more", lambda value: 0 <= value < math.inf),
    "train_freq": (
        "1 or more steps, or [1 or more, step or episode]",
        lambda value: value[0] >= 1 and value[1] in ("step", "episode") if isinstance(value, tuple) else value >= 1,
    ),
}
# Far above what anybody trains with: a mistake, or a file that means to use up the memory
_MAX_COUNTS: Mapping[str, int] = {"n_envs": 10_000, "frame_stack": 1_000, "stats_window_size": 10**6}
_MAX_LAYERS, _MAX_UNITS, _MAX_WEIGHTS = 100, 2**16, 10**8  # of one network, weights between hidden layers
_MAX_CRITICS = 100


def convert(name: str, given: Any, hint: Any, not_from: Path | None = None) -> Any:
    """
    Turn a value as YAML has it into one of another type.

    :param name: Name of the setting
    :param given: The value
    :param hint: The type, such as an annotation of a constructor
    :param not_from: As in :func:`~sb3_ddpg_ext.imports.import_class`
    :return: A value of that type
    :raises SettingsError: If this is not possible
    """
    try:
        value = _parse_text(name, given.strip(), not_from) if isinstance(given, str) else given
        if name in ("policy_kwargs", "replay_buffer_kwargs") and isinstance(value, dict):
            value = _with_classes(value)
        value = _validate(value, hint, given)
        if hint is Paths:
            classes_with_arguments = _import_classes(value, _CLASSES[name], not_from)
            if any(target is VecNormalize for target, _ in classes_with_arguments):
                raise SettingsError("VecNormalize is set by normalize, so that its statistics are saved")
            return classes_with_arguments
        start = value.start if isinstance(value, LinearSchedule) else value
        if name in _RANGES and isinstance(start, (int, float, tuple)):
            expected, holds = _RANGES[name]
            if not holds(start):
                raise SettingsError(f"expected {expected}, got {given!r}")
        if name in _MAX_COUNTS and isinstance(value, int) and value > _MAX_COUNTS[name]:
            raise SettingsError(f"expected at most {_MAX_COUNTS[name]}, got {given!r}")
        if name == "policy_kwargs" and value is not None:
            _check_sizes(value)
        if name == "noise_type" and value is not None and value not in NOISE_TYPES:
            raise SettingsError(unknown("noise", value, NOISE_TYPES))
        return value
    except SettingsError as error:
        raise SettingsError(f"{name}: {error}") from error


def check_arguments(setting: str, kwargs: Mapping[str, Any], target: type) -> None:
    """
    Check the types of flags and numbers among the arguments of a constructor, for which a misspelt ``flase`` is true.

    :param setting: Name of the setting that holds the arguments
    :param kwargs: The arguments, by name
    :param target: What they are for
    :raises SettingsError: If one is of another type than the constructor's annotation says
    """
    try:
        parameters = parameters_of(target)
    except NameError:  # an annotation that only a type checker can resolve, in a class of the user's
        return
    for name, parameter in parameters.items():
        if kwargs.get(name) is not None and parameter.annotation in (bool, int, float):
            try:
                _validate(kwargs[name], parameter.annotation, kwargs[name])
            except SettingsError as error:
                raise SettingsError(f"{setting}: {name}: {error}") from error


def _with_classes(kwargs: Mapping[Any, Any]) -> dict[Any, Any]:
    """Keyword arguments with classes in place of their names, as in ``{activation_fn: nn.ReLU}``."""
    return {
        key: _with_classes(value)
        if isinstance(value, dict)
        else evaluate(value)
        if isinstance(value, str) and str(key).endswith(("_fn", "_class"))
        else value
        for key, value in kwargs.items()
    }


def _parse_text(name: str, text: str, not_from: Path | None) -> Any:
    if EXPONENT_NUMBER.match(text):
        return float(text)
    if name.endswith("learning_rate") and text.startswith("lin_"):
        try:
            return LinearSchedule(float(text.removeprefix("lin_")), 0.0, 1.0)
        except ValueError:
            raise SettingsError(f"expected a number after lin_, such as lin_7.3e-4, got {text!r}") from None
    if name.endswith("_kwargs") or name in ("normalize", "replay_buffer_class"):
        return evaluate(text)
    if name == "policy" and "." in text:
        return import_class(text, BasePolicy, not_from)
    return text


def _validate(value: Any, hint: Any, given: Any) -> Any:
    # Strict: otherwise True would be accepted as 1, and "64" as 64
    config = ConfigDict(arbitrary_types_allowed=True, strict=True)
    adapter: TypeAdapter[Any] = TypeAdapter(hint, config=config)
    candidates = [value]
    if isinstance(value, float) and value.is_integer():
        candidates.append(int(value))  # RL Zoo writes n_timesteps: !!float 1e6
    elif isinstance(value, list):
        candidates.append(tuple(value))  # YAML has no tuples: train_freq: [1, episode]
    for candidate in candidates:
        try:
            return adapter.validate_python(candidate)
        except ValidationError:
            continue
    if hint is Paths:
        expected = "an import path, a mapping from import path to arguments, or a list of these (check the indentation)"
    else:  # as in the signature, without module names: "float | lin_<number>"
        expected = hint.__name__ if hint in (bool, int, float, str) else re.sub(r"(\w+\.)+", "", repr(hint))
        expected = re.sub(r"Callable(\[\[float\], float\])?", "lin_<number>", expected)
    raise SettingsError(f"expected {expected}, got {reprlib.repr(given)}")


def _check_sizes(policy_kwargs: Mapping[str, Any]) -> None:
    """Refuse networks that would take minutes or all memory to be built."""
    net_arch = policy_kwargs.get("net_arch")
    networks = net_arch.values() if isinstance(net_arch, dict) else [net_arch]
    for layers in networks:
        if layers is None:
            continue
        if not (isinstance(layers, list | tuple) and all(type(n) is int and 1 <= n <= _MAX_UNITS for n in layers)):
            raise SettingsError(
                f"net_arch: expected layers of 1 to {_MAX_UNITS} units, such as [64, 64] or dict(pi=[64, 64], "
                f"qf=[64, 64]), got {reprlib.repr(net_arch)}"
            )
        if len(layers) > _MAX_LAYERS:
            raise SettingsError(f"net_arch: expected at most {_MAX_LAYERS} layers, got {len(layers)}")
        if (weights := sum(math.prod(pair) for pair in itertools.pairwise(layers))) > _MAX_WEIGHTS:
            raise SettingsError(f"net_arch: expected at most {_MAX_WEIGHTS} weights, got {weights}")
    n_critics = policy_kwargs.get("n_critics", 1)
    if not (type(n_critics) is int and 1 <= n_critics <= _MAX_CRITICS):
        raise SettingsError(f"n_critics: expected 1 to {_MAX_CRITICS}, got {reprlib.repr(n_critics)}")


def _import_classes(value: Any, base: type, not_from: Path | None) -> tuple[tuple[type, dict[str, Any]], ...]:
    classes: list[tuple[type, dict[str, Any]]] = []
    for item in value if isinstance(value, list) else [value or {}]:
        for path, kwargs in ({item: None} if isinstance(item, str) else item).items():
            classes.append((import_class(path, base, not_from), kwargs or {}))
    return tuple(classes)


def why_invalid(error: ValidationError) -> str:
    """:return: The first thing that is wrong, in one line: its name and what was expected"""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")
