"""Pruners: what ends a trial early."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
from optuna.pruners import BasePruner, MedianPruner, NopPruner, SuccessiveHalvingPruner, WilcoxonPruner
from optuna.trial import FrozenTrial, TrialState

from sb3_ddpg_ext.arguments import PrunerName

WILCOXON_SEEDS = 5
"""Runs of a trial from which on a Wilcoxon test can tell a difference."""
_STARTUP_TRIALS = 5  # complete trials that the median pruner waits for


def make_pruner(name: PrunerName, n_evaluations: int, is_time: bool) -> BasePruner:
    """
    :param name: Name of the pruner
    :param n_evaluations: Evaluations of a run
    :param is_time: Whether the score is a time to the threshold
    :return: The pruner
    """
    n_warmup = n_evaluations // 4  # a quarter of the first run is too early to compare
    match name:
        case "none":
            return NopPruner()
        case "wilcoxon":
            return WilcoxonPruner()
        case "median":
            return _TimeMedianPruner() if is_time else _CachedMedianPruner(_STARTUP_TRIALS, n_warmup_steps=n_warmup)
        case "halving":
            return SuccessiveHalvingPruner(min_resource=max(n_warmup, 1))


class _CompleteTrials:
    """
    The trials of a study that were complete when a trial began. They are read from the database once for each trial:
    Optuna's pruners read all trials at each evaluation, which is too much for a database with a thousand workers.
    """

    def __init__(self) -> None:
        self._number = -1
        self._trials: Sequence[FrozenTrial] = ()

    def at_start_of(self, trial: FrozenTrial, study: optuna.Study) -> Sequence[FrozenTrial]:
        """:return: The trials; they are read again if this trial is not that of the last call"""
        if trial.number != self._number:
            self._number = trial.number
            self._trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return self._trials


class _CachedMedianPruner(MedianPruner):
    """Optuna's median pruner; it compares a trial with those that were complete when it began."""

    def __init__(self, n_startup_trials: int, n_warmup_steps: int) -> None:
        super().__init__(n_startup_trials, n_warmup_steps)
        self._complete = _CompleteTrials()

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        complete = self._complete.at_start_of(trial, study)
        snapshot: Any = SimpleNamespace(get_trials=lambda **_: complete, direction=study.direction)
        return super().prune(snapshot, trial)


class _TimeMedianPruner(BasePruner):
    """
    For times to the threshold. A trial reports the best value that it can still reach
    (:func:`sb3_ddpg_ext.tuning.scoring.best_possible_value`), and is pruned when that is below the median of the final
    values of the others. Intermediate values at the same step cannot be compared: at that step others may have reached
    the threshold long ago, or may have taken far more seconds.
    """

    def __init__(self) -> None:
        self._complete = _CompleteTrials()

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        complete = self._complete.at_start_of(trial, study)
        values = [other.value for other in complete if other.value is not None]
        reported = trial.intermediate_values[max(trial.intermediate_values)]
        return len(values) >= _STARTUP_TRIALS and reported < float(np.median(values))
