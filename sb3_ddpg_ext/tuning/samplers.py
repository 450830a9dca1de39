"""A sampler whose trials do not depend on interruptions."""

from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial


def first_attempt(trial: FrozenTrial) -> int:
    """:return: Number of the trial that this one retries; its own number if it is not a retry"""
    return int(trial.system_attrs.get("failed_trial", trial.number))


class ReproducibleTPESampler(BaseSampler):
    """
    TPE with a new random generator for each trial, seeded by the seed of the search and by the number of trials before,
    retries not counted. So no two workers sample the same values, and a study that was interrupted samples the same
    trials as one that was not.

    :param seed: Seed of the search
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._tpe = TPESampler()

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Seed the generator for a trial."""
        # A retry samples the parameters that the first attempt did not get to, with the generator of that attempt
        earlier = study.get_trials(deepcopy=False)[: first_attempt(trial)]
        n_earlier = sum(first_attempt(other) == other.number for other in earlier)
        seed = np.random.SeedSequence([self._seed, n_earlier]).generate_state(1)[0]
        self._tpe = TPESampler(seed=int(seed))
        self._tpe.before_trial(study, trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> Any:
        """See TPESampler."""
        return self._tpe.infer_relative_search_space(study, trial)

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: Any) -> Any:
        """See TPESampler."""
        return self._tpe.sample_relative(study, trial, search_space)

    def sample_independent(self, study: optuna.Study, trial: FrozenTrial, param_name: str, distribution: Any) -> Any:
        """See TPESampler."""
        return self._tpe.sample_independent(study, trial, param_name, distribution)
