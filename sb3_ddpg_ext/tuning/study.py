"""A study in a database: made once, with all that it depends on, and opened by whoever works on it."""

import contextlib
import functools
import logging
import os
import sqlite3
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import sqlalchemy
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning, StorageInternalError
from optuna.pruners import BasePruner, MedianPruner, NopPruner, SuccessiveHalvingPruner, WilcoxonPruner
from optuna.samplers import BaseSampler, TPESampler
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState

from sb3_ddpg_ext.errors import SettingsError, one_line
from sb3_ddpg_ext.files import atomic, lock
from sb3_ddpg_ext.settings import Settings, parse_settings, read_yaml
from sb3_ddpg_ext.training import TrainArgs, check, env_name, eval_freq, settings_of
from sb3_ddpg_ext.tuning import TuneArgs, require_packages, scoring
from sb3_ddpg_ext.tuning.space import Space, make_space

HEARTBEAT_SECONDS, GRACE_SECONDS = 60, 300
# How long a worker waits for a database that does not answer: a restart or a failover, not an end
PATIENCE_SECONDS = 600
MAX_RETRIES = 3
WILCOXON_SEEDS = 5
STARTUP_TRIALS = 5  # complete ones, before others are compared with their median


@dataclass(frozen=True)
class Study:
    """
    What a study is, as its database has it: the same for all who work on it.

    :param asked: The arguments that make it what it is
    :param previous: The previous settings, as an entry of a hyperparameter file
    :param there: The entry that there was, which may have other steps
    """

    asked: Mapping[str, Any]
    previous: Mapping[str, Any]
    there: Mapping[str, Any]

    @functools.cached_property
    def space(self) -> Space:
        """What is searched"""
        settings = parse_settings(self.asked["algo"], self.previous, "previous settings")
        return make_space(self.asked["algo"], settings, self.asked["space"], self.asked["fix"])

    def train_args(self, seed: int) -> TrainArgs:
        """:return: The arguments of one run"""
        return TrainArgs(
            env=self.asked["env"],
            algo=self.asked["algo"],
            eval_freq=self.asked["eval_freq"],
            eval_episodes=self.asked["eval_episodes"],
            seed=seed,
            device="cpu",
            threads=1,
            quiet=True,
        )


@dataclass(frozen=True)
class Job:
    """
    Where a study is, and what a worker has to know besides. Plain data that can be sent to another machine.

    :param url: Of the database
    :param name: Of the study
    :param trials: How many the study is to have
    :param command: Who works for whom
    :param heartbeat: Seconds between two signs of life of a trial
    :param grace: Seconds without one after which its worker counts as dead
    """

    url: str
    name: str
    trials: int
    command: str = field(default_factory=lambda: str(uuid.uuid4()))
    heartbeat: int = field(default_factory=lambda: HEARTBEAT_SECONDS)
    grace: int = field(default_factory=lambda: GRACE_SECONDS)

    @property
    def file(self) -> Path | None:
        """The database, where it is a file: one of SQLite"""
        try:
            url = sqlalchemy.make_url(self.url)
        except sqlalchemy.exc.ArgumentError:
            return None
        in_memory = url.database in (None, "", ":memory:")
        return None if url.get_backend_name() != "sqlite" or in_memory else Path(str(url.database))

    @property
    def shown_url(self) -> str:
        """The URL without its password"""
        try:
            return sqlalchemy.make_url(self.url).render_as_string(hide_password=True)
        except sqlalchemy.exc.ArgumentError:
            return self.url


class _Storage(RDBStorage):
    """
    Optuna's storage, for databases that are away for a while, with a connection for each transaction: a thousand
    workers hold none, and none of them has one that died.
    """

    def __init__(self, job: Job) -> None:
        sqlite = job.url.startswith("sqlite")
        engine = {"poolclass": sqlalchemy.NullPool, "connect_args": {"timeout": PATIENCE_SECONDS} if sqlite else {}}
        super().__init__(
            job.url,
            engine,
            heartbeat_interval=job.heartbeat,
            grace_period=job.grace,
            heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(MAX_RETRIES),
        )
        sqlalchemy.event.listen(self.engine, "do_connect", _connect_patiently)  # from now on: it was there once
        if sqlite:
            # It does not lock rows to be updated, so that two workers could begin with one and the same trial: whoever
            # reads and writes is alone from the first word on
            sqlalchemy.event.listen(self.engine, "connect", lambda dbapi, _: setattr(dbapi, "isolation_level", None))
            sqlalchemy.event.listen(self.engine, "begin", lambda c: c.exec_driver_sql("BEGIN IMMEDIATE"))

    def record_heartbeat(self, trial_id: int) -> None:
        with contextlib.suppress(StorageInternalError):  # the next one will do
            super().record_heartbeat(trial_id)


def _connect_patiently(dialect: Any, _: Any, args: Any, kwargs: Any) -> Any:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return dialect.connect(*args, **kwargs)
        except dialect.loaded_dbapi.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def first_attempt(trial: FrozenTrial) -> int:
    """:return: Number of the trial that this one repeats, or its own"""
    return int(trial.system_attrs.get("failed_trial", trial.number))


class _Sampler(BaseSampler):
    """
    TPE whose draws depend on the seed alone and on how many trials there were before, without those that repeat others:
    workers never draw the same, and a study that was interrupted goes on as if it had not been.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._tpe = TPESampler()

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        before = study.get_trials(deepcopy=False)[: first_attempt(trial)]  # what that has not drawn, this one does
        number = sum(first_attempt(other) == other.number for other in before)
        seed = np.random.SeedSequence([self._seed, number]).generate_state(1)[0]
        self._tpe = TPESampler(seed=int(seed))
        self._tpe.before_trial(study, trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> Any:
        return self._tpe.infer_relative_search_space(study, trial)

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: Any) -> Any:
        return self._tpe.sample_relative(study, trial, search_space)

    def sample_independent(self, study: optuna.Study, trial: FrozenTrial, param_name: str, distribution: Any) -> Any:
        return self._tpe.sample_independent(study, trial, param_name, distribution)


class _Median(MedianPruner):
    """
    Compares a trial with those that were complete when it began. Optuna's would read all trials that are running from
    the database at each evaluation of each of them, which a thousand workers cannot do.

    :param times: Whether scores are times. Then the reports are what a trial can still get
        (:func:`sb3_ddpg_ext.tuning.scoring.bound`), which is compared with what half of the others got in the end:
        after as many steps those may be long over, or have taken far more seconds
    :param first: Evaluations before which no trials are compared, where scores are not times
    """

    def __init__(self, times: bool, first: int) -> None:
        super().__init__(n_startup_trials=STARTUP_TRIALS, n_warmup_steps=first)
        self._times = times
        self._number = -1
        self._complete: Sequence[FrozenTrial] = ()

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        if trial.number != self._number:
            self._number = trial.number
            self._complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if self._times:
            values = [other.value for other in self._complete if other.value is not None]
            last = trial.intermediate_values[max(trial.intermediate_values)]
            return len(values) >= STARTUP_TRIALS and last < float(np.median(values))
        then: Any = SimpleNamespace(get_trials=lambda **_: self._complete, direction=study.direction)
        return super().prune(then, trial)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Optuna says on its own that trials end, and that heartbeats are experimental."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        try:
            yield
        finally:
            optuna.logging.set_verbosity(level)


def prepare(args: TuneArgs) -> tuple[Job, Study]:
    """
    Make the study, or find it. Whatever is refused is refused here.

    :param args: What to tune, and how
    :return: What the workers have to know, and the study
    :raises SettingsError: For anything that the caller has to mend
    """
    require_packages()
    _check_numbers(args)
    scoring.check(args.score, args.env)
    train_args = _train_args(args)
    settings = settings_of(train_args)
    check(train_args, settings)
    freq = eval_freq(train_args, settings)
    if not 1 <= freq <= settings.n_timesteps:
        raise SettingsError(f"--eval-freq must be from 1 to {settings.n_timesteps} steps, got {freq}")
    asked = {
        "env": args.env,
        "algo": args.algo,
        "steps": args.steps,
        "seeds": args.seeds,
        "score": args.score,
        "pruner": args.pruner or ("wilcoxon" if args.seeds >= WILCOXON_SEEDS else "median"),
        "fix": list(args.fix),
        "space": {} if args.space is None else read_yaml(args.space),
        "eval_freq": args.eval_freq,
        "eval_episodes": args.eval_episodes,
        "seed": args.seed,
    }
    study = Study(asked, settings.raw, entry_there(args))
    check(train_args, study.space.settings(study.space.previous(), "previous settings"))
    directory = run_directory(args)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"cannot write to {directory}: {error.strerror}; choose another --log-dir") from error
    file = directory / "study.db"
    job = Job(args.storage or f"sqlite:///{file}", directory.name, args.trials)
    with quiet(), lock(directory, wait=True):
        try:
            if args.storage is None and not os.path.lexists(file):
                with atomic(file) as partial:  # whoever is killed at it leaves no file that looks like a lost study
                    partial.unlink(missing_ok=True)
                    _find_or_make(replace(job, url=f"sqlite:///{partial}"), study)
            return job, _find_or_make(job, study)
        except StorageInternalError as error:  # a full disk, say
            raise SettingsError(f"--storage {job.shown_url}: {_reason(error)}") from error


def _train_args(args: TuneArgs) -> TrainArgs:
    return TrainArgs(
        args.env,
        args.algo,
        args.steps,
        hyperparams=args.hyperparams,
        eval_freq=args.eval_freq,
        eval_episodes=args.eval_episodes,
        device="cpu",
        quiet=True,
    )


def entry_there(args: TuneArgs) -> Mapping[str, Any]:
    """:return: The entry that the hyperparameter file has now"""
    return settings_of(replace(_train_args(args), steps=None)).raw


def _check_numbers(args: TuneArgs) -> None:
    least = {"trials": 1, "seeds": 1, "top": 0, "confirm_seeds": 1, "workers": 0, "eval_episodes": 1, "seed": 0}
    for name, low in least.items():
        if getattr(args, name) < low:
            raise SettingsError(f"--{name.replace('_', '-')} must be {low} or more, got {getattr(args, name)}")
    if args.pruner == "wilcoxon" and args.seeds < WILCOXON_SEEDS:
        raise SettingsError(
            f"--pruner wilcoxon needs --seeds {WILCOXON_SEEDS} or more to tell anything, got {args.seeds}"
        )


def run_directory(args: TuneArgs) -> Path:
    """:return: Where the files of a study are"""
    return args.log_dir.absolute() / (args.study or f"{args.algo}_{env_name(args.env)}")


def _find_or_make(job: Job, study: Study) -> Study:
    storage = _open(job)
    try:
        found = optuna.create_study(storage=storage, study_name=job.name, direction="maximize")
        _make(found, study)
    except DuplicatedStudyError:
        found = optuna.load_study(storage=storage, study_name=job.name)
        if _content(found) is None:  # whoever was making it died
            if not all(trial.user_attrs.get("previous") for trial in found.trials):
                raise SettingsError(
                    f"the study {job.name} is not one of sb3-ddpg tune; choose another --study"
                ) from None
            _make(found, study)
    there = _content(found)
    assert there is not None
    if differing := [name for name in study.asked if there.asked.get(name) != study.asked[name]]:
        raise SettingsError(
            f"the study {job.name} is there, but with other {' and '.join(differing)}; choose another --study or "
            "--log-dir"
        )
    return there


def _open(job: Job) -> _Storage:
    if job.file is not None and os.path.lexists(job.file):
        _check(job.file)
    for last in (False, False, True):
        try:
            return _Storage(job)
        except Exception as error:  # drivers raise anything
            if last:
                raise SettingsError(
                    f"--storage {job.shown_url}: {_reason(error)}; expected a URL of SQLAlchemy "
                    "such as postgresql+psycopg://user@host/optuna, of a database that is there and can be written to"
                ) from error
            time.sleep(0.5)  # two that make the tables at once get in each other's way
    raise AssertionError


def _reason(error: BaseException) -> str:
    while error.__cause__ is not None:  # the driver's words, without SQLAlchemy's around them
        error = error.__cause__
    return one_line(error)


def _check(file: Path) -> None:
    """SQLite takes an empty file for a new database, and finds out that a page is spoiled when it comes to it."""
    try:
        file.open("r+b").close()  # SQLite does not say why it cannot, or only when it comes to writing
        deadline = time.monotonic() + 1
        while (empty := file.stat().st_size == 0) and time.monotonic() < deadline:
            time.sleep(0.1)  # somebody may be making it
        uri = f"{file.absolute().as_uri()}?mode=rw"
        with contextlib.closing(sqlite3.connect(uri, PATIENCE_SECONDS, uri=True)) as connection:
            (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        reason = "it is empty" if empty else " ".join(found.split())
    except OSError as error:
        raise SettingsError(f"{file}: {error.strerror}; expected a file that can be written to, or nothing") from error
    except sqlite3.OperationalError as error:  # a file that is locked is not spoiled
        raise SettingsError(f"{file}: {one_line(error)}") from error
    except sqlite3.DatabaseError as error:
        reason = one_line(error)
    if reason != "ok":
        raise SettingsError(
            f"{file} is not the database of a study: {reason}; restore it from a backup, or remove it to begin anew"
        )


def _make(found: optuna.Study, study: Study) -> None:
    found.enqueue_trial(study.space.previous(), user_attrs={"previous": True}, skip_if_exists=True)
    found.set_user_attr("study", {"asked": study.asked, "previous": study.previous, "there": study.there})


def _content(found: optuna.Study) -> Study | None:
    for _ in range(10):
        if content := found.user_attrs.get("study"):
            return Study(content["asked"], content["previous"], content["there"])
        time.sleep(0.5)  # somebody is making it
    return None


@functools.lru_cache(maxsize=1)  # a process does one trial after the other
def connect(job: Job) -> tuple[optuna.Study, Study]:
    """
    Open a study that was prepared.

    :param job: Where it is
    :return: Optuna's study, and ours
    """
    with quiet():
        found = optuna.load_study(storage=_Storage(job), study_name=job.name, sampler=_Sampler(0))
        study = _content(found)
        if study is None:
            raise SettingsError(f"the study {job.name} is not one of sb3-ddpg tune; choose another --study")
        found.sampler = _Sampler(study.asked["seed"])
        found.pruner = _pruner(study)
        return found, study


def _pruner(study: Study) -> BasePruner:
    if study.asked["pruner"] == "none":
        return NopPruner()
    if study.asked["pruner"] == "wilcoxon":
        return WilcoxonPruner()
    # The others compare evaluations, but not before a quarter of the first run
    first = points(study, study.space.settings(study.space.previous(), "previous settings")) // 4
    if study.asked["pruner"] == "median":
        return _Median(scoring.is_time(study.asked["score"]), first)
    return SuccessiveHalvingPruner(min_resource=max(first, 1))


def points(study: Study, settings: Settings) -> int:
    """:return: How many evaluations a run has"""
    freq = eval_freq(study.train_args(0), settings)
    # Evaluations come with steps of all environments together
    return int(-(-settings.n_timesteps // settings.n_envs) // -(-freq // settings.n_envs))
