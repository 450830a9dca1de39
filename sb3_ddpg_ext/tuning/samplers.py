"""Optuna's samplers, made so that their trials do not depend on interruptions."""

import copy
import io
import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from sb3_ddpg_ext.arguments import SamplerName
from sb3_ddpg_ext.errors import require

_CMA_STATE = "cma:optimizer:"  # attributes of a trial with the optimizer after it, a pickle in pieces
_CMA_CLASSES: Mapping[str, Sequence[str]] = {
    "cmaes": ("CMA",),
    "numpy": ("_reconstruct", "_frombuffer", "ndarray", "dtype", "scalar"),
}


def first_attempt(trial: FrozenTrial) -> int:
    """:return: Number of the trial that this one retries; its own number if it is not a retry"""
    return int(trial.system_attrs.get("failed_trial", trial.number))


class _CmaEs(CmaEsSampler):
    """CMA-ES whose state, which others may have written into the database, can name no code but its own."""

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: Any) -> dict[str, Any]:
        numbered = copy.copy(trial)
        numbered.number = _n_earlier(study, trial)  # it is added to the seed, and must not depend on retries
        return super().sample_relative(study, numbered, search_space)

    def _restore_optimizer(self, completed_trials: Sequence[FrozenTrial]) -> Any:
        for trial in reversed(completed_trials):
            parts = {key: text for key, text in trial.system_attrs.items() if key.startswith(_CMA_STATE)}
            if parts:
                text = "".join(parts[f"{_CMA_STATE}{i}"] for i in range(len(parts)))
                return _CmaUnpickler(io.BytesIO(bytes.fromhex(text))).load()
        return None


class _CmaUnpickler(pickle.Unpickler):
    """Knows the classes of which the state of CMA-ES consists, and no others."""

    def find_class(self, module: str, name: str) -> Any:
        if name in _CMA_CLASSES.get(module.split(".")[0], ()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"the state of CMA-ES in the database names {module}.{name}")


_SAMPLERS: Mapping[SamplerName, Callable[[int], BaseSampler]] = {
    "tpe": lambda seed: TPESampler(seed=seed),
    "random": lambda seed: RandomSampler(seed=seed),
    # It leaves names (choices) and what only some trials have to the other sampler
    "cmaes": lambda seed: _CmaEs(
        seed=seed, independent_sampler=RandomSampler(seed=seed + 1), warn_independent_sampling=False
    ),
    "gp": lambda seed: GPSampler(seed=seed),
}


def require_sampler(name: SamplerName) -> None:
    """
    :param name: Name of a sampler
    :raises SettingsError: With the line that installs it, if it needs a package that is missing
    """
    if name == "cmaes":  # what Gaussian processes need is there: torch always, scipy for the report
        require("cmaes", "tune")


class ReproducibleSampler(BaseSampler):
    """
    A sampler with a new random generator for each trial, seeded by the seed of the search and by the number of trials
    before, retries not counted. So no two workers sample the same values, and a study that was interrupted samples the
    same trials as one that was not.

    :param name: Which of Optuna's samplers
    :param seed: Seed of the search
    """

    def __init__(self, name: SamplerName, seed: int) -> None:
        self._make, self._seed = _SAMPLERS[name], seed
        self._sampler = self._make(seed)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Seed the generator for a trial."""
        seed = np.random.SeedSequence([self._seed, _n_earlier(study, trial)]).generate_state(1)[0]
        self._sampler = self._make(int(seed >> 1))  # some samplers add to it, and 32 bits are the most it can have
        self._sampler.before_trial(study, trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> Any:
        """See BaseSampler."""
        return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: Any) -> Any:
        """See BaseSampler."""
        return self._sampler.sample_relative(study, trial, search_space)

    def sample_independent(self, study: optuna.Study, trial: FrozenTrial, param_name: str, distribution: Any) -> Any:
        """See BaseSampler."""
        return self._sampler.sample_independent(study, trial, param_name, distribution)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """See BaseSampler."""
        self._sampler.after_trial(study, trial, state, values)


def _n_earlier(study: optuna.Study, trial: FrozenTrial) -> int:
    # A retry samples the parameters that the first attempt did not get to, with the generator of that attempt
    earlier = study.get_trials(deepcopy=False)[: first_attempt(trial)]
    return sum(first_attempt(other) == other.number for other in earlier)
