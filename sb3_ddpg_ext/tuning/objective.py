"""One trial: runs of several seeds with the same settings. It ends early if it is pruned or its value is settled."""

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
from sb3_ddpg_ext.tuning import ScoreKind, scoring
from sb3_ddpg_ext.tuning.study import Study

TOO_SLOW = 4
"""If seconds are the score: a run is ended that takes so many times as long as the best trial."""

REASON = "reason"
"""The attribute of a trial that says why it was pruned or has failed."""


class TrialFailedError(Exception):
    """A trial has no value, for a reason that is not an error of the program."""


class _RunSettledError(Exception):
    """Ends a run whose score cannot change any more."""


def objective(trial: optuna.Trial, study: Study) -> float:
    """
    Run one trial.

    :param trial: Suggests the settings, and receives reports of how the runs go
    :param study: The study
    :return: The value of the trial
    :raises optuna.TrialPruned: If the pruner ends the trial, or training diverges
    :raises TrialFailedError: If there is not enough memory
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # creating the study has shown the warnings about settings
            return _run_all_seeds(trial, study)
    except Exception as error:
        if _diverged(error):  # a pruned trial, unlike a failed one, tells the sampler to avoid such settings
            trial.set_user_attr(REASON, f"diverged: {one_line(error)}")
            raise optuna.TrialPruned from error
        if not _is_out_of_memory(error):
            raise
        trial.set_user_attr(REASON, f"out of memory: {one_line(error)}")
        raise TrialFailedError from error


def _diverged(error: Exception) -> bool:
    """The ValueError is that of torch.distributions, when weights of a Gaussian policy (SAC, TQC) have become NaN."""
    return isinstance(error, FloatingPointError) or (
        isinstance(error, ValueError) and str(error).startswith("Expected parameter") and "nan" in str(error)
    )


def _is_out_of_memory(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, MemoryError | OutOfMemoryError) or "can't allocate memory" in str(error):
            return True
        error = error.__cause__
    return False


def _run_all_seeds(trial: optuna.Trial, study: Study) -> float:
    settings = study.space.settings(study.space.sample(trial), f"trial {trial.number}")
    arguments, runs = study.arguments, list[Evaluations]()
    for seed in range(arguments.seeds):
        runs.append(_run_one_seed(trial, study, settings, runs))
        if arguments.pruner == "wilcoxon":  # it compares whole runs, seed by seed
            trial.report(scoring.value_of_trial(arguments.score, runs[-1:], arguments.env), step=seed)
            if seed + 1 < arguments.seeds and trial.should_prune():
                _prune(trial, f"worse than the best trial in {seed + 1} runs (Wilcoxon test)")
    return scoring.value_of_trial(arguments.score, runs, arguments.env)


def _run_one_seed(
    trial: optuna.Trial, study: Study, settings: Settings, finished_runs: Sequence[Evaluations]
) -> Evaluations:
    """Do the next run of a trial. The other pruners get a report of each evaluation."""
    arguments, seed = study.arguments, len(finished_runs)
    score, env = arguments.score, arguments.env
    n_evaluations = study.n_evaluations(settings)
    time_limit = _time_limit(trial.study, score)
    latest: list[Evaluations] = []

    def on_evaluation(run: Evaluations) -> None:
        latest[:] = [run]
        is_over = len(run.steps) >= n_evaluations or scoring.is_settled(score, run, env)
        if arguments.pruner != "wilcoxon":
            runs = [*finished_runs, run]
            if arguments.pruner == "median" and scoring.is_time(score) and not is_over:
                value = scoring.best_possible_value(score, runs, env, arguments.seeds)  # as pruners.py explains
            else:
                value = scoring.value_of_trial(score, runs, env)
            trial.report(value, seed * n_evaluations + (n_evaluations if is_over else len(run.steps)))
            if trial.should_prune():
                _prune(trial, f"behind the others at step {run.steps[-1]:,.0f} of run {seed}")
        if is_over:
            raise _RunSettledError
        if run.cpu_seconds[-1] > time_limit:
            _prune(trial, f"{TOO_SLOW} times as slow as the best trial in run {seed}")

    with tempfile.TemporaryDirectory() as directory, contextlib.suppress(_RunSettledError):
        train_in(
            Path(directory),
            study.train_args(seed),
            settings,
            label=f"trial {trial.number}",
            stop=StopOnSignal(),
            on_evaluation=on_evaluation,
        )
    return latest[0]


def _prune(trial: optuna.Trial, reason: str) -> None:
    trial.set_user_attr(REASON, reason)
    raise optuna.TrialPruned(reason)


def _time_limit(study: optuna.Study, score: ScoreKind) -> float:
    if score is not ScoreKind.SECONDS_TO_THRESHOLD:
        return np.inf
    try:
        return TOO_SLOW * scoring.time_of(score, study.best_value)
    except ValueError:  # no trial is complete yet
        return np.inf
