"""Runs of the command line that were ended, and go on. How a model does that is tested in test_checkpoint."""

import contextlib
import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import drill
import pytest
from clusters import wait_until
from processes import ENVIRONMENT, forked, started
from small_runs import TINY_PARAMS, compare_arguments, tune_arguments
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from sb3_ddpg_ext import training
from sb3_ddpg_ext.arguments import TrainArgs
from sb3_ddpg_ext.callbacks import Checkpoints, TrainingClock
from sb3_ddpg_ext.checkpoint import has_checkpoints
from sb3_ddpg_ext.comparison import plan, run_missing, unfinished_state
from sb3_ddpg_ext.errors import SettingsError
from sb3_ddpg_ext.files import lock
from sb3_ddpg_ext.results.result_file import read_run
from sb3_ddpg_ext.training import train
from sb3_ddpg_ext.tuning.search import search
from sb3_ddpg_ext.tuning.study import prepare


class EndedError(BaseException):
    """Ends a run in the middle of a step, as a kill would: nobody catches it."""


def arguments(log_dir: Path, **kwargs: Any) -> TrainArgs:
    given = {"env": "Pendulum-v1", "steps": 450, "eval_freq": 100, "eval_episodes": 1, "checkpoint_freq": 150, **kwargs}
    return TrainArgs(
        **{**given, "params": (*TINY_PARAMS, *kwargs.get("params", ())), "log_dir": log_dir, "quiet": True}
    )


def resume(run: Path) -> Path:
    return train(TrainArgs(resume=run, quiet=True)).directory


def kill() -> None:
    raise EndedError


@contextlib.contextmanager
def at_step(step: int, do: Callable[[], object] = kill, run: int = 1) -> Iterator[list[int]]:
    """
    Something happens once in the middle of a step.

    :param step: The step
    :param do: What happens
    :param run: In which run, counted by calls of ``learn``
    :return: The steps at which calls of ``learn`` begin
    """
    begun: list[int] = []
    happened: list[int] = []
    learn, on_step = OffPolicyAlgorithm.learn, BaseCallback.on_step

    def counting_learn(model: OffPolicyAlgorithm, *args: Any, **kwargs: Any) -> Any:
        begun.append(model.num_timesteps)
        return learn(model, *args, **kwargs)

    def failing_on_step(callback: BaseCallback) -> bool:
        if len(begun) == run and callback.model.num_timesteps >= step and not happened:
            happened.append(step)
            do()
        return on_step(callback)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OffPolicyAlgorithm, "learn", counting_learn)
        patch.setattr(BaseCallback, "on_step", failing_on_step)
        yield begun


def end(args: TrainArgs, step: int) -> Path:
    """:return: The directory of a run that was ended"""
    with at_step(step), pytest.raises(EndedError):
        train(args)
    (directory,) = args.log_dir.glob("*/*_1")
    return directory


OTHERS = [pytest.param(algo, marks=pytest.mark.drill) for algo in ("ddpg", "sac", "tqc", "crossq")]


@pytest.mark.parametrize("algo", ["custom_ddpg", "td3", *OTHERS])
@pytest.mark.parametrize("params", [(), ("normalize=true", "n_envs=2")])
def test_a_run_ends_as_if_it_had_been_left_alone(algo: str, params: tuple[str, ...], tmp_path: Path) -> None:
    args = arguments(tmp_path / "ended", algo=algo, params=params)
    run = end(args, 370)  # after an evaluation, which is done again
    assert resume(run) == run
    train(arguments(tmp_path / "alone", algo=algo, params=params))
    drill.compare_runs(tmp_path / "alone", tmp_path / "ended", algo)
    record = read_run(run)
    assert record.is_finished
    assert not (run / "checkpoints").exists()


def test_what_the_drill_compares_is_not_always_equal(tmp_path: Path) -> None:
    train(arguments(tmp_path / "alone"))
    train(arguments(tmp_path / "other", seed=1))
    with pytest.raises(
        drill.DrillError, match=r"Pendulum-v1.zip, best_model.zip, evaluations.npz, progress.csv, record"
    ):
        drill.compare_runs(tmp_path / "alone", tmp_path / "other", "another seed")


def test_what_was_being_written_when_a_run_was_killed_is_removed(tmp_path: Path) -> None:
    run = end(arguments(tmp_path), 370)
    for left in (run / ".partial-123-best_model.zip", run / "Pendulum-v1" / ".partial-123-vecnormalize.json"):
        left.write_bytes(b"half of it")
    resume(run)
    assert not list(run.rglob(".partial-*"))


def test_files_are_put_back_to_what_they_were(tmp_path: Path) -> None:
    best, evaluations, episodes = (tmp_path / name for name in ("best_model.zip", "evaluations.npz", "0.monitor.csv"))
    best.write_bytes(b"best")
    episodes.write_text("one episode\n")
    checkpoints = Checkpoints(tmp_path, 1, TrainingClock())
    state = checkpoints.get_state()
    best.write_bytes(b"better")
    evaluations.write_bytes(b"first")
    episodes.write_text("one episode\nand another\n")
    checkpoints.set_state(state)
    assert best.read_bytes() == b"best"
    assert not evaluations.exists()
    assert episodes.read_text() == "one episode\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_checkpoint_of_the_last_step(number: int, tmp_path: Path) -> None:
    with at_step(280, lambda: os.kill(os.getpid(), number)):
        record = train(arguments(tmp_path / "ended"))
    assert record.status == "interrupted"
    assert [p.name for p in (record.directory / "checkpoints").glob("checkpoint-*")] == [
        "checkpoint-000001",
        "checkpoint-000002",
    ]
    resume(record.directory)
    train(arguments(tmp_path / "alone"))
    drill.compare_runs(tmp_path / "alone", tmp_path / "ended", "a signal")


def test_checkpoints_stop_the_clock_that_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: set[int] = set()
    read: set[int] = set()
    stop, reading = TrainingClock.stopped, TrainingClock.read
    monkeypatch.setattr(TrainingClock, "stopped", lambda clock: (stopped.add(id(clock)), stop(clock))[1])
    monkeypatch.setattr(TrainingClock, "read", lambda clock: (read.add(id(clock)), reading(clock))[1])
    train(arguments(tmp_path))
    assert len(stopped) == 1
    assert stopped == read


def test_seconds_are_those_of_all_parts(tmp_path: Path) -> None:
    run = end(arguments(tmp_path), 370)
    evaluations = read_run(resume(run)).evaluations
    assert evaluations is not None
    assert len(evaluations.cpu_seconds) == 4
    assert (evaluations.cpu_seconds[1:] > evaluations.cpu_seconds[:-1]).all()
    assert (evaluations.seconds[1:] > evaluations.seconds[:-1]).all()


def test_a_run_that_was_ended_before_its_first_checkpoint_begins_anew(tmp_path: Path) -> None:
    run = end(arguments(tmp_path / "ended"), 120)
    assert not has_checkpoints(run / "checkpoints")
    resume(run)
    train(arguments(tmp_path / "alone"))
    drill.compare_runs(tmp_path / "alone", tmp_path / "ended", "before the first checkpoint")


def test_a_run_that_is_finished_stays_as_it_is(tmp_path: Path) -> None:
    run = train(arguments(tmp_path)).directory
    content = (run / "result.json").read_bytes()
    assert resume(run) == run
    assert (run / "result.json").read_bytes() == content


def test_without_checkpoints(tmp_path: Path) -> None:
    run = end(arguments(tmp_path, checkpoint_freq=0), 370)
    assert not has_checkpoints(run / "checkpoints")


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda run: TrainArgs(resume=run / "nothing"), "nothing is not a run directory"),
        (lambda run: TrainArgs(resume=run, env="Pendulum-v1"), "beside --resume only --quiet can be given"),
        (lambda run: TrainArgs(resume=run, steps=900), "beside --resume only --quiet can be given"),
        (lambda _: TrainArgs(), "say --env, the environment to train on, or --resume"),
        (lambda _: TrainArgs(env="Pendulum-v1", checkpoint_freq=-1), "--checkpoint-freq must be 0"),
    ],
)
def test_refusals(make: Callable[[Path], TrainArgs], what: str, tmp_path: Path) -> None:
    run = train(arguments(tmp_path, steps=100)).directory
    with pytest.raises(SettingsError, match=what):
        train(make(run))


def test_two_processes_do_not_train_one_run(tmp_path: Path) -> None:
    run = end(arguments(tmp_path), 370)
    with lock(run / "checkpoints", wait=False), pytest.raises(SettingsError, match="another process is training this"):
        resume(run)


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("args.yml", "{", "args.yml"),
        ("args.yml", "env: Pendulum-v1\nseed: x\n", "seed: Input should be a valid integer"),
        ("args.yml", "env: os:Pendulum-v1\nalgo: nothing\n", "nothing"),
        ("config.yml", "gamm: 1\n", "gamm"),
    ],
)
def test_damaged_arguments(name: str, content: str, what: str, tmp_path: Path) -> None:
    run = end(arguments(tmp_path), 370)
    (run / "Pendulum-v1" / name).write_text(content)
    with pytest.raises(SettingsError, match=what):
        resume(run)


def test_no_checkpoint_is_intact(tmp_path: Path) -> None:
    run = end(arguments(tmp_path), 370)
    for state in run.glob("checkpoints/*/state.bin"):
        state.write_bytes(b"")
    with pytest.raises(SettingsError, match=r"cannot be resumed: no checkpoint in .* is intact"):
        resume(run)


def test_a_killed_command_goes_on(tmp_path: Path) -> None:
    """The real thing: one process is killed, another one goes on."""
    new = drill.new_run(random.Random(0), *drill.TRAIN["Pendulum-v1"])
    drill.checked([*new, "alone"], tmp_path)
    with started(["-m", "sb3_ddpg_ext", *new, "killed"], tmp_path) as process:
        wait_until(lambda: list(tmp_path.glob("killed/*/*/checkpoints/checkpoint-*")))
        process.kill()
        process.communicate()
    assert process.returncode == drill.KILLED
    (run,) = tmp_path.glob("killed/*/*_1")
    result = forked(["train", "--resume", str(run), "--quiet"], tmp_path, ENVIRONMENT, 120)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    drill.compare_runs(tmp_path / "alone", tmp_path / "killed", "a kill")


@pytest.fixture
def frequent_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_STEPS_BETWEEN_CHECKPOINTS", 40)


@pytest.mark.usefixtures("frequent_checkpoints")
@pytest.mark.parametrize("resumes", [True, False])
def test_a_comparison_goes_on_with_a_run_that_was_killed(resumes: bool, tmp_path: Path) -> None:
    (run,) = plan(compare_arguments(tmp_path / "ended"))
    with at_step(170), pytest.raises(EndedError):
        list(run_missing([run], workers=0))
    what = "so it goes on from its last checkpoint" if resumes else "so it is run again, from scratch"
    assert unfinished_state(run, resumes) == f"not finished, {what}"
    with at_step(999) as begun:
        ((_, record),) = run_missing([run], workers=0, resume=resumes)
    assert begun == [160 if resumes else 0]
    assert record.is_finished
    list(run_missing(plan(compare_arguments(tmp_path / "alone")), workers=0))
    drill.compare_runs(tmp_path / "alone", tmp_path / "ended", "compare")


@pytest.mark.usefixtures("frequent_checkpoints")
@pytest.mark.parametrize(
    ("env", "kwargs"), [("Quick", {"steps": 290}), ("Quick", {"eval_freq": 90}), ("Remembering", {})]
)
def test_a_run_that_cannot_go_on_exactly_begins_anew(env: str, kwargs: dict[str, int], tmp_path: Path) -> None:
    (run,) = plan(compare_arguments(tmp_path, env=env))
    with at_step(170), pytest.raises(EndedError):
        list(run_missing([run], workers=0))
    (run,) = plan(compare_arguments(tmp_path, env=env, **kwargs))
    with at_step(999) as begun:
        ((_, record),) = run_missing([run], workers=0)
    assert begun == [0]
    assert record.is_finished


@pytest.mark.usefixtures("frequent_checkpoints")
@pytest.mark.parametrize("pruner", ["median", "none"])
@pytest.mark.parametrize("resumes", [True, False])
def test_a_trial_goes_on_with_what_a_killed_one_has_left(resumes: bool, pruner: Any, tmp_path: Path) -> None:
    args = tune_arguments(tmp_path / "ended", trials=2, seeds=2, resume=resumes, pruner=pruner)
    job, _ = prepare(args)
    with at_step(100, run=2), pytest.raises(EndedError):  # in the second run of the first trial
        search(job, workers=0)
    with at_step(999) as begun:
        search(job, workers=0)
    assert begun == ([80, 0, 0] if resumes else [0, 0, 0, 0])
    alone, _ = prepare(tune_arguments(tmp_path / "alone", trials=2, seeds=2, pruner=pruner))
    search(alone, workers=0)
    ended, expected = (drill.trials(next(tmp_path.glob(f"{name}/*/study.db"))) for name in ("ended", "alone"))
    assert ended == expected
    assert not list(tmp_path.glob("ended/*/trials/*"))


@pytest.mark.drill
@pytest.mark.parametrize(
    ("part", "number"), [(drill.drill_train, 6), (drill.drill_corruptions, 8), (drill.drill_full_disk, 2)]
)
def test_a_small_drill(part: Callable[[int, random.Random], str], number: int) -> None:
    if part is drill.drill_full_disk and os.getuid() != 0:
        pytest.skip("only root can mount a small file system")
    assert str(number) in part(number, random.Random(1))
