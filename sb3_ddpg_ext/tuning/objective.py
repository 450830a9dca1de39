"""One trial: the runs of several seeds with the same settings, ended early where it is not worth going on."""

import contextlib
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import optuna
from torch import OutOfMemoryError

from sb3_ddpg_ext.callbacks import StopOnSignal
from sb3_ddpg_ext.errors import one_line
from sb3_ddpg_ext.results.records import Evaluations
from sb3_ddpg_ext.settings import Settings
from sb3_ddpg_ext.training import train_in
from sb3_ddpg_ext.tuning import scoring
from sb3_ddpg_ext.tuning.study import Study, points

# A run that takes so many times as long as the best trial is ended; only where seconds are the score
TOO_SLOW = 4

REASON = "reason"
"""The attribute that says why a trial was pruned or has failed."""


class TrialFailedError(Exception):
    """A trial that cannot be scored, for a reason that is no fault of the program."""


class _EnoughError(Exception):
    """A run whose score is known before its end."""


def objective(trial: optuna.Trial, study: Study) -> float:
    """
    Try the settings that a trial suggests.

    :param trial: Suggests, and is told how its runs go
    :param study: What is searched
    :return: The value of the trial
    :raises optuna.TrialPruned: If it is not worth going on, or training diverges
    :raises TrialFailedError: If the memory is not enough
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # those of the settings were seen when the study was made
            return _value(trial, study)
    except Exception as error:
        if _diverged(error):  # the search is to keep away from there
            trial.set_user_attr(REASON, f"diverged: {one_line(error)}")
            raise optuna.TrialPruned from error
        if not _out_of_memory(error):
            raise
        trial.set_user_attr(REASON, f"out of memory: {one_line(error)}")
        raise TrialFailedError from error


def _diverged(error: Exception) -> bool:
    """Also where SB3's Gaussian policies meet weights that are NaN: torch.distributions refuses them."""
    return isinstance(error, FloatingPointError) or (
        isinstance(error, ValueError) and str(error).startswith("Expected parameter") and "nan" in str(error)
    )


def _out_of_memory(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, MemoryError | OutOfMemoryError) or "can't allocate memory" in str(error):
            return True
        error = error.__cause__
    return False


def _value(trial: optuna.Trial, study: Study) -> float:
    settings = study.space.settings(study.space.sample(trial), f"trial {trial.number}")
    asked, runs = study.asked, list[Evaluations]()
    for seed in range(asked["seeds"]):
        runs.append(_run(trial, study, settings, runs))
        if asked["pruner"] == "wilcoxon":
            trial.report(scoring.value(asked["score"], runs[-1:], asked["env"]), step=seed)
            if seed + 1 < asked["seeds"] and trial.should_prune():
                _prune(trial, f"worse than the best trial in {seed + 1} runs (Wilcoxon test)")
    return scoring.value(asked["score"], runs, asked["env"])


def _run(trial: optuna.Trial, study: Study, settings: Settings, before: Sequence[Evaluations]) -> Evaluations:
    """One run of a trial, which reports as it goes, and ends as soon as its score is known."""
    asked, n_points, seed = study.asked, points(study, settings), len(before)
    limit = _time_limit(trial.study, asked["score"])
    reached: list[Evaluations] = []

    def on_evaluation(run: Evaluations) -> None:
        reached[:] = [run]
        known = len(run.steps) >= n_points or scoring.is_known(asked["score"], run, asked["env"])
        if asked["pruner"] != "wilcoxon":
            step = n_points if known else len(run.steps)
            # Others had perhaps reached the threshold by now: what counts beside their times is the time so far
            bounded = scoring.is_time(asked["score"]) and asked["pruner"] == "median" and not known
            trial.report(
                scoring.bound(asked["score"], [*before, run], asked["env"], asked["seeds"])
                if bounded
                else scoring.value(asked["score"], [*before, run], asked["env"]),
                seed * n_points + step,
            )
            if trial.should_prune():
                _prune(trial, f"behind the others at step {run.steps[-1]:,.0f} of run {seed}")
        if known:
            raise _EnoughError
        if run.cpu_seconds[-1] > limit:
            _prune(trial, f"{TOO_SLOW} times as slow as the best trial in run {seed}")

    with tempfile.TemporaryDirectory() as directory, contextlib.suppress(_EnoughError):
        train_in(
            Path(directory),
            study.train_args(seed),
            settings,
            label=f"trial {trial.number}",
            stop=StopOnSignal(),
            on_evaluation=on_evaluation,
        )
    return reached[0]


def _prune(trial: optuna.Trial, why: str) -> None:
    trial.set_user_attr(REASON, why)
    raise optuna.TrialPruned(why)


def _time_limit(study: optuna.Study, score: str) -> float:
    if score != "seconds":
        return np.inf
    try:
        return TOO_SLOW * scoring.time_of(score, study.best_value)
    except ValueError:  # there is none yet
        return np.inf
