"""Hyperparameter files in RL Zoo's format, read into checked and frozen settings.

Nothing a file says is executed. Where RL Zoo calls ``eval`` on a string such as ``dict(net_arch=[64, 64])``, the
string is parsed here, and the only names in it that mean anything are those of one table. Import paths (wrappers,
callbacks, a dotted policy) are imported, as in RL Zoo.
"""

import ast
import copy
import importlib
import inspect
import math
import re
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common import buffers, torch_layers
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn, optim

from sb3_ddpg_ext.errors import SettingsError, unknown
from sb3_ddpg_ext.noise import NOISES

ALGORITHMS: Mapping[str, str] = {
    "custom_ddpg": "sb3_ddpg_ext.ddpg:CustomDDPG",
    "ddpg": "stable_baselines3:DDPG",
    "td3": "stable_baselines3:TD3",
    "sac": "stable_baselines3:SAC",
    "tqc": "sb3_contrib:TQC",
    "crossq": "sb3_contrib:CrossQ",
    "sbx_ddpg": "sbx:DDPG",
    "sbx_td3": "sbx:TD3",
    "sbx_sac": "sbx:SAC",
    "sbx_tqc": "sbx:TQC",
    "sbx_crossq": "sbx:CrossQ",
}
"""Where the class of each algorithm is found. Its name, without ``sbx_``, is also that of its hyperparameter file."""

# What brings the packages that this one does not depend on itself
_INSTALL = {"sb3_contrib": "'sb3_ddpg_ext[train]'", "sbx": "sbx-rl"}

_ACTIVATIONS = "ReLU ReLU6 LeakyReLU ELU SELU CELU GELU SiLU Mish Softplus Softsign Tanh Hardtanh Sigmoid Identity"
# Every name that a Python expression in a file may use, and what it stands for.
_NAMES: Mapping[str, Any] = {
    prefix + name: getattr(module, name)
    for prefixes, module, names in (
        (("nn.", "th.nn.", "torch.nn."), nn, _ACTIVATIONS),
        (("optim.", "th.optim.", "torch.optim."), optim, "Adam AdamW Adamax NAdam RAdam Adagrad RMSprop SGD"),
        (("",), torch_layers, "FlattenExtractor NatureCNN CombinedExtractor"),
        (("",), buffers, "ReplayBuffer DictReplayBuffer NStepReplayBuffer"),
    )
    for prefix in prefixes
    for name in names.split()
} | {"RMSpropTFLike": RMSpropTFLike, "HerReplayBuffer": HerReplayBuffer}

_NOISE_TYPES = (*NOISES, "ornstein-uhlenbeck")  # the latter is RL Zoo's name for SB3's process

_Path = str | dict[str, dict[str, Any] | None]
_Paths = _Path | list[_Path] | None
# The keys of an entry that do not go to the algorithm's constructor, with their types.
_RUN_KEYS: Mapping[str, Any] = {
    "n_timesteps": int,
    "n_envs": int | None,
    "normalize": bool | dict[str, Any] | None,
    "frame_stack": int | None,
    "env_wrapper": _Paths,
    "vec_env_wrapper": _Paths,
    "callback": _Paths,
    "env_kwargs": dict[str, Any] | None,
    "monitor_kwargs": dict[str, Any] | None,
    "noise_type": str | None,
    "noise_std": float | list[float] | None,
    "noise_kwargs": dict[str, Any] | None,
}
_NOISE_KEYS = ("noise_type", "noise_std", "noise_kwargs")
# Parameters of the constructor that belong to the run and not to the hyperparameters.
_NOT_HERE = frozenset({"env", "seed", "verbose", "device", "tensorboard_log", "action_noise", "_init_setup_model"})

_COUNTS = ("n_timesteps", "n_envs", "frame_stack", "buffer_size", "batch_size", "n_steps", "policy_delay")
# Values of the right type that Stable-Baselines3 would take without a word, or fail on much later.
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

# YAML 1.1, which PyYAML reads, takes 1e-3 for a string and only 1.0e-3 for a number.
_EXPONENT_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+\Z")


@dataclass(frozen=True)
class Settings:
    """
    Everything a hyperparameter entry says about a training run. Picklable; to be read, not to be changed:
    Stable-Baselines3 writes into the ``policy_kwargs`` it is given, so pass it a (deep) copy of ``hyperparams``.

    :param n_timesteps: Number of environment steps to train for
    :param n_envs: Number of parallel environments
    :param normalize: Keyword arguments of ``VecNormalize``; ``None`` for no normalisation
    :param frame_stack: Number of observations to stack; ``None`` for no stacking
    :param env_wrapper: Wrappers of each environment, innermost first, with their keyword arguments
    :param vec_env_wrapper: Wrappers of the vectorized environment, innermost first, with their keyword arguments
    :param callback: Callback classes with their keyword arguments
    :param env_kwargs: Keyword arguments of the environment
    :param monitor_kwargs: Keyword arguments of the ``Monitor`` wrapper
    :param noise_type: A name of :data:`sb3_ddpg_ext.noise.NOISES`, RL Zoo's ``"ornstein-uhlenbeck"`` or ``None``
    :param noise_std: Standard deviation of the action noise (sigma of RL Zoo's ``"ornstein-uhlenbeck"``), one number or
        one for each action; ``None`` for the default of the noise process
    :param noise_kwargs: Further keyword arguments of the noise process, and ``schedule``
    :param hyperparams: Arguments of the algorithm's constructor, among them always ``policy``
    :param raw: The plain entry these settings were made from, ready to be written as YAML and to be parsed again
    """

    n_timesteps: int
    n_envs: int = 1
    normalize: Mapping[str, Any] | None = None
    frame_stack: int | None = None
    env_wrapper: tuple[tuple[Callable[..., Any], Mapping[str, Any]], ...] = ()
    vec_env_wrapper: tuple[tuple[Callable[..., Any], Mapping[str, Any]], ...] = ()
    callback: tuple[tuple[Callable[..., Any], Mapping[str, Any]], ...] = ()
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    monitor_kwargs: Mapping[str, Any] = field(default_factory=dict)
    noise_type: str | None = None
    noise_std: float | Sequence[float] | None = None
    noise_kwargs: Mapping[str, Any] = field(default_factory=dict)
    hyperparams: Mapping[str, Any] = field(default_factory=dict)
    raw: Mapping[str, Any] = field(default_factory=dict)


def algorithm_class(algo: str) -> type[OffPolicyAlgorithm]:
    """
    Import the class of an algorithm.

    :param algo: A name in :data:`ALGORITHMS`
    :return: The class
    :raises SettingsError: If there is no such algorithm, or the package it is in is not installed
    """
    if algo not in ALGORITHMS:
        raise SettingsError(unknown("algorithm", algo, ALGORITHMS))
    try:
        cls: type[OffPolicyAlgorithm] = _load(ALGORITHMS[algo])
    except ModuleNotFoundError as error:
        install = _INSTALL.get(ALGORITHMS[algo].split(":")[0], error.name)
        raise SettingsError(f"{algo} needs {error.name}: pip install {install}") from error
    return cls


def hyperparams_file(algo: str) -> Path:
    """:return: This package's own file of settings for an algorithm of :data:`ALGORITHMS`; SBX's take SB3's"""
    package = Path(__file__).parent
    installed = package / "hyperparams"
    directory = installed if installed.is_dir() else package.parent / "hyperparams"
    return directory / f"{algo.removeprefix('sbx_')}.yml"


def load_settings(algo: str, env_id: str, file: Path | None = None, overrides: Sequence[str] = ()) -> Settings:
    """
    Read the settings of an algorithm for an environment from a hyperparameter file.

    :param algo: A name in :data:`ALGORITHMS`
    :param env_id: Id of the environment (``package:Env-v0`` finds the entry ``Env-v0``, too). An environment without
        an entry gets the entry ``default``.
    :param file: A file in RL Zoo's format; the one that comes with this package if not given
    :param overrides: ``name=value`` each, the value in YAML; replaces the file's value of that name, and
        ``action_noise`` all that the file says about noise
    :return: The settings
    :raises SettingsError: If the file cannot be read, has no entry for the environment, or one that cannot be used
    """
    algorithm_class(algo)  # before its file is looked for
    file = file or hyperparams_file(algo)
    entries = read_yaml(file)
    name = next((name for name in (env_id, env_id.split(":")[-1], "default") if name in entries), None)
    if name is None:
        raise SettingsError(f"{file.name}: {unknown('environment', env_id, entries)} Add an entry for it or 'default'")
    entry, source = entries[name], f"{file.name}, {name}"
    if not isinstance(entry, dict):
        raise SettingsError(f"{source}: expected a mapping of hyperparameters, got {reprlib.repr(entry)}")
    if overrides:
        source += f" with {' '.join(overrides)}"
    chosen = dict(map(parse_override, overrides))
    if "action_noise" in chosen:
        entry = {name: value for name, value in entry.items() if name not in _NOISE_KEYS}
    return parse_settings(algo, {**entry, **chosen}, source)


def read_yaml(file: Path) -> dict[Any, Any]:
    """
    Read a YAML file, such as a hyperparameter file or the ``config.yml`` of a run, that holds one mapping.

    :param file: The file
    :return: The mapping
    :raises SettingsError: If it cannot be read, is not YAML or is something else than a mapping
    """
    try:
        content = _parse_yaml(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{file}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise SettingsError(f"{file.name}: not a YAML file: {error}") from error
    if not isinstance(content, dict):
        raise SettingsError(f"{file.name}: expected a mapping, got {reprlib.repr(content)}")
    return content


def parse_settings(algo: str, raw: Mapping[str, Any], source: str) -> Settings:
    """
    Check and convert one entry of a hyperparameter file, or the ``config.yml`` of a run.

    :param algo: A name in :data:`ALGORITHMS`
    :param raw: The entry, as YAML has it
    :param source: Where it comes from; error messages begin with it
    :return: The settings
    :raises SettingsError: If a name is not known or a value cannot be used
    """
    algorithm = algorithm_class(algo)
    # `eval_str` resolves annotations kept as strings: it runs the class's own code, nothing of the entry
    parameters = list(inspect.signature(algorithm.__init__, eval_str=True).parameters.values())[1:]
    # SBX does not annotate its policy
    hints = {p.name: Any if p.annotation is p.empty else p.annotation for p in parameters if p.name not in _NOT_HERE}
    types = {**_RUN_KEYS, **hints}
    try:
        raw = _spell_out_noise(raw)
        for name in raw:
            if name in _NOT_HERE:
                raise SettingsError(f"{name} cannot be set here: it belongs to the run")
            if name not in types:
                raise SettingsError(unknown("hyperparameter", str(name), types))
        if raw.get("n_timesteps") is None:
            raise SettingsError("n_timesteps is missing; add for example n_timesteps: 100000")
        values = {name: _convert(name, value, types[name]) for name, value in raw.items()}
        hyperparams = {name: value for name, value in values.items() if name not in _RUN_KEYS}
        policy = hyperparams.setdefault("policy", "MlpPolicy")
        if isinstance(policy, str) and policy not in algorithm.policy_aliases:
            raise SettingsError(unknown("policy", policy, algorithm.policy_aliases))
        kwargs = hyperparams.get("policy_kwargs") or {}
        if algo.startswith("sbx_") and (classes := [key for key, value in kwargs.items() if isinstance(value, type)]):
            raise SettingsError(
                f"policy_kwargs: {classes[0]} is a class of PyTorch, which SBX cannot use; leave it out"
            )
        run = {name: value for name, value in values.items() if name in _RUN_KEYS and value is not None}
        train_freq = hyperparams.get("train_freq")
        if isinstance(train_freq, tuple) and train_freq[1] == "episode" and run.get("n_envs", 1) > 1:
            raise SettingsError(f"train_freq in episodes needs n_envs: 1, got {run['n_envs']}; count it in steps")
        normalize = run.pop("normalize", False)
        if normalize is not False:
            # VecNormalize scales rewards by their discounted returns: the algorithm's discount, unless told otherwise
            discount = {"gamma": hyperparams["gamma"]} if "gamma" in hyperparams else {}
            run["normalize"] = discount | ({} if normalize is True else normalize)
        if "noise_type" in raw and "noise_type" not in run:  # a null switches the noise off, whatever its size
            run = {name: value for name, value in run.items() if name not in _NOISE_KEYS}
        elif "noise_type" not in raw and (orphan := next((name for name in _NOISE_KEYS if name in run), None)):
            raise SettingsError(f"{orphan} without noise_type; add noise_type: normal or noise_type: ou")
        return Settings(**run, hyperparams=hyperparams, raw=copy.deepcopy(dict(raw)))
    except SettingsError as error:
        raise SettingsError(f"{source}: {error}") from error


def _spell_out_noise(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """``action_noise`` (a name, ``{type: ..., std: ...}`` with further arguments, or null) in RL Zoo's three keys."""
    if "action_noise" not in raw:
        return raw
    if clash := next((name for name in _NOISE_KEYS if name in raw), None):
        raise SettingsError(f"action_noise and {clash} exclude each other; use one of the two")
    given = raw["action_noise"]
    noise = {"type": given} if given is None or isinstance(given, str) else given
    if not (isinstance(noise, dict) and "type" in noise):
        raise SettingsError(
            f"action_noise: expected a name, {{type: ..., std: ...}} or null, got {reprlib.repr(given)}"
        )
    kwargs = {key: value for key, value in noise.items() if key not in ("type", "std")}
    spelt_out = {"noise_type": noise["type"], "noise_std": noise.get("std"), "noise_kwargs": kwargs or None}
    rest = {name: value for name, value in raw.items() if name != "action_noise"}
    return rest | {name: value for name, value in spelt_out.items() if name == "noise_type" or value is not None}


def _convert(name: str, given: Any, hint: Any) -> Any:
    """Turn a value as YAML has it into one of the type `hint`, or say why that is not possible."""
    try:
        value = _parse_text(name, given.strip()) if isinstance(given, str) else given
        if name in ("policy_kwargs", "replay_buffer_kwargs") and isinstance(value, dict):
            classes = {k: v for k, v in value.items() if isinstance(v, str) and str(k).endswith(("_fn", "_class"))}
            value = value | {key: _evaluate(text) for key, text in classes.items()}
        value = _validate(value, hint, given)
        if hint is _Paths:
            found = _import_callables(value, callbacks=name == "callback")
            if any(target is VecNormalize for target, _ in found):
                raise SettingsError("VecNormalize is set by normalize, so that its statistics are saved")
            return found
        start = value.start if isinstance(value, LinearSchedule) else value
        if name in _RANGES and isinstance(start, (int, float, tuple)):
            expected, holds = _RANGES[name]
            if not holds(start):
                raise SettingsError(f"expected {expected}, got {given!r}")
        if name == "noise_type" and value is not None and value not in _NOISE_TYPES:
            raise SettingsError(unknown("noise", value, _NOISE_TYPES))
        return value
    except SettingsError as error:
        raise SettingsError(f"{name}: {error}") from error


def _parse_text(name: str, text: str) -> Any:
    if _EXPONENT_NUMBER.match(text):
        return float(text)
    if name == "learning_rate" and text.startswith("lin_"):
        try:
            return LinearSchedule(float(text.removeprefix("lin_")), 0.0, 1.0)
        except ValueError:
            raise SettingsError(f"expected a number after lin_, such as lin_7.3e-4, got {text!r}") from None
    if name.endswith("_kwargs") or name in ("normalize", "replay_buffer_class"):
        return _evaluate(text)
    if name == "policy" and "." in text:
        return _import_path(text)
    return text


def _validate(value: Any, hint: Any, given: Any) -> Any:
    # Strict, for else True would pass for 1 and "64" for 64
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
    if hint is _Paths:
        expected = "an import path, a mapping from import path to arguments, or a list of these (check the indentation)"
    else:  # as in the signature, without module names: "float | lin_<number>"
        expected = hint.__name__ if hint in (bool, int, float, str) else re.sub(r"(\w+\.)+", "", repr(hint))
        expected = re.sub(r"Callable(\[\[float\], float\])?", "lin_<number>", expected)
    raise SettingsError(f"expected {expected}, got {reprlib.repr(given)}")


def _import_callables(value: Any, callbacks: bool) -> tuple[tuple[Callable[..., Any], dict[str, Any]], ...]:
    found: list[tuple[Callable[..., Any], dict[str, Any]]] = []
    for item in value if isinstance(value, list) else [value or {}]:
        for path, kwargs in ({item: None} if isinstance(item, str) else item).items():
            target = _import_path(path)
            # A callback is called with the arguments of the file alone: it had better be one
            if callbacks and not (isinstance(target, type) and issubclass(target, BaseCallback)):
                raise SettingsError(f"expected a subclass of BaseCallback, got {path!r}")
            found.append((target, kwargs or {}))
    return tuple(found)


def _import_path(path: str) -> Any:
    module, _, attribute = path.rpartition(".")
    if not (module and all(part.isidentifier() for part in path.split("."))):
        raise SettingsError(f"expected an import path such as package.module.Class, got {path!r}")
    try:
        target = _load(f"{module}:{attribute}")
    except (ImportError, AttributeError) as error:
        raise SettingsError(f"cannot import {path!r} ({error}); install its package or mend the path") from error
    if not callable(target):
        raise SettingsError(f"expected a class or a function, and {path!r} is neither")
    return target


def _load(location: str) -> Any:
    module, attribute = location.split(":")
    return getattr(importlib.import_module(module), attribute)


def _evaluate(text: str) -> Any:
    """The value of a Python expression made of literals, ``dict(...)`` and the names of :data:`_NAMES`."""
    try:
        return _build(ast.parse(text, mode="eval").body)
    except SettingsError:
        raise
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        example = "a mapping or an expression such as dict(net_arch=[64, 64])"
        raise SettingsError(f"expected {example}, got {reprlib.repr(text)}") from error


def _build(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=None | bool() | int() | float() | str() as value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.List(elts=items):
            return [_build(item) for item in items]
        case ast.Tuple(elts=items):
            return tuple(_build(item) for item in items)
        case ast.Dict(keys=keys, values=values) if all(isinstance(key, ast.Constant) for key in keys):
            return {_build(key): _build(value) for key, value in zip(keys, values, strict=True) if key}
        case ast.Call(func=ast.Name(id="dict"), args=[], keywords=items) if all(item.arg for item in items):
            return {item.arg: _build(item.value) for item in items}
        case ast.Name() | ast.Attribute() if ast.unparse(node) in _NAMES:
            return _NAMES[ast.unparse(node)]
    raise SettingsError(
        f"{reprlib.repr(ast.unparse(node))} is not allowed here; expected numbers, strings, lists, dict(...) and names "
        "such as nn.ReLU, th.optim.Adam or HerReplayBuffer"
    )


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader that also reads 1e-3 as a number."""


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT_NUMBER, list("-+.0123456789"))


def _parse_yaml(text: str) -> Any:
    """:raises ValueError: One line that says what is wrong, and where, if the text is not YAML."""
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ValueError(f"{where}{error.problem}") from error
    except (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as e:
        # PyYAML lets the errors of its number and date constructors through
        raise ValueError(" ".join(str(e).split())) from e


def parse_override(text: str) -> tuple[str, Any]:
    """
    Read one override.

    :param text: ``name=value``, the value in YAML
    :return: The name and the value
    :raises SettingsError: If there is no name
    """
    name, equals, value = text.partition("=")
    if not (equals and name.strip()):
        raise SettingsError(f"override {text!r}: expected name=value, such as gamma=0.98")
    try:
        return name.strip(), _parse_yaml(value)
    except ValueError:
        return name.strip(), value  # not YAML: an expression such as dict(a={'b': 1}), or to be reported with its name
