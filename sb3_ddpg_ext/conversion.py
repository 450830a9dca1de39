"""Values as YAML has them -> values of the types that constructors expect, or one line that says why not."""

import importlib
import math
import re
import reprlib
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ddpg_ext.errors import SettingsError, unknown
from sb3_ddpg_ext.expressions import EXPONENT_NUMBER, evaluate
from sb3_ddpg_ext.noise import NOISES

NOISE_TYPES = (*NOISES, "ornstein-uhlenbeck")  # the latter is RL Zoo's name for SB3's process

_Path = str | dict[str, dict[str, Any] | None]
Paths = _Path | list[_Path] | None
_COUNTS = ("n_timesteps", "n_envs", "frame_stack", "buffer_size", "batch_size", "n_steps", "policy_delay")
# Values of the right type that Stable-Baselines3 would accept without a warning, or fail on much later.
_RANGES: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys((*_COUNTS, "stats_window_size"), ("1 or more", lambda value: value >= 1)),
    "learning_starts": ("0 or more", lambda value: value >= 0),
    "gradient_steps": ("0 or more, or -1 for as many as environment steps", lambda value: value >= -1),
    "gamma": ("between 0 and 1", lambda value: 0 <= value <= 1),
    "tau": ("above 0 and at most 1", lambda value: 0 < value <= 1),
    "learning_rate": ("above 0", lambda value: 0 < value < math.inf),
    "noise_std": ("0 or more", lambda value: 0 <= value < math.inf),
    "train_freq": (
        "1 or more steps, or [1 or more, step or episode]",
        lambda value: value[0] >= 1 and value[1] in ("step", "episode") if isinstance(value, tuple) else value >= 1,
    ),
}


def convert(name: str, given: Any, hint: Any) -> Any:
    """
    Turn a value as YAML has it into one of another type.

    :param name: Name of the setting
    :param given: The value
    :param hint: The type, such as an annotation of a constructor
    :return: A value of that type
    :raises SettingsError: If this is not possible
    """
    try:
        value = _parse_text(name, given.strip()) if isinstance(given, str) else given
        if name in ("policy_kwargs", "replay_buffer_kwargs") and isinstance(value, dict):
            classes = {k: v for k, v in value.items() if isinstance(v, str) and str(k).endswith(("_fn", "_class"))}
            value = value | {key: evaluate(text) for key, text in classes.items()}
        value = _validate(value, hint, given)
        if hint is Paths:
            callables = _import_callables(value, callbacks=name == "callback")
            if any(target is VecNormalize for target, _ in callables):
                raise SettingsError("VecNormalize is set by normalize, so that its statistics are saved")
            return callables
        start = value.start if isinstance(value, LinearSchedule) else value
        if name in _RANGES and isinstance(start, (int, float, tuple)):
            expected, holds = _RANGES[name]
            if not holds(start):
                raise SettingsError(f"expected {expected}, got {given!r}")
        if name == "noise_type" and value is not None and value not in NOISE_TYPES:
            raise SettingsError(unknown("noise", value, NOISE_TYPES))
        return value
    except SettingsError as error:
        raise SettingsError(f"{name}: {error}") from error


def _parse_text(name: str, text: str) -> Any:
    if EXPONENT_NUMBER.match(text):
        return float(text)
    if name == "learning_rate" and text.startswith("lin_"):
        try:
            return LinearSchedule(float(text.removeprefix("lin_")), 0.0, 1.0)
        except ValueError:
            raise SettingsError(f"expected a number after lin_, such as lin_7.3e-4, got {text!r}") from None
    if name.endswith("_kwargs") or name in ("normalize", "replay_buffer_class"):
        return evaluate(text)
    if name == "policy" and "." in text:
        return _import_path(text)
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


def _import_callables(value: Any, callbacks: bool) -> tuple[tuple[Callable[..., Any], dict[str, Any]], ...]:
    callables: list[tuple[Callable[..., Any], dict[str, Any]]] = []
    for item in value if isinstance(value, list) else [value or {}]:
        for path, kwargs in ({item: None} if isinstance(item, str) else item).items():
            target = _import_path(path)
            # A callback is called with the arguments of the file alone: it had better be one
            if callbacks and not (isinstance(target, type) and issubclass(target, BaseCallback)):
                raise SettingsError(f"expected a subclass of BaseCallback, got {path!r}")
            callables.append((target, kwargs or {}))
    return tuple(callables)


def _import_path(path: str) -> Any:
    module, _, attribute = path.rpartition(".")
    if not (module and all(part.isidentifier() for part in path.split("."))):
        raise SettingsError(f"expected an import path such as package.module.Class, got {path!r}")
    try:
        target = load_attribute(f"{module}:{attribute}")
    except (ImportError, AttributeError) as error:
        raise SettingsError(f"cannot import {path!r} ({error}); install its package or mend the path") from error
    if not callable(target):
        raise SettingsError(f"expected a class or a function, and {path!r} is neither")
    return target


def load_attribute(location: str) -> Any:
    """
    :param location: ``package.module:name``
    :return: What has that name
    :raises ImportError: If there is no such module
    :raises AttributeError: If there is no such name in it
    """
    module, attribute = location.split(":")
    return getattr(importlib.import_module(module), attribute)
