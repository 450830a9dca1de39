"""
Hyperparameter files in RL Zoo's format, read into checked and frozen settings. Nothing that a file says is executed
(:mod:`sb3_ddpg_ext.expressions`), but import paths (wrappers, callbacks, a dotted policy) are imported, as in RL Zoo.
"""

import contextlib
import copy
import re
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ddpg_ext.conversion import Paths, check_arguments, convert
from sb3_ddpg_ext.ddpg import CustomDDPG
from sb3_ddpg_ext.errors import SettingsError, unknown
from sb3_ddpg_ext.expressions import MAX_BYTES, as_data, evaluate, parse_yaml
from sb3_ddpg_ext.imports import import_class, load_attribute, parameters_of
from sb3_ddpg_ext.prioritized import PrioritizedReplayBuffer

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

# The keys of an entry that do not go to the algorithm's constructor, with their types.
_RUN_KEYS: Mapping[str, Any] = {
    "n_timesteps": int,
    "n_envs": int | None,
    "normalize": bool | dict[str, Any] | None,
    "frame_stack": int | None,
    "env_wrapper": Paths,
    "vec_env_wrapper": Paths,
    "callback": Paths,
    "env_kwargs": dict[str, Any] | None,
    "monitor_kwargs": dict[str, Any] | None,
    "noise_type": str | None,
    "noise_std": float | list[float] | None,
    "noise_kwargs": dict[str, Any] | None,
}
NOISE_KEYS = ("noise_type", "noise_std", "noise_kwargs")
"""RL Zoo's keys for the action noise."""

# Parameters of the constructor that belong to the run and not to the hyperparameters.
_SET_BY_THE_RUN = frozenset(
    {"env", "seed", "verbose", "device", "tensorboard_log", "action_noise", "_init_setup_model"}
)


@dataclass(frozen=True)
class NoiseSettings:
    """
    What an entry says about action noise.

    :param type: A name of :data:`sb3_ddpg_ext.noise.NOISES`, RL Zoo's ``"ornstein-uhlenbeck"``, or None for no noise
    :param std: Standard deviation of the action noise (sigma of RL Zoo's ``"ornstein-uhlenbeck"``), one number or one
        for each action; None for the default of the noise process
    :param kwargs: Further keyword arguments of the noise process, and ``schedule``
    """

    type: str | None
    std: float | Sequence[float] | None = None
    kwargs: Mapping[str, Any] = field(default_factory=dict)


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
    :param noise: The action noise; ``None`` where the entry does not say, for the algorithm's own default
    :param hyperparams: Arguments of the algorithm's constructor, among them always ``policy``
    :param raw: The plain entry these settings were made from, ready to be written as YAML and to be parsed again
    :param source: Where they come from: the file, its entry, and what overrides it
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
    noise: NoiseSettings | None = None
    hyperparams: Mapping[str, Any] = field(default_factory=dict)
    raw: Mapping[str, Any] = field(default_factory=dict)
    source: str = field(default="", compare=False, repr=False)


def is_own(algo: str) -> bool:
    """:return: Whether an algorithm is named by its class, ``module:Class``, and not by a name in :data:`ALGORITHMS`"""
    return algo not in ALGORITHMS and re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", algo) is not None


def algo_name(algo: str) -> str:
    """:return: An algorithm as a file name: of ``module:Class`` the class"""
    return algo.split(":")[-1]


def algorithm_class(algo: str, not_from: Path | None = None) -> type[OffPolicyAlgorithm]:
    """
    Import the class of an algorithm.

    :param algo: A name in :data:`ALGORITHMS`, or ``module:Class``
    :param not_from: The run directory that names it, see :func:`~sb3_ddpg_ext.imports.import_class`
    :return: The class
    :raises SettingsError: If there is no such algorithm, or the package it is in is not installed
    """
    if is_own(algo):
        return import_class(algo.replace(":", "."), OffPolicyAlgorithm, not_from)
    if algo not in ALGORITHMS:
        raise SettingsError(unknown("algorithm", algo, ALGORITHMS))
    try:
        cls: type[OffPolicyAlgorithm] = load_attribute(ALGORITHMS[algo])
    except ModuleNotFoundError as error:
        install = _INSTALL.get(ALGORITHMS[algo].split(":")[0], error.name)
        raise SettingsError(f"{algo} needs {error.name}: pip install {install}") from error
    return cls


def base_algorithm(algo: str) -> str | None:
    """:return: The name in :data:`ALGORITHMS` whose settings an algorithm takes; None for a foreign class"""
    if not is_own(algo):
        return algo
    names = {(location.split(".")[0].split(":")[0], location.split(":")[1]): n for n, location in ALGORITHMS.items()}
    ancestors = ((cls.__module__.split(".")[0], cls.__name__) for cls in algorithm_class(algo).__mro__)
    return next((names[ancestor] for ancestor in ancestors if ancestor in names), None)


def own_file(algo: str) -> Path:
    """:return: The user's own file of settings for an algorithm, in the current folder; ``tune`` writes to it"""
    return Path("hyperparams") / f"{algo_name(algo).removeprefix('sbx_')}.yml"


def _files(algo: str) -> list[Path]:
    """All files with settings for an algorithm, those first that come first."""
    base = base_algorithm(algo)
    own = [own_file(name) for name in dict.fromkeys((algo, base)) if name is not None]
    return [*(file for file in own if file.exists()), *([] if base is None else [hyperparams_file(base)])]


def hyperparams_file(algo: str) -> Path:
    """:return: This package's own file of settings for an algorithm of :data:`ALGORITHMS`; SBX's take SB3's"""
    package = Path(__file__).parent
    installed = package / "hyperparams"
    directory = installed if installed.is_dir() else package.parent / "hyperparams"
    return directory / f"{algo.removeprefix('sbx_')}.yml"


def named_file(named: Path) -> Path:
    """
    Find the file that the user has named.

    :param named: A path, or the name of a file of this package, without ``.yml``: of an algorithm, or of a preset such
        as ``few_steps``
    :return: The file
    :raises SettingsError: If it is a name, and there is no such file
    """
    if named.suffix or len(named.parts) > 1 or named.is_file():
        return named
    file = hyperparams_file(named.name)
    if not file.is_file():
        raise SettingsError(unknown("settings", named.name, [f.stem for f in file.parent.glob("*.yml")]))
    return file


def load_settings(algo: str, env_id: str, file: Path | None = None, overrides: Sequence[str] = ()) -> Settings:
    """
    Read the settings of an algorithm for an environment from a hyperparameter file.

    :param algo: A name in :data:`ALGORITHMS`, or ``module:Class``. A class that inherits from one of those has its
        settings; others have the defaults of their constructor, where no file says otherwise
    :param env_id: Id of the environment (``package:Env-v0`` finds the entry ``Env-v0``, too). An environment without
        an entry gets the entry ``default``.
    :param file: A file in RL Zoo's format, see :func:`named_file`. If not given, the entries of the user's own one,
        :func:`own_file`, come before those of the one that comes with this package
    :param overrides: ``name=value`` each, see :func:`override`. ``action_noise`` replaces all that the file says about
        noise
    :return: The settings
    :raises SettingsError: If the file cannot be read, has no entry for the environment, or one that cannot be used
    """
    algorithm_class(algo)  # before its file is looked for
    chosen = list(map(parse_override, overrides))
    files = _files(algo) if file is None else [named_file(file)]
    if not files:
        if not any(name == "n_timesteps" for name, _ in chosen):
            raise SettingsError(f"{algo} has the defaults of its constructor, where no file has settings; say --steps")
        return _parse_overridden(algo, {}, chosen, " ".join((algo, *overrides)))
    contents = list(map(read_yaml, files))
    names = (env_id, env_id.split(":")[-1], "default")
    found = ((name, i) for name in names for i, entries in enumerate(contents) if name in entries)
    if (first := next(found, None)) is None:
        known = [name for entries in contents for name in entries]
        raise SettingsError(
            f"{files[-1].name}: {unknown('environment', env_id, known)} Add an entry for it or 'default'"
        )
    name, i = first
    chosen_file = files[i].name if files[i].is_absolute() else files[i]
    entry, source = contents[i][name], f"{chosen_file}, {name}"
    if not isinstance(entry, dict):
        raise SettingsError(f"{source}: expected a mapping of hyperparameters, got {reprlib.repr(entry)}")
    if overrides:
        source += f" with {' '.join(overrides)}"
    if any(name == "action_noise" for name, _ in chosen):
        entry = {name: value for name, value in entry.items() if name not in NOISE_KEYS}
    return _parse_overridden(algo, entry, chosen, source)


def _parse_overridden(
    algo: str, entry: Mapping[str, Any], overrides: Sequence[tuple[str, Any]], source: str
) -> Settings:
    overridden = copy.deepcopy(dict(entry))  # the entries of a file share what they have in common
    try:
        for name, value in overrides:
            override(overridden, name, value)
    except SettingsError as error:
        raise SettingsError(f"{source}: {error}") from error
    return parse_settings(algo, overridden, source)


def read_yaml(file: Path) -> dict[Any, Any]:
    """
    Read a YAML file, such as a hyperparameter file or the ``config.yml`` of a run, that holds one mapping.

    :param file: The file
    :return: The mapping
    :raises SettingsError: If it cannot be read, is not YAML or is something else than a mapping
    """
    try:
        with file.open("rb") as opened:
            content = parse_yaml(opened.read(MAX_BYTES + 1).decode())
    except OSError as error:
        raise SettingsError(f"{file}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise SettingsError(f"{file.name}: not a YAML file: {error}") from error
    if not isinstance(content, dict):
        raise SettingsError(f"{file.name}: expected a mapping, got {reprlib.repr(content)}")
    return content


def parse_settings(algo: str, raw: Mapping[str, Any], source: str, not_from: Path | None = None) -> Settings:
    """
    Check and convert one entry of a hyperparameter file, or the ``config.yml`` of a run.

    :param algo: A name in :data:`ALGORITHMS`
    :param raw: The entry, as YAML has it
    :param source: Where it comes from; error messages begin with it
    :param not_from: The run directory that it comes from, see :func:`~sb3_ddpg_ext.imports.import_class`
    :return: The settings
    :raises SettingsError: If a name is not known or a value cannot be used
    """
    algorithm = algorithm_class(algo, not_from)
    try:
        raw = _spell_out_noise(raw)
        types = _types(algorithm)
        _check_names(raw, types)
        values = {name: convert(name, value, types[name], not_from) for name, value in raw.items()}
        hyperparams = {name: value for name, value in values.items() if name not in _RUN_KEYS}
        hyperparams.setdefault("policy", "MlpPolicy")
        run_values = {name: value for name, value in values.items() if name in _RUN_KEYS and value is not None}
        _check_combinations(algo, algorithm, hyperparams, run_values)
        noise = _noise(values)
        normalize = _normalize(run_values.pop("normalize", False), hyperparams)
        rest = {name: value for name, value in run_values.items() if name not in NOISE_KEYS}
        plain = copy.deepcopy(dict(raw))
        return Settings(**rest, normalize=normalize, noise=noise, hyperparams=hyperparams, raw=plain, source=source)
    except SettingsError as error:
        raise SettingsError(f"{source}: {error}") from error


def _types(algorithm: type[OffPolicyAlgorithm]) -> dict[str, Any]:
    """The names that an entry can have, with the types of their values."""
    # SBX does not annotate its policy
    hints = {n: Any if p.annotation is p.empty else p.annotation for n, p in parameters_of(algorithm).items()}
    return {**_RUN_KEYS, **{name: hint for name, hint in hints.items() if name not in _SET_BY_THE_RUN}}


def _check_names(raw: Mapping[str, Any], types: Mapping[str, Any]) -> None:
    for name in raw:
        if name in _SET_BY_THE_RUN:
            raise SettingsError(f"{name} cannot be set here: it belongs to the run")
        if name not in types:
            raise SettingsError(unknown("hyperparameter", str(name), types))
    if raw.get("n_timesteps") is None:
        raise SettingsError("n_timesteps is missing; add for example n_timesteps: 100000")


def _check_combinations(
    algo: str,
    algorithm: type[OffPolicyAlgorithm],
    hyperparams: Mapping[str, Any],
    run_values: Mapping[str, Any],
) -> None:
    """Values that are right by themselves, but not for this algorithm or beside one another."""
    policy, train_freq = hyperparams["policy"], hyperparams.get("train_freq")
    if isinstance(policy, str) and policy not in algorithm.policy_aliases:
        raise SettingsError(unknown("policy", policy, algorithm.policy_aliases))
    kwargs = hyperparams.get("policy_kwargs") or {}
    if algo.startswith("sbx_") and (classes := [key for key, value in kwargs.items() if isinstance(value, type)]):
        raise SettingsError(f"policy_kwargs: {classes[0]} is a class of PyTorch, which SBX cannot use; leave it out")
    if hyperparams.get("replay_buffer_class") is PrioritizedReplayBuffer and not issubclass(algorithm, CustomDDPG):
        raise SettingsError(
            f"replay_buffer_class: {algo} updates no priorities; PrioritizedReplayBuffer needs custom_ddpg"
        )
    if isinstance(train_freq, tuple) and train_freq[1] == "episode" and run_values.get("n_envs", 1) > 1:
        raise SettingsError(f"train_freq in episodes needs n_envs: 1, got {run_values['n_envs']}; count it in steps")
    buffer_class = hyperparams.get("replay_buffer_class") or ReplayBuffer
    for name, given, target in (  # whose constructors would take any text for true
        ("policy_kwargs", kwargs, algorithm.policy_aliases.get(policy, policy)),
        ("replay_buffer_kwargs", hyperparams.get("replay_buffer_kwargs"), buffer_class),
        ("normalize", run_values.get("normalize"), VecNormalize),
    ):
        if isinstance(given, Mapping):
            check_arguments(name, given, target)


def _normalize(value: bool | Mapping[str, Any], hyperparams: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Arguments of VecNormalize. It scales rewards by discounted returns: with the algorithm's gamma, if not given."""
    if value is False:
        return None
    gamma = {"gamma": hyperparams["gamma"]} if "gamma" in hyperparams else {}
    return gamma | ({} if value is True else dict(value))


def _noise(values: Mapping[str, Any]) -> NoiseSettings | None:
    if "noise_type" in values:
        name = values["noise_type"]
        if name is None:  # no noise, whatever else the file says about it
            return NoiseSettings(None)
        return NoiseSettings(name, values.get("noise_std"), values.get("noise_kwargs") or {})
    if lonely := next((name for name in NOISE_KEYS if values.get(name) is not None), None):
        raise SettingsError(f"{lonely} without noise_type; add noise_type: normal or noise_type: ou")
    return None


def _spell_out_noise(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """``action_noise`` (a name, ``{type: ..., std: ...}`` with further arguments, or null) in RL Zoo's three keys."""
    if "action_noise" not in raw:
        return raw
    if clash := next((name for name in NOISE_KEYS if name in raw), None):
        raise SettingsError(f"action_noise and {clash} exclude each other; use one of the two")
    given = raw["action_noise"]
    noise = {"type": given} if given is None or isinstance(given, str) else given
    if not (isinstance(noise, dict) and "type" in noise):
        raise SettingsError(
            f"action_noise: expected a name, {{type: ..., std: ...}} or null, got {reprlib.repr(given)}"
        )
    kwargs = {key: value for key, value in noise.items() if key not in ("type", "std")}
    zoo = {"noise_type": noise["type"], "noise_std": noise.get("std"), "noise_kwargs": kwargs or None}
    others = {name: value for name, value in raw.items() if name != "action_noise"}
    return others | {name: value for name, value in zoo.items() if name == "noise_type" or value is not None}


def parse_override(text: str) -> tuple[str, Any]:
    """
    Read one override.

    :param text: ``name=value``, the value in YAML
    :return: The name, which can have dots, and the value
    :raises SettingsError: If there is no name
    """
    name, equals, value = text.partition("=")
    if not (equals and all(part.strip() for part in name.split("."))):
        raise SettingsError(f"override {text!r}: expected name=value, such as gamma=0.98")
    try:
        return name.strip(), parse_yaml(value)
    except ValueError:
        return name.strip(), value  # not YAML: an expression such as dict(a={'b': 1}), or to be reported with its name


def override(entry: dict[str, Any], name: str, value: Any) -> None:
    """
    Replace one value of an entry.

    :param entry: The entry, which is changed
    :param name: Name of a setting, or with dots of a value inside of it, whose other values stay:
        ``policy_kwargs.net_arch``, ``noise_kwargs.schedule``, ``action_noise.std``
    :param value: The value
    :raises SettingsError: If the setting holds no names
    """
    path = setting_path(name)
    if path[0] in NOISE_KEYS and "." in name:  # where action_noise describes it, too
        spelled_out = dict(_spell_out_noise(entry))
        entry.clear()
        entry.update(spelled_out)
    set_value(entry, path, value)


def setting_path(name: str) -> tuple[str, ...]:
    """:return: The keys that lead to a setting in an entry: its name, cut at the dots"""
    first, *rest = name.split(".")
    if first != "action_noise" or not rest:
        return first, *rest
    return (f"noise_{rest[0]}", *rest[1:]) if rest[0] in ("type", "std") else ("noise_kwargs", *rest)


def set_value(entry: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """
    Set a value in an entry, and make the mappings on the way to it.

    :param entry: The entry, which is changed
    :param path: The names of the mappings that lead to the value, and its own
    :param value: The value
    :raises SettingsError: If there is something else than a mapping on the way
    """
    *outer, last = path
    for i, key in enumerate(outer):
        inner = entry.get(key)
        if isinstance(inner, str):
            with contextlib.suppress(SettingsError):  # dict(...), as RL Zoo writes it, or no mapping
                inner = as_data(evaluate(inner))
        if inner is None or isinstance(inner, bool):  # normalize: true is the same as {}
            inner = {}
        if not isinstance(inner, dict):
            outside = ".".join(outer[: i + 1])
            raise SettingsError(f"{outside} is {reprlib.repr(inner)}, in which nothing has a name; set it as a whole")
        entry[key] = inner
        entry = inner
    entry[last] = value
