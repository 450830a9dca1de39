"""
Any number of processes, on any number of machines, work on one study. The database alone says what is left to do.

If a worker dies, its trial is *retried*: Optuna enqueues a new trial with the same parameters, which has the number of
the first attempt in its attributes. All attempts together count as one trial of the study. So a search for n trials
ends when the latest attempts of n trials are finished.

Two kinds of Optuna's trials are *discarded* and do not count: one that a worker asked for when another worker had just
asked for the last one, and one that a programming error ended. The latter is enqueued again, to be run when the error
is corrected.
"""

import contextlib
import functools
import platform
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass

import optuna
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState

from sb3_ddpg_ext.cluster import WorkersDiedError, run_all
from sb3_ddpg_ext.errors import FaultyEnvironmentError, SettingsError, is_full_disk
from sb3_ddpg_ext.files import is_nearly_full
from sb3_ddpg_ext.tuning.objective import REASON, TrialFailedError, objective, runs_directory
from sb3_ddpg_ext.tuning.samplers import first_attempt
from sb3_ddpg_ext.tuning.storage import MAX_RETRIES, Job, storage_of
from sb3_ddpg_ext.tuning.study import Study, connect, quiet

_DISCARDED = "void"  # attribute of a trial: why it does not count
_WORKER = "worker"  # attribute of a trial: who began it
_STUDY_IS_KEPT = "the study is kept, and the same command goes on with it"
_MAX_CONNECTIONS_LOST = 3  # one after the other, without any trial finished in between


def latest_attempts(trials: Sequence[FrozenTrial]) -> dict[int, FrozenTrial]:
    """
    The trials that count.

    :param trials: All trials of a study
    :return: The latest attempt of each, by the number of its first attempt, in ascending order
    """
    latest = {}
    for trial in trials:
        if _DISCARDED not in trial.user_attrs:
            latest[first_attempt(trial)] = trial
    return dict(sorted(latest.items()))


@dataclass(frozen=True)
class Progress:
    """
    How far a study is.

    :param finished: Trials that are complete, pruned or failed
    :param running: Trials that have begun and not finished, those of dead workers included
    :param pruned: Trials that were ended early
    :param failed: Trials without a value
    :param best: Value of the best trial; None if there is none
    """

    finished: int
    running: int
    pruned: int
    failed: int
    best: float | None


def progress(job: Job) -> Progress:
    """
    :param job: Where the study is stored
    :return: How far it is
    """
    trials = list(latest_attempts(connect(job)[0].get_trials(deepcopy=False)).values())
    return Progress(
        finished=sum(trial.state.is_finished() for trial in trials),
        running=sum(trial.state == TrialState.RUNNING for trial in trials),
        pruned=sum(trial.state == TrialState.PRUNED for trial in trials),
        failed=sum(trial.state == TrialState.FAIL for trial in trials),
        best=next((trial.value for trial in ranking(job)), None),
    )


def ranking(job: Job) -> list[FrozenTrial]:
    """
    :param job: Where the study is stored
    :return: The trials that are complete, the best first
    """
    trials = latest_attempts(connect(job)[0].get_trials(deepcopy=False)).values()
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    return sorted(complete, key=lambda trial: trial.value or 0.0, reverse=True)


def search(job: Job, *, workers: int, scheduler: str | None = None) -> None:
    """
    Work on a study until it has all its trials, together with other commands that do the same.

    :param job: Where the study is stored
    :param workers: See :func:`sb3_ddpg_ext.cluster.run_all`
    :param scheduler: Likewise
    :raises SettingsError: As ``run_all``, if all workers die, or if the database is lost
    :raises FaultyEnvironmentError: If the environment raised, or returned what no environment may return
    :raises RuntimeError: If there is a programming error; its cause is what was raised
    """
    with quiet():
        study, _ = connect(job)
        running_since: dict[int, float] = {}
        connections_lost = 0
        try:
            while connections_lost < _MAX_CONNECTIONS_LOST:
                try:
                    if progress(job).finished >= job.trials:
                        return
                    _run_pending_trials(study, job, workers, scheduler, running_since)
                    connections_lost = 0
                except StorageInternalError:  # connecting again waits for the server
                    connections_lost = _MAX_CONNECTIONS_LOST if _has_no_space(job) else connections_lost + 1
        except BaseException:
            if scheduler is None:  # the workers of a cluster go on with their trials
                with contextlib.suppress(StorageInternalError):  # then the trials are retried without a heartbeat
                    _retry_trials_of_command(study, job)
            raise
    what = "has no space left on its disk" if _has_no_space(job) else "is lost"
    raise SettingsError(
        f"the database {job.shown_url} {what}; what is finished is kept, and the same command goes on with it"
    )


def _has_no_space(job: Job) -> bool:
    """SQLite reports a full disk, but Optuna does not pass that on."""
    return job.file is not None and is_nearly_full(job.file.parent)


def _count_pending(study: optuna.Study, job: Job) -> int:
    """Trials that no worker has begun."""
    attempts = latest_attempts(study.get_trials(deepcopy=False))
    waiting = sum(trial.state == TrialState.WAITING for trial in attempts.values())
    return max(job.trials - len(attempts), 0) + waiting


def _run_pending_trials(
    study: optuna.Study, job: Job, workers: int, scheduler: str | None, running_since: dict[int, float]
) -> None:
    """Run the trials that nobody has begun. If there are none, wait a little for those of other commands."""
    n_pending = _count_pending(study, job)
    if n_pending == 0:
        optuna.storages.fail_stale_trials(study)
        _fail_trials_without_heartbeat(study, job, running_since)
        time.sleep(min(job.heartbeat, 5))
        return
    results = run_all(functools.partial(run_trial, job), range(n_pending), workers=workers, scheduler=scheduler)
    n_died = 0
    with contextlib.closing(results):
        for _, result in results:
            if isinstance(result, WorkersDiedError):  # retried, up to MAX_RETRIES times
                n_died += 1
            elif isinstance(result, SettingsError | StorageInternalError) or is_full_disk(result):
                raise result
            elif isinstance(result, FaultyEnvironmentError):
                what = f"{result.what}; {_STUDY_IS_KEPT}"
                raise FaultyEnvironmentError(result.name, result.index, result.when, what, result.trace) from result
            elif isinstance(result, Exception):
                raise RuntimeError(f"a trial raised {type(result).__name__}, see above; {_STUDY_IS_KEPT}") from result
    if n_died == n_pending:
        raise SettingsError("the worker processes die as fast as they are started; --workers 0 may show why")


def _fail_trials_without_heartbeat(study: optuna.Study, job: Job, running_since: dict[int, float]) -> None:
    """
    Retry the trials whose worker died between starting the trial and its first heartbeat. Optuna retries only trials
    whose heartbeat has stopped.

    :param running_since: When each such trial was first seen; updated by this function
    """
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        has_begun = trial.user_attrs.get(_WORKER, {}).get("trial") == trial.number  # a retry inherits the attribute
        if has_begun:
            continue
        if time.monotonic() - running_since.setdefault(trial.number, time.monotonic()) > job.grace:
            _retry(study, trial.number, MAX_RETRIES)


def run_trial(job: Job, _: int = 0) -> None:
    """
    Run one trial if one is pending. Called in the worker processes.

    :param job: Where the study is stored
    :raises Exception: If there is a programming error
    """
    with quiet():
        optuna_study, study = connect(job)
        begun: list[int] = []
        try:
            if _count_pending(optuna_study, job):
                optuna_study.optimize(
                    lambda trial: _run_attempt(trial, study, job, begun), n_trials=1, catch=(TrialFailedError,)
                )
        except (StorageInternalError, AssertionError) as error:
            # The connection was lost. If that happened in the transaction that finishes the trial, Optuna raises an
            # AssertionError while it handles the StorageInternalError
            if not any(isinstance(e, StorageInternalError) for e in (error, error.__context__)):
                raise
            for number in begun:
                _retry(optuna_study, number)
        except (UpdateFinishedTrialError, ValueError):
            # If this process was suspended for a long time, its trial was failed and retried by another worker
            if not (begun and _was_finished_by_another(optuna_study.trials[begun[0]])):
                raise


def _run_attempt(trial: optuna.Trial, study: Study, job: Job, begun: list[int]) -> float:
    """The objective, as Optuna calls it. ``begun`` tells the caller the number of the trial."""
    begun.append(trial.number)
    storage_of(job).record_first_heartbeat(job.name, trial.number)  # before the trial says that it has a worker
    trial.set_user_attr(_WORKER, {"trial": trial.number, "command": job.command, "host": platform.node()})
    # Two workers that both counted one pending trial have both asked for it: the later one is discarded. Retries never
    # are, since the keys are numbers of first attempts: a command with fewer --trials leaves those of others alone
    trials = trial.study.get_trials(deepcopy=False)
    if trial.number in list(latest_attempts(trials))[job.trials :]:
        trial.set_user_attr(_DISCARDED, "another worker had begun with the last trial")
        raise TrialFailedError
    directory = None if job.runs is None else job.runs / str(first_attempt(trials[trial.number]))
    try:
        with runs_directory(directory) as runs:
            return objective(trial, study, runs)
    except (optuna.TrialPruned, TrialFailedError, StorageInternalError, UpdateFinishedTrialError):
        raise
    except Exception:
        RetryHeartbeatStaleTrialCallback()(trial.study, trial.study.trials[trial.number])
        trial.set_user_attr(_DISCARDED, traceback.format_exc())
        raise


def _was_finished_by_another(trial: FrozenTrial) -> bool:
    return trial.state.is_finished() and _DISCARDED not in trial.user_attrs


def _retry_trials_of_command(study: optuna.Study, job: Job) -> None:
    """Enqueue again what the workers of this command were running when they were ended."""
    for trial in latest_attempts(study.trials).values():
        if trial.user_attrs.get(_WORKER, {}).get("command") == job.command:
            _retry(study, trial.number)


def _retry(study: optuna.Study, number: int, max_retries: int | None = None) -> None:
    """Fail a trial that was interrupted, and enqueue it again unless somebody has done so, or it has its result."""
    with contextlib.suppress(UpdateFinishedTrialError, ValueError):  # another worker has just finished it
        if study.trials[number].state == TrialState.RUNNING:
            study.tell(number, state=TrialState.FAIL)
    trial = study.trials[number]
    latest = latest_attempts(study.trials).get(first_attempt(trial))
    is_latest = latest is not None and latest.number == number
    if is_latest and trial.state == TrialState.FAIL and REASON not in trial.user_attrs:
        RetryHeartbeatStaleTrialCallback(max_retries)(study, trial)
