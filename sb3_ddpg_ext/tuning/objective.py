"""One trial: runs of several seeds with the same settings. It ends early if it is pruned or its value is settled."""

import contextlib
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import optuna
from torch import OutOfMemoryError

from sb3_ddpg_ext.arguments import ScoreKind
from sb3_ddpg_ext.callbacks import StopOnSignal
from sb3_ddpg_ext.errors import one_line
from sb3_ddpg_ext.files import lock
from sb3_ddpg_ext.results.records import Evaluations, RunIdentity, RunRecord, Seconds
from sb3_ddpg_ext.results.result_file import read_run, write_record
from sb3_ddpg_ext.run_arguments import identity
from sb3_ddpg_ext.settings import Settings
from sb3_ddpg_ext.training import train_from_last_checkpoint
from sb3_ddpg_ext.tuning import scoring
from sb3_ddpg_ext.tuning.study import Study

TOO_SLOW = 4
"""If seconds are the score: a run is ended that takes so many times as long as the best trial."""

REASON = "reason"
"""The attribute of a trial that says why it was pruned or has failed."""


class TrialFailedError(Exception):
    """A trial has no value, for a reason that is not an error of the program."""


class _RunSettledError(Exception):
    """Ends a run whose score cannot change any more."""


@contextlib.contextmanager
def runs_directory(directory: Path | None) -> Iterator[Path]:
    """
    A directory for the runs of a trial, which is removed when the trial is over. If the worker dies, it stays, and the
    next attempt goes on from it.

    :param directory: The directory; None for a temporary one
    :return: The directory, or a temporary one if another process has it or this machine does not see it
    """
    with contextlib.ExitStack() as resources:
        if directory is None or not _is_ours(directory, resources):
            yield Path(resources.enter_context(tempfile.TemporaryDirectory()))
            return
        try:
            yield directory
        except (optuna.TrialPruned, TrialFailedError):
            shutil.rmtree(directory, ignore_errors=True)
            raise
        shutil.rmtree(directory, ignore_errors=True)


def _is_ours(directory: Path, resources: contextlib.ExitStack) -> bool:
    try:
        directory.mkdir(exist_ok=True)
        return resources.enter_context(lock(directory, wait=False))
    except OSError:
        return False


def objective(trial: optuna.Trial, study: Study, runs: Path) -> float:
    """
    Run one trial.

    :param trial: Suggests the settings, and receives reports of how the runs go
    :param study: The study
    :param runs: The directory for its runs, perhaps with those of an attempt whose worker has died
    :return: The value of the trial
    :raises optuna.TrialPruned: If the pruner ends the trial, or training diverges
    :raises TrialFailedError: If there is not enough memory
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # creating the study has shown the warnings about settings
            return _run_all_seeds(trial, study, runs)
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


def _run_all_seeds(trial: optuna.Trial, study: Study, directory: Path) -> float:
    settings = study.space.settings(study.space.sample(trial), f"trial {trial.number}")
    arguments, runs = study.arguments, list[Evaluations]()
    for seed in range(arguments.seeds):
        runs.append(_run_one_seed(trial, study, settings, runs, directory / str(seed)))
        if arguments.pruner == "wilcoxon":  # it compares whole runs, seed by seed
            trial.report(scoring.value_of_trial(arguments.score, runs[-1:], study.scale), step=seed)
            if seed + 1 < arguments.seeds and trial.should_prune():
                _prune(trial, f"worse than the best trial in {seed + 1} runs (Wilcoxon test)")
    return scoring.value_of_trial(arguments.score, runs, study.scale)


def _run_one_seed(
    trial: optuna.Trial, study: Study, settings: Settings, finished_runs: Sequence[Evaluations], directory: Path
) -> Evaluations:
    """Do the next run of a trial. The other pruners get a report of each evaluation."""
    arguments, seed = study.arguments, len(finished_runs)
    score, scale = arguments.score, study.scale
    n_evaluations = study.n_evaluations(settings)
    time_limit = _time_limit(trial.study, score)
    latest: list[Evaluations] = []

    def on_evaluation(run: Evaluations) -> None:
        latest.append(run)
        is_over = len(run.steps) >= n_evaluations or scoring.is_settled(score, run, scale)
        if arguments.pruner != "wilcoxon":
            runs = [*finished_runs, run]
            if arguments.pruner == "median" and scoring.is_time(score) and not is_over:
                value = scoring.best_possible_value(score, runs, scale, arguments.seeds)  # as pruners.py explains
            else:
                value = scoring.value_of_trial(score, runs, scale)
            trial.report(value, seed * n_evaluations + (n_evaluations if is_over else len(run.steps)))
            if trial.should_prune():
                _prune(trial, f"behind the others at step {run.steps[-1]:,.0f} of run {seed}")
        if is_over:
            raise _RunSettledError
        if run.cpu_seconds[-1] > time_limit:
            _prune(trial, f"{TOO_SLOW} times as slow as the best trial in run {seed}")

    def on_all_evaluations(run: Evaluations) -> None:  # also on those before the worker died
        for n in range(len(latest), len(run.steps)):
            on_evaluation(run.first(n + 1))

    args, label = study.train_args(seed), "trial"
    what = identity(args, settings, label)
    directory.mkdir(exist_ok=True)
    record = read_run(directory)
    with contextlib.suppress(_RunSettledError):
        if record.evaluations is not None and not what.differences(record):
            on_all_evaluations(record.evaluations)
        train_from_last_checkpoint(
            directory,
            args,
            settings,
            label=label,
            resume=True,
            stop=StopOnSignal(),
            on_evaluation=on_all_evaluations,
        )
    _write_evaluations(what, directory, latest[-1])
    return latest[-1]


def _write_evaluations(run: RunIdentity, directory: Path, evaluations: Evaluations) -> None:
    """Should the worker die in a later run of the trial, this one is not done again."""
    seconds = Seconds(evaluations.seconds[-1], 0.0, evaluations.cpu_seconds[-1])
    steps = int(evaluations.steps[-1])
    write_record(
        RunRecord.of(
            run, directory=directory, status="interrupted", steps=steps, evaluations=evaluations, seconds=seconds
        )
    )


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
