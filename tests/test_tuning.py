"""Studies: in this process first, then as commands that are killed, suspended and interrupted."""

import contextlib
import dataclasses
import os
import pwd
import re
import signal
import sqlite3
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import processes
import psutil
import pytest
import sqlalchemy
from clusters import cluster_started_by_hand, gone, wait_until
from comparison_envs import Quick
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, TrialState
from postgres import Server, postgres  # noqa: F401 (a fixture)
from small_runs import FIXED, tune, tune_arguments

from sb3_ddpg_ext.arguments import ScoreKind
from sb3_ddpg_ext.errors import SettingsError
from sb3_ddpg_ext.results.records import Evaluations
from sb3_ddpg_ext.settings import load_settings
from sb3_ddpg_ext.tuning import objective, scoring, search
from sb3_ddpg_ext.tuning import storage as storage_module
from sb3_ddpg_ext.tuning.storage import Job, Storage, open_storage
from sb3_ddpg_ext.tuning.study import connect, prepare, quiet

ROOT = Path(__file__).parent.parent
SECONDS = ScoreKind.SECONDS_TO_THRESHOLD


@contextlib.contextmanager
def ends_within(seconds: int) -> Iterator[None]:
    """Fail if the block takes longer: a search whose last trial nobody finishes would wait for ever."""

    def fail(*_: object) -> None:
        pytest.fail(f"it has not ended after {seconds} s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# --- Trials ---


def test_same_seed_same_trials_also_when_the_study_was_interrupted(tmp_path: Path) -> None:
    def content(trials: Sequence[FrozenTrial]) -> list[Any]:
        return [(t.number, t.state, t.value, t.params, t.intermediate_values) for t in trials]

    few = {"steps": 60, "eval_freq": 60}
    _, once = tune(tune_arguments(tmp_path / "a", trials=12, **few))
    tune(tune_arguments(tmp_path / "b", trials=5, **few))
    _, twice = tune(tune_arguments(tmp_path / "b", trials=12, **few))
    _, other = tune(tune_arguments(tmp_path / "c", trials=2, seed=1, **few))
    assert content(once) == content(twice)
    assert len({tuple(trial.params.items()) for trial in once}) == 12
    assert content(once)[0] == content(other)[0]
    assert content(once)[1] != content(other)[1]


@pytest.mark.parametrize(
    ("module", "name"), [(objective, "train_from_last_checkpoint"), (search, "objective")], ids=["drawn", "new"]
)
def test_a_trial_that_was_interrupted_changes_no_other(
    module: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {"steps": 60, "eval_freq": 60, "trials": 6}
    _, once = tune(tune_arguments(tmp_path / "a", **few))
    function, runs = getattr(module, name), 0

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        nonlocal runs
        runs += 1
        if runs in (2, 4):
            raise KeyboardInterrupt
        return function(*args, **kwargs)

    monkeypatch.setattr(module, name, interrupted)
    args = tune_arguments(tmp_path / "b", **few)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            tune(args)
    _, trials = tune(args)
    assert [trial.state.name for trial in trials].count("FAIL") == 2
    assert [t.params for t in search.latest_attempts(trials).values()] == [t.params for t in once]
    assert [t.value for t in search.latest_attempts(trials).values()] == [t.value for t in once]


def test_the_first_trial_has_the_previous_settings(tmp_path: Path) -> None:
    args = tune_arguments(tmp_path, "Pendulum-v1", trials=1, fix=())
    job, (trial,) = tune(args)
    previous = load_settings("custom_ddpg", "Pendulum-v1", overrides=["n_timesteps=120"])
    settings = connect(job)[1].space.settings(trial.params, "")
    for name in ("gamma", "batch_size", "learning_starts", "buffer_size", "learning_rate", "gradient_steps"):
        assert settings.hyperparams[name] == previous.hyperparams[name]
    assert settings.hyperparams["policy_kwargs"]["net_arch"] == [64, 64]
    assert settings.noise == previous.noise
    assert settings.n_timesteps == 120
    assert trial.user_attrs["previous"] is True


@pytest.mark.parametrize("pruner", ["median", "halving"])
def test_settings_with_arguments_that_are_not_tuned(pruner: Any, tmp_path: Path) -> None:
    file = tmp_path / "mine.yml"
    noise = "noise_type: colored\n  noise_std: [0.2]\n  noise_kwargs: {beta: 0.5, horizon: 9}"
    file.write_text(f"Quick-v0:\n  n_timesteps: 60\n  {noise}\n")
    few = {"steps": 60, "eval_freq": 30, "pruner": pruner, "hyperparams": file}
    _, trials = tune(tune_arguments(tmp_path, trials=4, **few))
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 4


def test_each_run_has_its_seed_and_its_evaluations(tmp_path: Path) -> None:
    Quick.seeds.clear()
    _, trials = tune(tune_arguments(tmp_path, trials=2, seeds=2))
    assert [seed for seed in Quick.seeds if seed < 1_000_000] == [0, 1, 0, 1]
    assert [sorted(trial.intermediate_values) for trial in trials] == [[1, 2, 3, 4]] * 2
    for trial in trials:
        assert trial.value == trial.intermediate_values[4]
    assert not list(tmp_path.glob("**/*.zip"))


def test_training_that_diverges_is_a_pruned_trial_with_its_reason(tmp_path: Path) -> None:
    job, trials = tune(tune_arguments(tmp_path, "comparison_envs:Nan-v0", trials=2))
    assert [trial.state for trial in trials] == [TrialState.PRUNED] * 2
    assert trials[0].user_attrs["reason"].startswith("diverged: Environment 0 returned the reward nan at step 2;")
    assert search.progress(job) == search.Progress(finished=2, running=0, pruned=2, failed=0, best=None)


def test_a_gaussian_policy_that_diverges_is_a_pruned_trial_likewise(tmp_path: Path) -> None:
    huge = ("learning_rate=1.0e18", "policy_kwargs={net_arch: [8]}", "learning_starts=10", "train_freq=1")
    _, (trial,) = tune(tune_arguments(tmp_path, algo="sac", trials=1, fix=huge))
    assert trial.state == TrialState.PRUNED
    assert trial.user_attrs["reason"].startswith("diverged: Expected parameter loc")


@pytest.mark.parametrize(
    "error", [MemoryError("Unable to allocate 7 TiB"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_a_lack_of_memory_is_a_failed_trial_with_its_reason(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train_in(*_: Any, **__: Any) -> None:
        raise SettingsError("custom_ddpg: Unable to allocate") from error  # as `make_model` does

    monkeypatch.setattr(objective, "train_from_last_checkpoint", train_in)
    job, trials = tune(tune_arguments(tmp_path, trials=2))
    assert [trial.state for trial in trials] == [TrialState.FAIL] * 2
    assert trials[0].user_attrs["reason"] == "out of memory: custom_ddpg: Unable to allocate"
    assert search.progress(job).failed == 2


@pytest.mark.parametrize("error", [RuntimeError("oh"), ValueError("oh"), KeyError("oh")])
def test_a_programming_error_stops_the_study_and_is_no_trial_of_it(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train_in(*_: Any, **__: Any) -> None:
        raise error

    args = tune_arguments(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(objective, "train_from_last_checkpoint", train_in)
        with pytest.raises(RuntimeError, match=f"a trial raised {type(error).__name__}, see above") as caught:
            tune(args)
    assert caught.value.__cause__ is error
    job, _ = prepare(args)
    assert "in train_in" in connect(job)[0].trials[0].user_attrs["void"]
    assert search.progress(job).finished == 0
    _, trials = tune(args)
    check_exact(trials, 3)
    assert next(iter(search.latest_attempts(trials).values())).user_attrs["previous"] is True


def test_of_two_workers_that_ask_for_the_last_trial_one_gets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, _ = prepare(tune_arguments(tmp_path, trials=2))
    search.run_trial(job)
    optimize = optuna.Study.optimize

    def overtaken(study: optuna.Study, *args: Any, **kwargs: Any) -> None:
        monkeypatch.setattr(optuna.Study, "optimize", optimize)
        search.run_trial(job)  # the other one, when the first has seen that a trial is left
        study.optimize(*args, **kwargs)

    monkeypatch.setattr(optuna.Study, "optimize", overtaken)
    search.run_trial(job)
    optuna_study, _ = connect(job)
    assert optuna_study.trials[2].user_attrs["void"] == "another worker had begun with the last trial"
    assert search.progress(job).finished == 2
    _, trials = tune(tune_arguments(tmp_path, trials=3))
    assert list(search.latest_attempts(trials)) == [0, 1, 3]


def test_a_command_with_fewer_trials_ends_none_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = tune_arguments(tmp_path, trials=3)

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    tune(dataclasses.replace(args, trials=2))
    with monkeypatch.context() as patch:
        patch.setattr(objective, "train_from_last_checkpoint", interrupt)
        with pytest.raises(KeyboardInterrupt):
            tune(args)
    job, _ = prepare(dataclasses.replace(args, trials=1))
    search.run_trial(job)
    trials = connect(job)[0].trials
    assert [trial.state.name for trial in trials] == ["COMPLETE", "COMPLETE", "FAIL", "COMPLETE"]
    assert list(search.latest_attempts(trials)) == [0, 1, 2]


def workers_that_die_at_once(monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    """The next workers die when they have started a trial, before its first heartbeat."""
    optimize, started_trials = optuna.Study.optimize, []

    def die(study: optuna.Study, *args: Any, **kwargs: Any) -> None:
        if len(started_trials) < n:
            with pytest.warns(UserWarning, match="Heartbeat of storage"):  # here there is none
                started_trials.append(study.ask())
        else:
            optimize(study, *args, **kwargs)

    monkeypatch.setattr(optuna.Study, "optimize", die)


@pytest.mark.slow
def test_a_trial_that_always_kills_its_worker_at_once_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, _ = prepare(tune_arguments(tmp_path, trials=1))
    job = dataclasses.replace(job, heartbeat=1, grace=1)
    workers_that_die_at_once(monkeypatch, 9)
    with ends_within(60):
        search.search(job, workers=0)
    assert search.progress(job).failed == 1
    assert len(connect(job)[0].trials) == 1 + storage_module.MAX_RETRIES


def test_a_trial_whose_worker_died_before_its_first_heartbeat_is_retried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, _ = prepare(tune_arguments(tmp_path, trials=2))
    job = dataclasses.replace(job, heartbeat=1, grace=1)
    workers_that_die_at_once(monkeypatch, 1)
    with ends_within(60):
        search.search(job, workers=0)
    trials = connect(job)[0].trials
    assert [trial.state.name for trial in trials] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert trials[2].params.items() >= trials[0].params.items()


def test_a_trial_whose_worker_died_when_it_had_begun_is_retried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Optuna's thread, which records heartbeats, has not got to the first one."""
    job, _ = prepare(tune_arguments(tmp_path, trials=1))
    job = dataclasses.replace(job, heartbeat=1, grace=1)

    def die(*_: Any) -> float:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "record_heartbeat", lambda *_: None)
        patch.setattr(search, "objective", die)
        with pytest.raises(SystemExit):
            search.run_trial(job)
    assert [trial.state.name for trial in connect(job)[0].trials] == ["RUNNING"]
    with ends_within(60):
        search.search(job, workers=0)
    assert [trial.state.name for trial in connect(job)[0].trials] == ["FAIL", "COMPLETE"]


@pytest.mark.parametrize("database", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def test_two_workers_never_begin_the_same_trial(database: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The second asks for it in the middle of the first one's transaction."""
    args = tune_arguments(tmp_path)
    if database == "postgresql":
        args = dataclasses.replace(args, storage=request.getfixturevalue("postgres").database("same"))
    job, _ = prepare(args)
    with quiet():
        first, second = Storage(job), Storage(job)
    trial = first.get_trial_id_from_study_id_trial_number(first.get_study_id_from_name(job.name), 0)
    answers = []
    thread = threading.Thread(target=lambda: answers.append(second.set_trial_state_values(trial, TrialState.RUNNING)))

    def ask_as_well(_c: Any, _u: Any, sql: str, *_: Any) -> None:
        if sql.startswith("UPDATE"):
            thread.start()
            thread.join(timeout=1)  # until it waits for the lock

    sqlalchemy.event.listen(first.engine, "before_cursor_execute", ask_as_well)
    answers.append(first.set_trial_state_values(trial, TrialState.RUNNING))
    thread.join()
    assert sorted(answers) == [False, True]


# --- Pruning, with learning curves that are made up ---


class Curves(list[list[float]]):
    """:ivar told: Evaluations that there were"""

    told = 0


@pytest.fixture
def curves(monkeypatch: pytest.MonkeyPatch) -> Curves:
    """Runs that have these returns at 4 evaluations, a CPU second after one another, one curve after the other."""
    given = Curves()

    def train_in(*_: Any, on_evaluation: Any, **__: Any) -> None:
        curve = given.pop(0)
        for n in range(1, len(curve) + 1):
            given.told += 1
            seconds = np.arange(1.0, n + 1)
            on_evaluation(Evaluations(30 * seconds, seconds, seconds, np.array(curve[:n])[:, None]))

    monkeypatch.setattr(objective, "train_from_last_checkpoint", train_in)
    return given


def made_up(tmp_path: Path, curves: Curves, given: Sequence[Sequence[float]], **kwargs: Any) -> list[FrozenTrial]:
    curves[:] = map(list, given)
    seeds = kwargs.get("seeds", 1)
    args = tune_arguments(tmp_path, "Pendulum-v1", eval_freq=30, trials=len(given) // seeds, **kwargs)
    _, trials = tune(args)
    return trials


def test_median_pruning(tmp_path: Path, curves: Curves) -> None:
    ordinary = [[-900.0, -800, -700, -600 - i] for i in range(5)]
    trials = made_up(tmp_path, curves, [*ordinary, [-1000, -950, -100, -100], [-800, -800, -900, -900]])
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 5 + ["PRUNED", "PRUNED"]
    assert trials[5].intermediate_values == {1: -1000}
    assert trials[5].user_attrs["reason"] == "behind the others at step 30 of run 0"
    assert sorted(trials[6].intermediate_values) == [1, 2, 3]


def test_median_pruning_of_times(tmp_path: Path, curves: Curves) -> None:
    """Compared is the time so far with half of the others' times: those are over by then."""
    others = [[-900.0] * (n - 1) + [-150] for n in (1, 2, 2, 2, 4)]
    slow, worse = [-900.0] * 2 + [-150], [-900.0] * 4
    trials = made_up(tmp_path, curves, [*others, slow, worse, [-150]], score=SECONDS)
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 5 + ["PRUNED"] * 2 + ["COMPLETE"]
    assert trials[5].user_attrs["reason"] == trials[6].user_attrs["reason"] == "behind the others at step 90 of run 0"
    assert trials[6].intermediate_values == {1: 3600, 2: 1800, 3: 1200}


def test_successive_halving(tmp_path: Path, curves: Curves) -> None:
    good, bad = [-200.0] * 4, [-900.0] * 4
    trials = made_up(tmp_path, curves, [good] * 4 + [bad] * 2, pruner="halving")
    assert [trial.state.name for trial in trials[4:]] == ["PRUNED", "PRUNED"]


def test_wilcoxon_across_seeds(tmp_path: Path, curves: Curves) -> None:
    good = [[-200.0 - seed] * 4 for seed in range(8)]
    bad = [[-300.0 - 2 * seed] * 4 for seed in range(8)]
    curves[:] = good + bad
    args = tune_arguments(tmp_path, "Pendulum-v1", eval_freq=30, trials=2, seeds=8)
    job, trials = tune(args)
    n_runs = len(trials[1].intermediate_values)
    assert trials[0].intermediate_values == {seed: -200.0 - seed for seed in range(8)}
    assert 2 <= n_runs < 8
    assert trials[1].state == TrialState.PRUNED
    assert trials[1].user_attrs["reason"] == f"worse than the best trial in {n_runs} runs (Wilcoxon test)"
    assert [trial.number for trial in search.ranking(job)] == [0]
    assert search.progress(job).pruned == 1


def test_time_to_the_threshold_is_known_when_it_is_reached(tmp_path: Path, curves: Curves) -> None:
    trials = made_up(
        tmp_path, curves, [[-900, -190.0, -150, -900], [-900.0] * 3 + [-800]], score=SECONDS, pruner="none"
    )
    assert curves.told == 2 + 4
    assert trials[0].value == 3600 / 2
    assert trials[0].intermediate_values.keys() == {1, 4}
    assert trials[1].value == pytest.approx(-600 / (1211.8 - 200))
    assert scoring.describe(SECONDS, trials[0].value) == "2.0 CPU s to the threshold"


def test_what_takes_far_too_many_seconds_is_ended(tmp_path: Path, curves: Curves) -> None:
    slow = [-900.0] * 4
    curves[:] = [[-150.0], [*slow, *slow]]
    args = tune_arguments(tmp_path, "Pendulum-v1", steps=240, eval_freq=30, trials=2, score=SECONDS, pruner="none")
    _, trials = tune(args)
    assert [trial.state.name for trial in trials] == ["COMPLETE", "PRUNED"]
    assert trials[1].user_attrs["reason"] == "4 times as slow as the best trial in run 0"
    assert max(trials[1].intermediate_values) == 5


# --- A thousand workers ---


@contextlib.contextmanager
def counted_statements() -> Iterator[Counter[str]]:
    """Counts the SQL statements of all databases, by their first word; but not heartbeats, which a clock triggers."""
    counts = Counter[str]()

    def count(_c: Any, _u: Any, sql: str, *_: Any) -> None:
        if "trial_heartbeats" not in sql:
            counts[sql.split()[0]] += 1

    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", count)
    try:
        yield counts
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", count)


def test_an_evaluation_costs_the_database_the_same_however_many_trials_there_are(
    tmp_path: Path, curves: Curves
) -> None:
    """And pruning with the median adds nothing to it."""

    def statements_per_evaluation(pruner: Any) -> list[float]:
        """Of a trial at the beginning of a study, and of one that is compared with others."""
        job, _ = prepare(
            tune_arguments(
                tmp_path / pruner, "Pendulum-v1", eval_freq=20, trials=8, pruner=pruner, fix=(*FIXED, "noise_type=ou")
            )
        )
        n_evaluations = [2, 2, 6, 2, 2, 2, 2, 6]
        curves[:] = [[-900.0 + number] * n for number, n in enumerate(n_evaluations)]  # each is better than the last
        counts = []
        for _ in n_evaluations:
            with counted_statements() as counted:
                search.run_trial(job)
            counts.append(counted.total())
        assert [trial.state.name for trial in connect(job)[0].trials] == ["COMPLETE"] * 8
        return [(counts[2] - counts[1]) / 4, (counts[7] - counts[6]) / 4]

    (first, last), with_median = statements_per_evaluation("none"), statements_per_evaluation("median")
    assert first > 0
    assert [last, *with_median] == [first] * 3


# --- What is refused ---

REFUSED = {
    "trials": ({"trials": 0}, "--trials must be 1 or more, got 0"),
    "seeds": ({"seeds": 0}, "--seeds must be 1 or more, got 0"),
    "top": ({"top": -1}, "--top must be 0 or more, got -1"),
    "confirm seeds": ({"confirm_seeds": 0}, "--confirm-seeds must be 1 or more, got 0"),
    "workers": ({"workers": -1}, "--workers must be 0 or more, got -1"),
    "wilcoxon": ({"pruner": "wilcoxon"}, "--pruner wilcoxon needs --seeds 5 or more to tell anything, got 1"),
    "no threshold": (
        {"score": SECONDS},
        "--score seconds needs a threshold, which comparison_envs:Quick-v0 does not",
    ),
    "evaluations": ({"eval_freq": 121}, "--eval-freq must be from 1 to 120 steps, got 121"),
    "algorithm": ({"algo": "ddgp"}, "unknown algorithm 'ddgp'; did you mean"),
    "environment": ({"env": "Pendulm-v1"}, "environment 'Pendulm-v1'"),
    "fix": ({"fix": ("gama=0.9",)}, "--fix: unknown hyperparameter 'gama'; did you mean 'gamma'"),
    "fix without a value": ({"fix": ("gamma",)}, "override 'gamma': expected name=value"),
    "fix out of range": ({"fix": ("gamma=2",)}, "--fix: gamma: expected between 0 and 1, got 2"),
    "space": ({"space": Path("none.yml")}, "none.yml: cannot be read"),
    "storage": ({"storage": "nowhere://here"}, "--storage nowhere://here: .*; expected a URL of SQLAlchemy such as"),
    "no server": (
        {"storage": "postgresql+psycopg://optuna@127.0.0.1:1/optuna"},
        "--storage postgresql.*Connection refused.*; expected a URL of SQLAlchemy",
    ),
    "password": (
        {"storage": "postgresql+psycopg://optuna:secret@127.0.0.1:1/optuna"},
        r"--storage postgresql\+psycopg://optuna:\*\*\*@127.0.0.1:1/optuna: ",
    ),
    "not a URL": ({"storage": "optuna.db"}, "--storage optuna.db: .*; expected a URL of SQLAlchemy"),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        prepare(tune_arguments(tmp_path, **changes))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("**/*.db"))


SPOILED = {
    "empty": (lambda _: b"", "it is empty"),
    "no database": (lambda _: b"a text, or whatever else " * 200, "file is not a database"),
    "zeros": (lambda whole: bytes(len(whole)), "file is not a database"),
    "cut in its first page": (lambda whole: whole[:50], "database disk image is malformed"),
    "cut in a page": (lambda whole: whole[:50_000], "database disk image is malformed"),
    "a page lost": (
        lambda whole: whole[:12_288] + bytes(4_096) + whole[16_384:],
        r"\*\*\* in database main .*Page 4.*",
    ),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The database of a study that was made."""
    directory = tmp_path_factory.mktemp("whole")
    prepare(tune_arguments(directory, study=NAME))
    return (directory / NAME / "study.db").read_bytes()


def refused_command(*further: str, cwd: Path) -> str:
    """The one line of ``sb3-ddpg tune``."""
    result = processes.forked(["tune", *command(*further, env="Quick")], cwd, processes.ENVIRONMENT, timeout=120)
    assert (result.returncode, result.stdout) == (2, ""), result.stderr
    (line,) = result.stderr.splitlines()
    return line


@pytest.mark.parametrize("storage", [False, True], ids=["", "storage"])
@pytest.mark.parametrize(("spoil", "reason"), SPOILED.values(), ids=SPOILED.keys())
def test_a_spoiled_database_is_not_taken_for_a_new_one(
    spoil: Callable[[bytes], bytes], reason: str, storage: bool, whole: bytes, tmp_path: Path
) -> None:
    directory = tmp_path / "out" / NAME
    directory.mkdir(parents=True)
    file = tmp_path / "studies.db" if storage else directory / "study.db"
    file.write_bytes(spoil(whole))
    said = refused_command(*(["--storage", "sqlite:///studies.db"] if storage else []), cwd=tmp_path)
    hint = "restore it from a backup, or remove it to begin anew"
    name = "studies.db" if storage else str(file)
    assert re.fullmatch(rf"error: {re.escape(name)} is not the database of a study: {reason}; {hint}", said)
    assert file.read_bytes() == spoil(whole)
    file.unlink()
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [".lock"]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Path.mkdir, "Is a directory"),
        (lambda file: file.symlink_to(file), "Too many levels of symbolic links"),
        (lambda file: file.symlink_to("nowhere/study.db"), "No such file or directory"),  # its disk is not there, say
    ],
    ids=["directory", "loop", "nowhere"],
)
def test_a_database_that_cannot_be_opened_is_not_replaced(
    make: Callable[[Path], None], reason: str, tmp_path: Path
) -> None:
    file = tmp_path / "out" / NAME / "study.db"
    file.parent.mkdir(parents=True)
    make(file)
    before = file.lstat()
    hint = "expected a file that can be written to, or nothing"
    assert refused_command(cwd=tmp_path) == f"error: {file}: {reason}; {hint}"
    assert (file.lstat().st_ino, file.lstat().st_mode) == (before.st_ino, before.st_mode)


@pytest.mark.parametrize("mode", [0o000, 0o444], ids=["unreadable", "read-only"])
def test_a_database_of_somebody_else_is_refused(mode: int, whole: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:  # not pytest's, which is its user's alone
        file = Path(directory) / "study.db"
        file.write_bytes(whole)
        file.chmod(mode)
        Path(directory).chmod(0o755)
        user = os.geteuid()
        if user == 0:  # who may read and write everything
            os.seteuid(pwd.getpwnam("nobody").pw_uid)
        try:
            with pytest.raises(SettingsError, match=r"study\.db: Permission denied; expected a file that can be"):
                open_storage(Job(f"sqlite:///{file}", NAME, 1))
        finally:
            os.seteuid(user)
        file.chmod(0o600)
        assert file.read_bytes() == whole


@pytest.mark.slow
def test_a_process_that_is_killed_creating_the_database_leaves_none(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from sb3_ddpg_ext.__main__ import main; from sb3_ddpg_ext.tuning import storage\n"
        "def killed(job): job.file.touch(); os.kill(os.getpid(), signal.SIGKILL)\n"
        "storage.Storage = killed\n"
        "sys.exit(main())"
    )
    arguments_ = command("--workers", "0", "--quiet", trials=1, env="Quick")
    with processes.started(["-c", code, "tune", *arguments_], tmp_path) as process:
        process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    (left,) = (tmp_path / "out" / NAME).glob("*.db")
    assert left.name.startswith(".partial-")
    with started(arguments_, tmp_path) as process:
        finish(process)
    check_exact(trials_of(tmp_path), 1)


def test_the_partial_file_of_a_process_with_the_same_id_is_replaced(whole: bytes, tmp_path: Path) -> None:
    directory = tmp_path / NAME
    directory.mkdir()
    (directory / f".partial-{os.getpid()}-study.db").write_bytes(whole[:50])
    prepare(tune_arguments(tmp_path, study=NAME))
    assert [file.name for file in directory.glob("*.db")] == ["study.db"]


def test_an_empty_file_that_somebody_is_filling_is_waited_for(whole: bytes, tmp_path: Path) -> None:
    file = tmp_path / "studies.db"
    file.touch()
    threading.Timer(0.3, file.write_bytes, [whole]).start()
    job, _ = prepare(tune_arguments(tmp_path, study=NAME, storage=f"sqlite:///{file}"))
    assert len(connect(job)[0].trials) == 1


def test_a_locked_database_is_not_called_spoiled(whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_module, "PATIENCE_SECONDS", 0.1)
    file = tmp_path / "studies.db"
    file.write_bytes(whole)
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        with pytest.raises(SettingsError, match=r"studies\.db: database is locked$"):
            prepare(tune_arguments(tmp_path, study=NAME, storage=f"sqlite:///{file}"))


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise StorageInternalError("in the middle of a commit") from sqlite3.OperationalError(
            "database or disk is full"
        )

    monkeypatch.setattr(optuna.Study, "enqueue_trial", full)
    with pytest.raises(SettingsError, match=r"--storage sqlite:///.*study\.db: database or disk is full$"):
        prepare(tune_arguments(tmp_path))


@pytest.mark.parametrize(
    ("part", "changes", "said"),
    [
        ("asked", {"steps": "many"}, r"written \(steps: Input should be a valid integer\); choose another --study$"),
        ("asked", {"score": "bogus"}, r"written \(score: Input should be "),
        ("asked", {"fix": "gamma=1"}, r"written \(fix: Input should be a valid "),
        ("asked", {"pruner": "os.system"}, r"written \(pruner: Input should be "),
        ("asked", None, r"written \(Input should be an object"),
        ("previous", None, r"written \(Input should be an object"),
        ("previous", {"gamma": "0.9"}, "^previous settings: gamma: expected float, got '0.9'$"),
        (
            "previous",
            {"env_wrapper": "os.system"},
            "^previous settings: env_wrapper: expected a subclass of gymnasium's",
        ),
    ],
)
def test_what_others_wrote_into_the_database_is_checked(
    part: str, changes: dict[str, Any] | None, said: str, tmp_path: Path
) -> None:
    args = tune_arguments(tmp_path, trials=1)
    job, _ = prepare(args)
    with quiet():
        optuna_study = optuna.load_study(storage=job.url, study_name=job.name)
    stored = dict(optuna_study.user_attrs["study"])
    stored[part] = None if changes is None else {**stored[part], **changes}
    optuna_study.set_user_attr("study", stored)
    connect.cache_clear()
    with pytest.raises(SettingsError, match=said):
        connect(job)
    if part == "asked":
        with pytest.raises(SettingsError, match=said):
            prepare(args)


@pytest.mark.parametrize(
    ("owner", "attribute", "value", "said"),
    [
        ("system", "failed_trial", ["x"], "failed_trial: Input should be a valid integer"),
        ("system", "failed_trial", -3, "trial 0 retries one that was not before it"),
        ("system", "failed_trial", 7, "trial 0 retries one that was not before it"),
        ("system", "retry_history", "os.system", "retry_history: Input should be a valid array"),
        ("system", "fixed_params", 3, "fixed_params: Input should be an object"),
        ("user", "worker", "nobody", "worker: Input should be an object"),
        (
            "user",
            "worker",
            {"trial": "0", "command": "", "host": ""},
            r"worker\.trial: Input should be ",
        ),
        ("user", "reason", {"__reduce__": "os.system"}, "reason: Input should be a valid string"),
        ("user", "void", None, "void: Input should be a valid string"),
        ("user", "previous", "yes", "previous: Input should be a valid boolean"),
        ("study", "written", 3, "written: Input should be a valid array"),
    ],
)
def test_what_others_wrote_into_a_trial_is_checked(
    owner: str, attribute: str, value: Any, said: str, tmp_path: Path
) -> None:
    job, _ = prepare(tune_arguments(tmp_path, trials=1))
    with quiet():
        storage = optuna.storages.RDBStorage(job.url)
        study_id = storage.get_study_id_from_name(job.name)
        trial_id = storage.get_all_trials(study_id)[0]._trial_id
    match owner:
        case "system":
            storage.set_trial_system_attr(trial_id, attribute, value)
        case "user":
            storage.set_trial_user_attr(trial_id, attribute, value)
        case "study":
            storage.set_study_user_attr(study_id, attribute, value)
    connect.cache_clear()
    with pytest.raises(SettingsError, match=rf"has not written \({said}.*\); choose another --study$"):
        connect(job)


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE trial_user_attributes SET value_json = '{'", "Expecting property name"),
        ("UPDATE study_user_attributes SET value_json = '{'", "Expecting property name"),
        ("UPDATE trial_system_attributes SET value_json = printf('%.*c', 99999, '[')", "recursion"),
        ('UPDATE trial_params SET distribution_json = \'{"name": "os.system", "attributes": {}}\'', "distribution"),
        ("UPDATE trial_params SET param_value = 1e9", "(tuple index out of range|not in the search space)"),
    ],
)
def test_what_optuna_cannot_read_is_one_line(statement: str, said: str, tmp_path: Path) -> None:
    args = tune_arguments(tmp_path, trials=1)
    tune(args)
    job, _ = prepare(args)
    assert job.file is not None
    with contextlib.closing(sqlite3.connect(job.file)) as connection, connection:
        assert connection.execute(statement).rowcount > 0
    connect.cache_clear()
    with pytest.raises(SettingsError, match=rf"has not written \(.*{said}.*\); choose another --study$"):
        connect(job)


def test_a_study_with_other_arguments_is_refused(tmp_path: Path) -> None:
    args = tune_arguments(tmp_path, trials=1)
    tune(args)
    with pytest.raises(SettingsError, match="is there, but with other steps and seeds; choose another --study or"):
        prepare(tune_arguments(tmp_path, steps=240, seeds=2))


def test_a_study_whose_creation_was_interrupted_is_completed(tmp_path: Path) -> None:
    args = tune_arguments(tmp_path, trials=2)
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    optuna.create_study(storage=url, study_name="half", direction="maximize")
    _, trials = tune(dataclasses.replace(args, storage=url, study="half"))
    check_exact(trials, 2)
    assert trials[0].user_attrs["previous"] is True
    optuna.create_study(storage=url, study_name="theirs").optimize(lambda trial: 1.0, n_trials=1)
    with pytest.raises(SettingsError, match="the study theirs is not one of sb3-ddpg tune; choose another --study"):
        prepare(dataclasses.replace(args, storage=url, study="theirs"))


# --- The command, and what can happen to it ---

NAME = "study"


def command(*further: str, trials: int = 4, env: str = "Slow", steps: int = 120) -> list[str]:
    where = ["--env", f"comparison_envs:{env}-v0", "--study", NAME, "--log-dir", "out"]
    numbers = f"--trials {trials} --steps {steps} --seeds 1 --eval-freq 60 --eval-episodes 1 --top 0 --pruner none"
    fixed = [word for setting in FIXED for word in ("--fix", setting)]
    return [*where, *numbers.split(), *fixed, *further]


def started(arguments: Sequence[str], cwd: Path) -> AbstractContextManager[subprocess.Popen[str]]:
    return processes.started([ROOT / "tests" / "helpers" / "tune_hastily.py", *arguments], cwd)


def finish(process: subprocess.Popen[str]) -> str:
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, output + errors
    assert errors == ""
    return output


def begun(cwd: Path) -> list[int]:
    """The process of each training that has begun."""
    file = cwd / "begun"
    return [int(line.split()[1]) for line in file.read_text().splitlines()] if file.exists() else []


def trials_of(cwd: Path, url: str | None = None) -> list[FrozenTrial]:
    url = url or f"sqlite:///{cwd / 'out' / NAME / 'study.db'}"
    storage = optuna.storages.RDBStorage(url, {"poolclass": sqlalchemy.NullPool})  # leaves no connection open
    return optuna.load_study(storage=storage, study_name=NAME).trials


def check_exact(trials: Sequence[FrozenTrial], n: int) -> None:
    """Each trial of the study is there and finished, and once."""
    last = search.latest_attempts(trials)
    assert [trial.state for trial in last.values()] == [TrialState.COMPLETE] * n
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    assert len(complete) == n
    assert len({str(trial.params) for trial in complete}) == n


def retried(trials: Sequence[FrozenTrial]) -> list[tuple[FrozenTrial, FrozenTrial]]:
    """The first attempt of each trial that was retried, and the retry."""
    return [(trials[t.system_attrs["failed_trial"]], t) for t in trials if "failed_trial" in t.system_attrs]


@pytest.mark.slow
def test_sigkill_of_a_worker_retries_its_trial_with_the_same_parameters(tmp_path: Path) -> None:
    with started(command("--workers", "2", steps=600), tmp_path) as process:  # 2 s each, of which the kill hits one
        wait_until(lambda: begun(tmp_path))
        os.kill(begun(tmp_path)[-1], signal.SIGKILL)
        output = finish(process)
    trials = trials_of(tmp_path)
    check_exact(trials, 4)
    retries = retried(trials)
    assert retries  # on a busy machine perhaps others, whose heartbeats were late
    for first, again in retries:
        assert first.state == TrialState.FAIL
        assert again.params == first.params
    assert 5 <= len(begun(tmp_path)) <= 4 + len(retries)
    assert re.search(r"4/4 best -?[\d.]+, 0 running, 0 pruned, 0 failed", output)
    assert re.search(r"Report: .*out.study.report\.html", output)


@pytest.mark.slow
def test_sigkill_of_the_command_and_the_same_command_again(tmp_path: Path) -> None:
    with started(command("--workers", "1"), tmp_path) as process:
        wait_until(lambda: len(begun(tmp_path)) >= 2)
        children = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
        process.kill()
        wait_until(lambda: all(map(gone, children)))
    assert len([trial for trial in trials_of(tmp_path) if trial.state == TrialState.RUNNING]) == 1
    with started(command("--workers", "0", "--quiet"), tmp_path) as process:
        finish(process)
    trials = trials_of(tmp_path)
    check_exact(trials, 4)
    ((first, again),) = retried(trials)
    assert again.params == first.params


@pytest.mark.slow
def test_two_commands_on_one_study(tmp_path: Path) -> None:
    with (
        started(command("--workers", "1", trials=5, env="Together"), tmp_path) as one,
        started(command("--workers", "0", "--quiet", trials=5, env="Together"), tmp_path) as other,
    ):
        finish(one)
        finish(other)
    trials = trials_of(tmp_path)
    check_exact(trials, 5)
    assert len({trial.user_attrs["worker"]["command"] for trial in trials}) == 2
    assert len(begun(tmp_path)) == 5


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", "1"])
def test_ctrl_c_ends_at_once_and_the_same_command_goes_on_with_what_was_interrupted(
    workers: str, tmp_path: Path
) -> None:
    with started(command("--workers", workers, trials=1, steps=1500), tmp_path) as process:
        wait_until(lambda: len(begun(tmp_path)) == 1)
        children = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the children as well
        output, errors = process.communicate(timeout=60)
        wait_until(lambda: all(map(gone, children)), seconds=10)
    assert process.returncode == 130
    assert errors == ""
    assert "Interrupted. What is finished is kept; the same command does the rest" in output
    assert [trial.state for trial in trials_of(tmp_path)] == [TrialState.FAIL, TrialState.WAITING]
    with started(command("--workers", "0", "--quiet", trials=1, steps=1500), tmp_path) as process:
        finish(process)
    trials = trials_of(tmp_path)
    check_exact(trials, 1)
    assert trials[1].params == trials[0].params


def suspend(process: subprocess.Popen[str], database: Path) -> None:
    """Not in the middle of a transaction, for which all others would have to wait."""
    while True:
        process.send_signal(signal.SIGSTOP)
        wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)
        with contextlib.closing(sqlite3.connect(database, timeout=0.1, isolation_level=None)) as connection:
            try:
                connection.execute("BEGIN EXCLUSIVE")  # fails if the process only reads, too
                return
            except sqlite3.OperationalError:
                process.send_signal(signal.SIGCONT)


@pytest.mark.slow
def test_a_worker_that_was_suspended_does_not_disturb_the_study(tmp_path: Path) -> None:
    """Its trial is given to another; when it wakes up, it is told so."""
    with started(command("--workers", "0", "--quiet", trials=2, steps=600), tmp_path) as sleeper:
        wait_until(lambda: begun(tmp_path))
        suspend(sleeper, tmp_path / "out" / NAME / "study.db")
        with started(command("--workers", "0", "--quiet", trials=2, steps=600), tmp_path) as other:
            finish(other)
        check_exact(trials_of(tmp_path), 2)
        sleeper.send_signal(signal.SIGCONT)
        finish(sleeper)
    trials = trials_of(tmp_path)
    check_exact(trials, 2)
    assert len(retried(trials)) == 1


@pytest.mark.slow
def test_a_programming_error_ends_the_command_with_its_traceback(tmp_path: Path) -> None:
    explode = ("--fix", "callback=comparison_envs.Explode")
    with started(command("--workers", "1", *explode, env="Quick", trials=2, steps=400), tmp_path) as p:
        _, errors = p.communicate(timeout=300)
    assert p.returncode == 1
    assert 'raise RuntimeError("the callback\\nhas exploded")' in errors
    assert "comparison_envs.py" in errors
    assert "the study is kept, and the same command goes on with it" in errors.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("flag", [[], ["--traceback"]])
def test_an_error_of_the_environment_ends_the_command_with_one_line(flag: list[str], tmp_path: Path) -> None:
    with started(command("--workers", "1", *flag, env="Crash", trials=2, steps=400), tmp_path) as p:
        _, errors = p.communicate(timeout=300)
    assert p.returncode == 2
    *before, last = errors.splitlines()
    assert last.startswith("error: environment 'comparison_envs:Crash-v0' (index 0), step 151 (comparison_envs.py:")
    kept = "RuntimeError: the simulator has exploded; the study is kept, and the same command goes on with it"
    assert kept in last
    assert ('raise RuntimeError("the simulator\\nhas exploded")' in errors) == bool(flag)
    assert bool(before) == bool(flag)


# --- PostgreSQL ---


@pytest.mark.slow
def test_restart_of_the_database_server(postgres: Server, tmp_path: Path) -> None:  # noqa: F811
    url = postgres.database("restart")
    with started(command("--workers", "2", "--storage", url, trials=5), tmp_path) as process:
        wait_until(lambda: len(begun(tmp_path)) >= 2)
        postgres.stop()
        time.sleep(3)
        postgres.start()
        finish(process)
    check_exact(trials_of(tmp_path, url), 5)


def test_a_connection_that_is_lost_when_a_trial_finishes(
    tmp_path: Path, curves: Curves, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_state, lost = Storage.set_trial_state_values, []

    def lost_once(self: Storage, trial: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        if state == TrialState.COMPLETE and not lost:
            lost.append(trial)
            raise StorageInternalError("the server is gone")
        return set_state(self, trial, state, values)

    monkeypatch.setattr(Storage, "set_trial_state_values", lost_once)
    curves[:] = [-900.0] * 4, [-800.0] * 4
    with ends_within(60):
        _, trials = tune(tune_arguments(tmp_path, "Pendulum-v1", eval_freq=30, trials=1))
    assert lost
    (trial,) = search.latest_attempts(trials).values()
    assert (trial.state, trial.value) == (TrialState.COMPLETE, -800)


@pytest.mark.slow
def test_a_dask_cluster_started_by_hand(postgres: Server, tmp_path: Path) -> None:  # noqa: F811
    url = postgres.database("cluster")
    with (
        cluster_started_by_hand("--nthreads 1", "--nthreads 1", cwd=tmp_path) as (address, _),
        started(command("--scheduler", address, "--storage", url, trials=6), tmp_path) as process,
    ):
        finish(process)
    check_exact(trials_of(tmp_path, url), 6)
    assert len(begun(tmp_path)) == 6
    assert len(set(begun(tmp_path))) == 2
