"""What the trials in a database say of themselves, which others may have written, is of the types that we write."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial
from pydantic import TypeAdapter, ValidationError

from sb3_ddpg_ext.conversion import why_invalid
from sb3_ddpg_ext.errors import SettingsError, one_line
from sb3_ddpg_ext.tuning.space import Space, contains


@dataclass(frozen=True)
class _Worker:
    trial: int
    command: str
    host: str


@dataclass(frozen=True)
class _Attributes:
    """The attributes of trials that :mod:`sb3_ddpg_ext.tuning` and Optuna's retries read. A trial may lack each."""

    worker: _Worker = _Worker(0, "", "")
    reason: str = ""
    void: str = ""
    previous: bool = False
    failed_trial: int = 0
    retry_history: list[int] = field(default_factory=list)
    fixed_params: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _StudyAttributes:
    written: list[dict[str, Any]] = field(default_factory=list)


@contextlib.contextmanager
def legible() -> Iterator[None]:
    """Whatever is raised by reading what Optuna has not written becomes one line, but for a database that is away."""
    try:
        yield
    except (SettingsError, StorageInternalError):
        raise
    except Exception as error:
        reason = why_invalid(error) if isinstance(error, ValidationError) else one_line(error)
        raise SettingsError(
            f"the database holds a study that sb3-ddpg tune has not written ({reason[:300]}); choose another --study"
        ) from error


def check_trials(optuna_study: optuna.Study, space: Space) -> None:
    """
    :param optuna_study: A study from a database
    :param space: What its trials sample
    :raises SettingsError: If an attribute or a parameter is not what this package and Optuna write
    """
    with legible():
        _validate(_StudyAttributes, optuna_study.user_attrs)
        for trial in optuna_study.get_trials(deepcopy=False):
            _check(trial, space)


def _validate(form: type, attributes: Mapping[str, Any]) -> None:
    TypeAdapter(form).validate_json(json.dumps(attributes), strict=True)


def _check(trial: FrozenTrial, space: Space) -> None:
    _validate(_Attributes, {**trial.user_attrs, **trial.system_attrs})
    if not 0 <= trial.system_attrs.get("failed_trial", 0) <= trial.number:
        raise ValueError(f"trial {trial.number} retries one that was not before it")
    for dimension in space.dimensions:
        if dimension.name in trial.params and not contains(dimension.distribution, trial.params[dimension.name]):
            value = str(trial.params[dimension.name])[:100]
            raise ValueError(f"{dimension.name}={value!r} of trial {trial.number} is not in the search space")
