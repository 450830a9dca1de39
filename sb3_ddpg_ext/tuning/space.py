"""
The search space of a study: the rows of :mod:`sb3_ddpg_ext.tuning.table` that fit the algorithm and its settings,
narrowed and extended by ``--fix`` and ``--space``. It samples values, and turns values into an entry of a
hyperparameter file, which :mod:`sb3_ddpg_ext.settings` reads as if a user had written it.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from sb3_ddpg_ext.errors import SettingsError
from sb3_ddpg_ext.expressions import as_data, evaluate
from sb3_ddpg_ext.imports import parameters_of
from sb3_ddpg_ext.settings import (
    NOISE_KEYS,
    Settings,
    algorithm_class,
    base_algorithm,
    override,
    parse_override,
    parse_settings,
    setting_path,
)
from sb3_ddpg_ext.tuning.table import (
    TABLE,
    UNSET,
    Dimension,
    Entry,
    Value,
    decode,
    encode,
    remove_value,
)

_SIGNIFICANT_DIGITS = 5  # of sampled numbers, so that the entry stays readable


@dataclass(frozen=True)
class Space:
    """
    The search space of one study.

    :param algo: Name of the algorithm
    :param base: The entry of the incumbent, the settings before the search, changed by ``--fix``
    :param dimensions: All dimensions, in the order of the table
    :param fixed: Values of the dimensions that are not searched
    :param incumbent: Values of the incumbent; None for a value that its dimension cannot express
    """

    algo: str
    base: Entry
    dimensions: tuple[Dimension, ...]
    fixed: Mapping[str, Value]
    incumbent: Mapping[str, Value]

    def entry(self, values: Mapping[str, Value]) -> Entry:
        """:return: The entry of a hyperparameter file with these values"""
        values = {**self.fixed, **values}
        entry = copy.deepcopy(self.base)
        for dimension in self.dimensions:
            remove_value(entry, dimension.path)
        for dimension in self.dimensions:
            if dimension.name in values and dimension.is_active(values) and values[dimension.name] != UNSET:
                dimension.write_to(entry, self._rounded(dimension, decode(values[dimension.name])))
        if "noise_type" not in entry and any(dimension.name == "noise_type" for dimension in self.dimensions):
            # The incumbent's noise is not in this space, so the rest of its description has to go as well
            for name in ("noise_std", "noise_kwargs"):
                entry.pop(name, None)
        return entry

    def _rounded(self, dimension: Dimension, value: Any) -> Any:
        sampled = dimension.name not in self.fixed and value != self.incumbent[dimension.name]
        if sampled and isinstance(dimension.distribution, FloatDistribution):
            return float(f"{value:.{_SIGNIFICANT_DIGITS}g}")
        return value

    def settings(self, values: Mapping[str, Value], source: str) -> Settings:
        """:return: The settings with these values; error messages begin with ``source``"""
        return parse_settings(self.algo, self.entry(values), source)

    def sample(self, trial: optuna.Trial) -> dict[str, Value]:
        """:return: Values that a trial suggests for the dimensions that are active"""
        values: dict[str, Value] = {}
        for dimension in self.dimensions:
            if dimension.name not in self.fixed and dimension.is_active({**self.fixed, **values}):
                values[dimension.name] = _suggest(trial, dimension)
        return values

    def incumbent_values(self) -> dict[str, Value]:
        """:return: The incumbent as a point of this space, without values that are outside of it"""
        values: dict[str, Value] = {}
        for dimension in self.dimensions:
            value = self.incumbent[dimension.name]
            if dimension.name in self.fixed or value is None or not contains(dimension.distribution, value):
                continue
            if dimension.is_active({**self.fixed, **values}):
                values[dimension.name] = value
        return values

    def incumbent_entry(self) -> Entry:
        """:return: The entry of the incumbent with the fixed values, also where it is outside of what is searched"""
        values: dict[str, Value] = {}
        for dimension in self.dimensions:
            value = self.incumbent[dimension.name]
            if dimension.name not in self.fixed and value is not None and dimension.is_active({**self.fixed, **values}):
                values[dimension.name] = value
        return self.entry(values)


def make_space(algo: str, incumbent: Settings, changes: Mapping[str, Any], fix: Sequence[str]) -> Space:
    """
    Build a search space from the table. Ranges and choices are widened to contain the incumbent; a setting that its
    dimension cannot express is not tuned.

    :param algo: Name of the algorithm
    :param incumbent: The settings before the search
    :param changes: The content of the ``--space`` file: for each name a list of choices, ``{low, high, log}``, one
        value, or ``{}`` for what the table has
    :param fix: ``name=value`` for each setting that is not tuned
    :return: The space
    :raises SettingsError: If a name or a value cannot be used
    """
    for name in changes:
        if not isinstance(name, str):
            raise SettingsError(f"--space: expected names of settings, got {name!r}")
    base = _plain_entry(incumbent)
    parameters = parameters_of(algorithm_class(algo))
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    named = {*changes, *(name for name, _ in map(parse_override, fix))}
    rows = {
        row.name: row
        for row in TABLE
        if _fits(row, algo, base, parameters) and (row.by_default or row.name in named or _mentions(base, row.path))
    }
    # An empty mapping is the table's own range
    changes = {name: change for name, change in changes.items() if change != {} or name not in rows}
    real = {name for name, row in rows.items() if _is_real(row.distribution)}
    real |= {name for name, parameter in parameters.items() if parameter.annotation is float}
    distributions = {
        name: found
        for name, change in changes.items()
        if (found := _distribution(name, change, whole=name not in real)) is not None
    }
    # New rows come first, since rows of the table may depend on them: updates_per_step does on n_envs
    rows = {name: Dimension(name, found) for name, found in distributions.items() if name not in rows} | rows
    for name, found in distributions.items():
        rows[name] = replace(rows[name], distribution=found)
    values = {name: value for name, value in changes.items() if name not in distributions}
    fixed: dict[str, Value] = {}
    for name, value in (values | dict(map(parse_override, fix))).items():
        if name in rows:
            fixed[name] = encode(value)
        else:
            rows = _without_overwritten(rows, name)
            _overwrite(base, name, value)
    base = dict(parse_settings(algo, base, "--fix").raw)
    complete = {**defaults, **base}
    chosen = fixed.keys() | distributions.keys()
    candidates = [
        row if row.name in chosen else _widened(_with_learning(row, base), base, complete) for row in rows.values()
    ]
    dimensions = tuple(row for row in candidates if row is not None)
    space = Space(algo, base, dimensions, fixed, {row.name: row.read_from(complete) for row in dimensions})
    _check(space)
    return space


def _fits(row: Dimension, algo: str, base: Entry, parameters: Mapping[str, Any]) -> bool:
    """Whether an algorithm has the hyperparameter of a row, and its entry a place to write it to."""
    has_parameter = base_algorithm(algo) in row.algos if row.algos is not None else row.path[0] in parameters
    return has_parameter and (len(row.path) == 1 or isinstance(base.get(row.path[0]) or {}, dict))


def _mentions(entry: Entry, path: Sequence[str]) -> bool:
    inner = entry.get(path[0])
    return path[0] in entry and (len(path) == 1 or (isinstance(inner, dict) and _mentions(inner, path[1:])))


def _is_real(distribution: BaseDistribution) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return any(isinstance(choice, float) for choice in distribution.choices)
    return isinstance(distribution, FloatDistribution)


def _distribution(name: str, change: Any, whole: bool) -> BaseDistribution | None:
    """
    The distribution that a ``--space`` file gives a dimension; None if it gives one value. Between whole ends are whole
    numbers, if the dimension may have them alone.
    """
    try:
        if isinstance(change, list):
            return CategoricalDistribution(list(map(encode, change)))
        if isinstance(change, dict) and {"low", "high"} <= change.keys():
            whole = whole and isinstance(change["low"], int) and isinstance(change["high"], int)
            return IntDistribution(**change) if whole else FloatDistribution(**change)
    except (TypeError, ValueError) as error:
        raise SettingsError(
            f"--space: {name}: expected choices such as [0.1, 1] or {{low: 0.1, high: 1, log: true}}: {error}"
        ) from error
    return None


def _overwritten_paths(name: str) -> list[tuple[str, ...]]:
    """The settings that a setting which is not in the table takes the place of."""
    return [(key,) for key in NOISE_KEYS] if name == "action_noise" else [setting_path(name)]


def _without_overwritten(rows: Mapping[str, Dimension], name: str) -> dict[str, Dimension]:
    paths = _overwritten_paths(name)
    return {r.name: r for r in rows.values() if not any(r.path[: len(path)] == path for path in paths)}


def _overwrite(base: Entry, name: str, value: Any) -> None:
    for path in _overwritten_paths(name):
        remove_value(base, path)
    try:
        override(base, name, value)
    except SettingsError as error:
        raise SettingsError(f"--fix: {error}") from error


def _plain_entry(settings: Settings) -> Entry:
    """The entry of settings, with mappings in place of the strings ``dict(...)`` that RL Zoo's files have."""
    entry = copy.deepcopy(dict(settings.raw))
    for name in ("noise_kwargs", "policy_kwargs"):
        if isinstance(entry.get(name), str):
            entry[name] = as_data(evaluate(entry[name]))
    return entry


def contains(distribution: BaseDistribution, value: Value) -> bool:
    """:return: Whether a value is one of those of a distribution"""
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    return isinstance(value, int | float) and distribution._contains(value)


def _with_learning(row: Dimension, base: Entry) -> Dimension:
    """The row of ``learning_starts`` without the choices with which training would end before learning begins."""
    if row.name != "learning_starts" or not isinstance(row.distribution, CategoricalDistribution):
        return row
    choices = [choice for choice in row.distribution.choices if choice < base["n_timesteps"]]
    return replace(row, distribution=CategoricalDistribution(choices or row.distribution.choices[:1]))


def _widened(row: Dimension, base: Entry, complete: Entry) -> Dimension | None:
    """A row whose distribution contains the incumbent's value as well; None if there is no such distribution."""
    value, distribution = row.read_from(complete), row.distribution
    if value is None or not row.is_supported(base):
        return None
    if isinstance(distribution, CategoricalDistribution):
        if value in distribution.choices:
            return row
        return replace(row, distribution=CategoricalDistribution((*distribution.choices, value)))
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    assert isinstance(value, int | float)
    if distribution.log and value <= 0:  # not on a logarithmic scale
        return None
    bounds = {"low": min(distribution.low, value), "high": max(distribution.high, value)}
    return replace(row, distribution=type(distribution)(**{**distribution._asdict(), **bounds}))


def _suggest(trial: optuna.Trial, dimension: Dimension) -> Value:
    name, d = dimension.name, dimension.distribution
    match d:
        case CategoricalDistribution():
            return trial.suggest_categorical(name, d.choices)
        case IntDistribution():
            return trial.suggest_int(name, d.low, d.high, log=d.log, step=d.step)
        case FloatDistribution():
            return trial.suggest_float(name, d.low, d.high, log=d.log, step=d.step)
    raise TypeError(d)


def _check(space: Space) -> None:
    """Parse the settings for each choice and both ends of each range; the other values are the incumbent's."""
    incumbent = space.incumbent_values()
    space.settings(incumbent, "--fix")
    for dimension in space.dimensions:
        if dimension.name in space.fixed or not dimension.is_active({**space.fixed, **incumbent}):
            continue
        d: Any = dimension.distribution
        for value in d.choices if isinstance(d, CategoricalDistribution) else (d.low, d.high):
            space.settings({**incumbent, dimension.name: value}, f"{dimension.name}={value}")
