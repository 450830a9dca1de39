"""
Any number of processes that work on a study, on any number of machines.

The database alone says what there is to do. A trial whose worker died is repeated with the same parameters, as a new
trial of Optuna's that names the first one: together they are one chain. A study of n trials has n chains, each of which
ends in one finished trial. What is not to be counted at all, because it came too much when two workers asked at once,
or because a programming error ended it, is marked as void; the latter is queued again.
"""

import contextlib
import errno
import functools
import platform
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

import optuna
import sqlalchemy
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState

from sb3_ddpg_ext.cluster import WorkersDiedError, run_all
from sb3_ddpg_ext.errors import FaultyEnvironmentError, SettingsError
from sb3_ddpg_ext.files import is_nearly_full
from sb3_ddpg_ext.tuning.objective import REASON, TrialFailedError, objective
from sb3_ddpg_ext.tuning.study import MAX_RETRIES, Job, Study, connect, first_attempt, quiet

_VOID, _WORKER = "void", "worker"
_KEPT = "the study is kept, and the same command goes on with it"


def chains(trials: Sequence[FrozenTrial]) -> dict[int, FrozenTrial]:
    """
    The trials that count.

    :param trials: All trials of a study
    :return: By the number of the first attempt, in its order, the last one
    """
    last = {}
    for trial in trials:
        if _VOID not in trial.user_attrs:
            last[first_attempt(trial)] = trial
    return dict(sorted(last.items()))


def _to_do(study: optuna.Study, job: Job) -> int:
    """How many trials nobody has begun."""
    attempts = chains(study.get_trials(deepcopy=False))
    waiting = sum(trial.state == TrialState.WAITING for trial in attempts.values())
    return max(job.trials - len(attempts), 0) + waiting


@dataclass(frozen=True)
class Progress:
    """
    How far a study is.

    :param finished: Trials that are over, those that are pruned or failed included
    :param running: Trials that somebody is at, or was when he died
    :param pruned: Trials that were ended early
    :param failed: Trials without a score
    :param best: Value of the best trial, None if there is none
    """

    finished: int
    running: int
    pruned: int
    failed: int
    best: float | None


def progress(job: Job) -> Progress:
    """
    :param job: Where the study is
    :return: How far it is
    """
    trials = list(chains(connect(job)[0].get_trials(deepcopy=False)).values())
    return Progress(
        finished=sum(trial.state.is_finished() for trial in trials),
        running=sum(trial.state == TrialState.RUNNING for trial in trials),
        pruned=sum(trial.state == TrialState.PRUNED for trial in trials),
        failed=sum(trial.state == TrialState.FAIL for trial in trials),
        best=next((trial.value for trial in ranking(job)), None),
    )


def ranking(job: Job) -> list[FrozenTrial]:
    """
    :param job: Where the study is
    :return: The trials that came to their end, the best first
    """
    trials = chains(connect(job)[0].get_trials(deepcopy=False)).values()
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    return sorted(complete, key=lambda trial: trial.value or 0.0, reverse=True)


def search(job: Job, *, workers: int, scheduler: str | None = None) -> None:
    """
    Work on a study until it has all its trials, together with whoever else does. What is interrupted is done first the
    next time.

    :param job: Where it is
    :param workers: See :func:`sb3_ddpg_ext.cluster.run_all`
    :param scheduler: Likewise
    :raises SettingsError: As ``run_all``, and if workers die as fast as they are started
    :raises FaultyEnvironmentError: If the environment raised, or returned what no environment may return
    :raises RuntimeError: If a trial raised what no trial should; the cause says what and where
    """
    with quiet():
        study, _ = connect(job)
        silent: dict[int, float] = {}  # since when trials are running that nobody has signed
        lost = 0
        try:
            while lost < 3:
                try:
                    if progress(job).finished >= job.trials:
                        return
                    _do_what_there_is(study, job, workers, scheduler, silent)
                    lost = 0
                except StorageInternalError:  # in the middle of a transaction: connecting waits for the server
                    lost = 3 if _has_no_space(job) else lost + 1
        except BaseException:
            if scheduler is None:  # workers of a cluster end the trial that they are at
                with contextlib.suppress(StorageInternalError):  # then the next command waits for its signs of life
                    _release(study, job)
            raise
    what = "has no space left on its disk" if _has_no_space(job) else "is lost"
    raise SettingsError(
        f"the database {job.shown_url} {what}; what is finished is kept, and the same command goes on with it"
    )


def _has_no_space(job: Job) -> bool:
    """SQLite says so when it happens, but Optuna does not, least of all from another process."""
    url = sqlalchemy.make_url(job.url)
    return url.get_backend_name() == "sqlite" and is_nearly_full(Path(url.database or "").parent)


def _is_full_disk(result: Exception | None) -> TypeGuard[OSError]:
    return isinstance(result, OSError) and result.errno == errno.ENOSPC


def _do_what_there_is(
    study: optuna.Study, job: Job, workers: int, scheduler: str | None, silent: dict[int, float]
) -> None:
    number = _to_do(study, job)
    if number == 0:  # others are at the rest, or died at it
        optuna.storages.fail_stale_trials(study)
        _bury_stillborn(study, job, silent)
        time.sleep(min(job.heartbeat, 5))
        return
    results = run_all(functools.partial(work, job), range(number), workers=workers, scheduler=scheduler)
    died = 0
    with contextlib.closing(results):
        for _, result in results:
            if isinstance(result, WorkersDiedError):
                died += 1  # each trial is repeated so many times and not more often
            elif isinstance(result, SettingsError | StorageInternalError) or _is_full_disk(result):
                raise result
            elif isinstance(result, FaultyEnvironmentError):
                what = f"{result.what}; {_KEPT}"
                raise FaultyEnvironmentError(result.name, result.index, result.when, what, result.trace) from result
            elif isinstance(result, Exception):
                raise RuntimeError(f"a trial raised {type(result).__name__}, see above; {_KEPT}") from result
    if died == number:
        raise SettingsError("the worker processes die as fast as they are started; --workers 0 may show why")


def work(job: Job, _: int = 0) -> None:
    """
    Do one trial, if there is one to do.

    :param job: Where the study is
    :raises Exception: What a trial raises that no trial should
    """
    with quiet():
        study, ours = connect(job)
        begun: list[int] = []
        try:
            if _to_do(study, job):
                study.optimize(lambda trial: _attempt(trial, ours, job, begun), n_trials=1, catch=(TrialFailedError,))
        except (StorageInternalError, AssertionError) as error:
            # The database went away in the middle of a transaction. If that was the one that ends a trial, Optuna
            # raises an AssertionError of its own in place of it
            if not any(isinstance(e, StorageInternalError) for e in (error, error.__context__)):
                raise
            for number in begun:
                _repeat(study, number)
        except (UpdateFinishedTrialError, ValueError):
            # Unless this process was away for so long that its trial was given to another
            if not (begun and _is_taken(study.trials[begun[0]])):
                raise


def _attempt(trial: optuna.Trial, study: Study, job: Job, begun: list[int]) -> float:
    begun.append(trial.number)
    trial.set_user_attr(_WORKER, {"trial": trial.number, "command": job.command, "host": platform.node()})
    # Those that are repeated are not: a command that wants fewer trials does not end those of others
    trials = trial.study.get_trials(deepcopy=False)
    if trial.number in list(chains(trials))[job.trials :]:
        trial.set_user_attr(_VOID, "another worker had begun with the last trial")
        raise TrialFailedError
    try:
        return objective(trial, study)
    except (optuna.TrialPruned, TrialFailedError, StorageInternalError, UpdateFinishedTrialError):
        raise
    except Exception:  # once the cause is mended, the same parameters are tried again
        RetryHeartbeatStaleTrialCallback()(trial.study, trial.study.trials[trial.number])
        trial.set_user_attr(_VOID, traceback.format_exc())
        raise


def _release(study: optuna.Study, job: Job) -> None:
    """Queue again what the workers of this command were at when they were ended."""
    for trial in chains(study.trials).values():
        if trial.user_attrs.get(_WORKER, {}).get("command") == job.command:
            _repeat(study, trial.number)


def _is_taken(trial: FrozenTrial) -> bool:
    return trial.state.is_finished() and _VOID not in trial.user_attrs


def _repeat(study: optuna.Study, number: int, max_retries: int | None = None) -> None:
    """Queue an interrupted trial again, unless that is done (so often) or it is over."""
    with contextlib.suppress(UpdateFinishedTrialError, ValueError):  # somebody else was first
        if study.trials[number].state == TrialState.RUNNING:
            study.tell(number, state=TrialState.FAIL)
    trial = study.trials[number]
    latest = chains(study.trials).get(first_attempt(trial))
    if (
        latest is not None
        and latest.number == number
        and trial.state == TrialState.FAIL
        and REASON not in trial.user_attrs
    ):
        RetryHeartbeatStaleTrialCallback(max_retries)(study, trial)


def _bury_stillborn(study: optuna.Study, job: Job, silent: dict[int, float]) -> None:
    """Trials whose worker died before their first sign of life, which Optuna would wait for."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if trial.user_attrs.get(_WORKER, {}).get("trial") == trial.number:
            continue
        if time.monotonic() - silent.setdefault(trial.number, time.monotonic()) > job.grace:
            _repeat(study, trial.number, MAX_RETRIES)
