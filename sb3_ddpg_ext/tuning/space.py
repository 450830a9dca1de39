"""
What can be tuned: one table of data. Sampling, the first trial, ``--fix`` and ``--space`` all read it, and each row
says how its value becomes part of an entry of a hyperparameter file, which :mod:`sb3_ddpg_ext.settings` reads as if a
user had written it.
"""

import copy
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from sb3_ddpg_ext.building import SB3_NOISES
from sb3_ddpg_ext.errors import SettingsError
from sb3_ddpg_ext.noise import NOISES
from sb3_ddpg_ext.settings import ALGORITHMS, Settings, algorithm_class, parse_override, parse_settings

Entry = dict[str, Any]
Value = float | int | str | bool | None

UNSET = "default"
"""The choice of leaving a setting out, where that is what the previous settings do."""

_NOISES = ("normal", "ou", "pink")  # of CustomDDPG
_PROCESSES: Mapping[str, Callable[..., Any]] = {**SB3_NOISES, **NOISES}
_TORCH = frozenset(name for name in ALGORITHMS if not name.startswith("sbx_"))
_DETERMINISTIC = frozenset({"custom_ddpg", "ddpg", "td3", "sbx_ddpg", "sbx_td3"})  # they explore by action noise alone
_CUSTOM = frozenset({"custom_ddpg"})


@dataclass(frozen=True)
class Dimension:
    """
    One row of the table.

    :param name: Its name in the study, in ``--fix`` and in ``--space``
    :param values: Range or choices, and scale
    :param place: Where it goes in an entry, with dots; its name if empty
    :param only: Name of another dimension, and the values of it for which this one means anything
    :param algos: Algorithms that have it; if not given, those whose constructor does
    :param possible: Whether an entry can have it
    :param default: What an algorithm does whose entry does not say, where that is not its constructor's default
    :param read: From an entry, with the constructor's defaults, to the value; by default what is in its place. None
        where no value can say it
    :param write: Puts a value into an entry; by default in its place
    """

    name: str
    values: BaseDistribution
    place: str = ""
    only: tuple[str, tuple[Value, ...]] | None = None
    algos: frozenset[str] | None = None
    possible: Callable[[Entry], bool] = lambda _: True
    default: Value = UNSET
    read: Callable[[Entry], Any] | None = None
    write: Callable[[Entry, Any], None] | None = None

    @property
    def path(self) -> tuple[str, ...]:
        """Where it goes in an entry"""
        return tuple((self.place or self.name).split("."))

    def put(self, entry: Entry, value: Any) -> None:
        """Write a value into an entry."""
        if self.write is not None:
            self.write(entry, value)
        else:
            _put(entry, self.path, value)

    def active(self, values: Mapping[str, Value]) -> bool:
        """:return: Whether it means anything beside these values of the dimensions before it"""
        return self.only is None or values.get(self.only[0]) in self.only[1]


def _read_learning_rate(entry: Entry) -> Any:
    rate = entry["learning_rate"]
    return float(rate.removeprefix("lin_")) if isinstance(rate, str) else rate


def _read_schedule(entry: Entry) -> str:
    return "linear" if str(entry["learning_rate"]).startswith("lin_") else "constant"


def _write_schedule(entry: Entry, value: str) -> None:
    rate = entry.get("learning_rate")
    if value == "linear" and isinstance(rate, int | float):  # a fixed one may be lin_... already
        entry["learning_rate"] = f"lin_{rate}"


def _transitions(entry: Entry) -> Any:
    """Between two rounds of gradient steps; None where that is an episode."""
    train_freq = entry.get("train_freq", 1)
    return train_freq * (entry.get("n_envs") or 1) if isinstance(train_freq, int) else None


def _read_updates(entry: Entry) -> float | None:
    steps, transitions = entry["gradient_steps"], _transitions(entry)
    return None if transitions is None or steps == 0 else 1.0 if steps == -1 else steps / transitions


def _write_updates(entry: Entry, value: float) -> None:
    if (transitions := _transitions(entry)) is not None:
        entry["gradient_steps"] = max(round(value * transitions), 1)


def _read_noise(entry: Entry) -> str:
    noise: str | None = entry.get("noise_type", entry["action_noise"])
    return "none" if noise is None else noise


def _write_noise(entry: Entry, value: str) -> None:
    entry["noise_type"] = None if value == "none" else value
    if value in _PROCESSES and entry.get("noise_kwargs"):  # those of another noise mean nothing to this one
        accepted = {*inspect.signature(_PROCESSES[value]).parameters, "schedule"}
        entry["noise_kwargs"] = {name: v for name, v in entry["noise_kwargs"].items() if name in accepted}


def _read_noise_std(entry: Entry) -> float | None:
    """None where it is one for each action."""
    std, noise = entry.get("noise_std"), _read_noise(entry)
    if std is None:
        std = inspect.signature(NOISES[noise]).parameters["std"].default if noise in NOISES else 0.1
    return std if isinstance(std, int | float) else None


def _can_have_n_steps(entry: Entry) -> bool:
    """SB3 has returns of several steps for its ordinary buffer alone."""
    kwargs = entry.get("replay_buffer_kwargs") or {}  # a mapping, or RL Zoo's dict(...)
    ordinary = entry.get("replay_buffer_class") is None and "optimize_memory_usage" not in kwargs
    return ordinary and not entry.get("optimize_memory_usage") and entry.get("policy") != "MultiInputPolicy"


def _write_noise_schedule(entry: Entry, value: Any) -> None:
    if value != "constant":
        _put(entry, ("noise_kwargs", "schedule"), value)


TABLE: Sequence[Dimension] = (
    Dimension("learning_rate", FloatDistribution(1e-4, 1e-2, log=True), read=_read_learning_rate),
    Dimension(
        "learning_rate_schedule",
        CategoricalDistribution(("constant", "linear")),
        place="learning_rate",
        read=_read_schedule,
        write=_write_schedule,
    ),
    Dimension("batch_size", CategoricalDistribution((32, 64, 128, 256, 512))),
    Dimension("buffer_size", CategoricalDistribution((10_000, 100_000, 1_000_000))),
    Dimension("learning_starts", CategoricalDistribution((100, 1_000, 10_000))),
    Dimension("tau", FloatDistribution(1e-3, 0.1, log=True)),
    Dimension("gamma", CategoricalDistribution((0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9999))),
    Dimension("n_steps", CategoricalDistribution((1, 3, 5)), possible=_can_have_n_steps),
    Dimension("train_freq", CategoricalDistribution((1, 2, 4, 8, 16, 32))),
    Dimension(
        "updates_per_step",
        CategoricalDistribution((0.25, 0.5, 1.0, 2.0)),
        place="gradient_steps",
        read=_read_updates,
        write=_write_updates,
    ),
    Dimension("policy_delay", CategoricalDistribution((1, 2, 4))),
    Dimension("ent_coef", CategoricalDistribution(("auto", 0.1, 0.03, 0.01, 0.003))),
    Dimension(
        "net_arch", CategoricalDistribution(("[64, 64]", "[256, 256]", "[400, 300]")), place="policy_kwargs.net_arch"
    ),
    Dimension(
        "activation_fn",
        CategoricalDistribution(("nn.ReLU", "nn.Tanh", "nn.ELU")),
        place="policy_kwargs.activation_fn",
        algos=_TORCH,
        default="nn.ReLU",
    ),
    Dimension("noise_type", CategoricalDistribution(_NOISES), algos=_CUSTOM, read=_read_noise, write=_write_noise),
    Dimension(
        "noise_type",
        CategoricalDistribution(tuple(SB3_NOISES)),
        algos=_DETERMINISTIC - _CUSTOM,
        read=_read_noise,
        write=_write_noise,
    ),
    Dimension(
        "noise_std",
        FloatDistribution(0.03, 1.0, log=True),
        only=("noise_type", tuple(_PROCESSES)),
        algos=_DETERMINISTIC,
        read=_read_noise_std,
    ),
    Dimension(
        "correlation_time",
        FloatDistribution(2.0, 200.0, log=True),
        place="noise_kwargs.correlation_time",
        only=("noise_type", ("ou",)),
        algos=_CUSTOM,
        default=1 / 0.15,
    ),
    Dimension(
        "noise_schedule",
        CategoricalDistribution(("constant", "linear")),
        place="noise_kwargs.schedule",
        only=("noise_type", tuple(NOISES)),
        algos=_CUSTOM,
        default="constant",
        write=_write_noise_schedule,
    ),
)
"""Everything that is tuned, a row each. A row comes after those that it depends on."""


@dataclass(frozen=True)
class Space:
    """
    The search space of one study.

    :param algo: Name of the algorithm
    :param base: The entry that the previous settings are, with what ``--fix`` says
    :param dimensions: All that can vary, in the table's order
    :param fixed: Values of those of them that do not
    :param current: What the previous settings say about each; None where no value can say it
    """

    algo: str
    base: Entry
    dimensions: tuple[Dimension, ...]
    fixed: Mapping[str, Value]
    current: Mapping[str, Value]

    def entry(self, values: Mapping[str, Value]) -> Entry:
        """:return: The entry of a hyperparameter file that values of the dimensions stand for"""
        values = {**self.fixed, **values}
        entry = copy.deepcopy(self.base)
        for dimension in self.dimensions:
            _remove(entry, dimension.path)
        for dimension in self.dimensions:
            if dimension.name in values and dimension.active(values) and values[dimension.name] != UNSET:
                value = _plain(values[dimension.name])
                drawn = dimension.name not in self.fixed and value != self.current[dimension.name]
                if drawn and isinstance(dimension.values, FloatDistribution):  # somebody is to read it
                    value = float(f"{value:.5g}")
                dimension.put(entry, value)
        if "noise_type" not in entry and any(dimension.name == "noise_type" for dimension in self.dimensions):
            for name in ("noise_std", "noise_kwargs"):  # of a noise that the space does not hold
                entry.pop(name, None)
        return entry

    def settings(self, values: Mapping[str, Value], source: str) -> Settings:
        """:return: The settings that values of the dimensions stand for; errors begin with ``source``"""
        return parse_settings(self.algo, self.entry(values), source)

    def sample(self, trial: optuna.Trial) -> dict[str, Value]:
        """:return: What a trial suggests for the dimensions that mean anything beside one another"""
        values: dict[str, Value] = {}
        for dimension in self.dimensions:
            if dimension.name not in self.fixed and dimension.active({**self.fixed, **values}):
                values[dimension.name] = _suggest(trial, dimension)
        return values

    def previous(self) -> dict[str, Value]:
        """:return: The values that stand for the previous settings, without those that the space does not hold"""
        values: dict[str, Value] = {}
        for dimension in self.dimensions:
            value = self.current[dimension.name]
            if dimension.name in self.fixed or value is None or not _holds(dimension.values, value):
                continue
            if dimension.active({**self.fixed, **values}):
                values[dimension.name] = value
        return values


def make_space(algo: str, previous: Settings, given: Mapping[str, Any], fix: Sequence[str]) -> Space:
    """
    The table, for an algorithm and its previous settings. Ranges are widened so that they hold these, and what no row
    can express stays as it is.

    :param algo: Name of the algorithm
    :param previous: Its previous settings
    :param given: What narrows or extends the table: names with a list of choices, ``{low, high, log}`` or one value
    :param fix: ``name=value`` each: what is not tuned
    :return: The space
    :raises SettingsError: If a name or a value cannot be used
    """
    for name in given:
        if not isinstance(name, str):
            raise SettingsError(f"--space: expected names of settings, got {name!r}")
    base = _readable(previous)
    parameters = inspect.signature(algorithm_class(algo).__init__, eval_str=True).parameters
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    rows = {
        row.name: row
        for row in TABLE
        if (algo in row.algos if row.algos is not None else row.path[0] in parameters)
        and isinstance(base.get(row.path[0]) or {}, dict) | (len(row.path) == 1)
    }
    fixed: dict[str, Value] = {}
    ranges = {name: values for name, value in given.items() if (values := _distribution(name, value)) is not None}
    # What the table does not have comes first: the table's rows may depend on it, as on n_envs
    rows = {name: Dimension(name, values) for name, values in ranges.items() if name not in rows} | rows
    for name, values in ranges.items():
        rows[name] = replace(rows[name], values=values)
    for name, value in ({k: v for k, v in given.items() if k not in ranges} | dict(map(parse_override, fix))).items():
        if name in rows:
            fixed[name] = _compact(value)
        else:  # any other setting; what it replaces is not tuned
            path = tuple(name.split("."))
            replaced = [("noise_type",), ("noise_std",), ("noise_kwargs",)] if name == "action_noise" else [path]
            rows = {r.name: r for r in rows.values() if not any(r.path[: len(gone)] == gone for gone in replaced)}
            for gone in replaced:
                _remove(base, gone)
            _put(base, path, value)
    base = dict(parse_settings(algo, base, "--fix").raw)
    dimensions = []
    for row in rows.values():
        current = _read(row, {**defaults, **base})
        if row.name in fixed or row.name in ranges:
            dimensions.append(row)
        elif current is not None and row.possible(base) and (widened := _widened(row.values, current)) is not None:
            dimensions.append(replace(row, values=widened))
    space = Space(
        algo, base, tuple(dimensions), fixed, {row.name: _read(row, {**defaults, **base}) for row in dimensions}
    )
    _check(space)
    return space


def _distribution(name: str, given: Any) -> BaseDistribution | None:
    """What a file says about a dimension; None where that is one value."""
    try:
        if isinstance(given, list):
            return CategoricalDistribution(list(map(_compact, given)))
        if isinstance(given, dict) and {"low", "high"} <= given.keys():
            whole = isinstance(given["low"], int) and isinstance(given["high"], int)
            return IntDistribution(**given) if whole else FloatDistribution(**given)
    except (TypeError, ValueError) as error:
        raise SettingsError(
            f"--space: {name}: expected choices such as [0.1, 1] or {{low: 0.1, high: 1, log: true}}: {error}"
        ) from error
    return None


def _readable(previous: Settings) -> Entry:
    """An entry whose arguments are mappings, also where the file has strings as RL Zoo does."""
    entry = copy.deepcopy(dict(previous.raw))
    if isinstance(entry.get("noise_kwargs"), str):
        entry["noise_kwargs"] = _listed(previous.noise.kwargs if previous.noise else {})
    if isinstance(entry.get("policy_kwargs"), str):
        names = {"torch.nn.modules": "nn", "torch.optim": "th.optim"}
        kwargs = dict(previous.hyperparams["policy_kwargs"])
        for key, value in kwargs.items():
            if isinstance(value, type):
                prefix = next((names[module] for module in names if value.__module__.startswith(module)), None)
                if prefix is None:
                    return entry
                kwargs[key] = f"{prefix}.{value.__name__}"
        entry["policy_kwargs"] = _listed(kwargs)
    return entry


def _listed(value: Any) -> Any:
    """Plain data without tuples, which YAML does not have."""
    if isinstance(value, Mapping):
        return {key: _listed(inner) for key, inner in value.items()}
    return list(map(_listed, value)) if isinstance(value, list | tuple) else value


def _read(row: Dimension, entry: Entry) -> Any:
    """The value of a dimension in an entry with the constructor's defaults; None where it cannot be expressed."""
    if row.read is not None:
        return _compact(row.read(entry))
    value: Any = entry
    for key in row.path:
        value = value.get(key, row.default) if isinstance(value, dict) else row.default
    return _compact(value)


def _compact(value: Any) -> Any:
    """A value as Optuna can store it: lists and mappings as text."""
    return json.dumps(value) if isinstance(value, list | dict) else value


def _plain(value: Any) -> Any:
    """And back."""
    return json.loads(value) if isinstance(value, str) and value[:1] in ("[", "{") else value


def _put(entry: Entry, path: Sequence[str], value: Any) -> None:
    for key in path[:-1]:
        entry[key] = entry.get(key) or {}
        entry = entry[key]
    entry[path[-1]] = value


def _remove(entry: Entry, path: Sequence[str]) -> None:
    inner = entry.get(path[0])
    if len(path) == 1:
        entry.pop(path[0], None)
    elif isinstance(inner, dict):
        _remove(inner, path[1:])
        if not inner:
            del entry[path[0]]


def _holds(values: BaseDistribution, value: Value) -> bool:
    if isinstance(values, CategoricalDistribution):
        return value in values.choices
    return isinstance(value, int | float) and values._contains(value)


def _widened(values: BaseDistribution, value: Value) -> BaseDistribution | None:
    """A distribution that holds a value, too; None where it cannot: a logarithmic one has no zero."""
    if isinstance(values, CategoricalDistribution):
        return values if value in values.choices else CategoricalDistribution((*values.choices, value))
    assert isinstance(values, FloatDistribution | IntDistribution)
    assert isinstance(value, int | float)
    if values.log and value <= 0:
        return None
    bounds = {"low": min(values.low, value), "high": max(values.high, value)}
    return type(values)(**{**values._asdict(), **bounds})


def _suggest(trial: optuna.Trial, dimension: Dimension) -> Value:
    values = dimension.values
    match values:
        case CategoricalDistribution():
            return trial.suggest_categorical(dimension.name, values.choices)
        case IntDistribution():
            return trial.suggest_int(dimension.name, values.low, values.high, log=values.log, step=values.step)
        case FloatDistribution():
            return trial.suggest_float(dimension.name, values.low, values.high, log=values.log, step=values.step)
    raise TypeError(values)


def _check(space: Space) -> None:
    """Each choice and each end of a range, with the previous settings for the others."""
    previous = space.previous()
    space.settings(previous, "--fix")
    for dimension in space.dimensions:
        values: Any = dimension.values
        ends = values.choices if isinstance(values, CategoricalDistribution) else (values.low, values.high)
        for value in () if dimension.name in space.fixed else ends:
            if dimension.active({**space.fixed, **previous}):
                space.settings({**previous, dimension.name: value}, f"{dimension.name}={value}")
