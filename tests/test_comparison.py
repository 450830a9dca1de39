"""Plans, and what becomes of them: in this process first, then as commands that are killed in the middle."""

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import processes
import psutil
import pytest
import torch as th
import yaml
from clusters import cluster_started_by_hand, gone, wait_until
from comparison_envs import Quick
from small_runs import CUSTOM, DDPG, TINY, compare_arguments

from sb3_ddpg_ext import comparison, display
from sb3_ddpg_ext.arguments import CompareArgs
from sb3_ddpg_ext.comparison import PlannedRun, baseline_of, plan, run_missing, unfinished_state
from sb3_ddpg_ext.errors import SettingsError
from sb3_ddpg_ext.files import LOCK
from sb3_ddpg_ext.protocol import LOOK_SEED
from sb3_ddpg_ext.results.records import RunRecord
from sb3_ddpg_ext.results.result_file import read_run, to_json
from sb3_ddpg_ext.settings import ALGORITHMS

ROOT = Path(__file__).parent.parent


def content(record: RunRecord | None) -> dict[str, Any] | None:
    return None if record is None else to_json(record)


def finished(run: PlannedRun) -> dict[str, Any] | None:
    return content(comparison.finished(run))


def execute(run: PlannedRun, **kwargs: Any) -> dict[str, Any] | None:
    """One run, in a log directory that is there."""
    run.directory.parent.mkdir(parents=True, exist_ok=True)
    return content(comparison.execute(run, **kwargs))


def do(args: CompareArgs) -> list[dict[str, Any]]:
    """The records of all runs of a plan, in its order; those that are missing are made."""
    runs = plan(args)
    made = {run.directory: to_json(record) for run, record in run_missing(runs, workers=args.workers)}
    return [made[run.directory] for run in runs]


def stamps(log_dir: Path) -> dict[Path, tuple[int, int]]:
    """What changes when a result is written again."""
    return {file: (file.stat().st_ino, file.stat().st_mtime_ns) for file in log_dir.glob("*/*/result.json")}


@contextlib.contextmanager
def held(directory: Path) -> Iterator[None]:
    """Another process's lock of a run."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / LOCK).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


# --- The plan ---


def test_plan(tmp_path: Path) -> None:
    args = compare_arguments(tmp_path, [CUSTOM, "ddpg:env_kwargs={g: 5.0},gamma=0.5"], "Quick,Slow", seeds=2)
    runs = plan(args)
    labels = [CUSTOM, "ddpg:env_kwargs={g: 5.0},gamma=0.5"]
    assert [(run.args.seed, run.args.env, run.label) for run in runs] == [
        (seed, f"comparison_envs:{env}-v0", label) for seed in (0, 1) for env in ("Quick", "Slow") for label in labels
    ]
    assert len({run.directory for run in runs}) == 8
    first = runs[0]
    assert first.directory.name == "Quick-v0_0"
    assert re.fullmatch(r"custom_ddpg-policy_kwargs-net_arch-8-[a-z_0-9-]*-[0-9a-f]{6}", first.directory.parent.name)
    assert first.directory.parent.parent == tmp_path
    assert first.settings.n_timesteps == 300
    assert (runs[1].settings.hyperparams["gamma"], runs[1].settings.env_kwargs) == (0.5, {"g": 5.0})
    assert {(run.args.threads, run.args.device, run.args.eval_episodes) for run in runs} == {(1, "cpu", 10)}
    assert list(tmp_path.iterdir()) == []
    assert plan(args) == runs


def test_plan_is_absolute_and_can_be_sent_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert plan(compare_arguments(Path("here")))[0].directory.parent.parent == tmp_path / "here"


def test_settings_of_another_algorithm(tmp_path: Path) -> None:
    runs = plan(CompareArgs("custom_ddpg:hyperparams=ddpg,ddpg", "Pendulum-v1", seeds=1, log_dir=tmp_path))
    assert runs[0].settings == runs[1].settings
    assert (runs[0].args.algo, runs[0].settings.n_timesteps) == ("custom_ddpg", 20_000)


REFUSED = {
    "seeds": ({"seeds": 0}, "--seeds must be 1 or more, got 0"),
    "workers": ({"workers": -1}, "--workers must be 0 .* or more, got -1"),
    "episodes": ({"eval_episodes": 9}, "--eval-episodes must be 10 or more, got 9"),
    "no evaluation": ({"eval_freq": 0}, "--eval-freq must be from 1 to 300 steps, got 0"),
    "evaluations that never come": ({"eval_freq": 301}, "--eval-freq must be from 1 to 300 steps, got 301"),
    "steps": ({"steps": 0}, "n_timesteps: expected 1 or more"),
    "algorithm": ({"algos": ["ddgp"]}, r"ddgp on comparison_envs:Quick-v0: unknown algorithm 'ddgp'; did you mean"),
    "empty": ({"algos": ["ddpg", ""]}, "unknown algorithm ''"),
    "environment": ({"env": "Quik"}, "custom_ddpg:.*: environment 'comparison_envs:Quik-v0': .*Quick"),
    "discrete actions": ({"envs": "CartPole-v1"}, "on CartPole-v1: .*action space Discrete"),
    "hyperparameter": ({"algos": ["ddpg:gama=0.9"]}, "unknown hyperparameter 'gama'; did you mean 'gamma'"),
    "value": ({"algos": ["ddpg:gamma=high"]}, "gamma: expected float"),
    "no value": ({"algos": ["ddpg:gamma"]}, "override 'gamma': expected name=value"),
    "setting first": ({"algos": ["gamma=1", "ddpg"]}, "'gamma=1' belongs to no algorithm; .* custom_ddpg:gamma=1"),
    "setting without colon": ({"algos": ["td3", "tau=1"]}, "'tau=1' belongs to no algorithm; .* example td3:tau=1"),
    "file": ({"algos": ["ddpg:hyperparams=none.yml"]}, "none.yml: cannot be read"),
    "missing package": ({"algos": ["sbx_ddpg"]}, "sbx_ddpg needs sbx: pip install sbx-rl"),
    "twice": ({"algos": ["ddpg", "td3", "ddpg"]}, "ddpg on comparison_envs:Quick-v0 is there twice"),
    "twice, but for blanks": ({"algos": ["ddpg:tau=0.1", "ddpg:tau= 0.1"]}, "ddpg:tau=0.1 on .* is there twice"),
    "unequal steps": (
        {"algos": ["ddpg", "td3:n_timesteps=20", "sac"], "envs": "Pendulum-v1"},
        "^Pendulum-v1: the settings have 20,000 steps for ddpg, 20 steps for td3:n_timesteps=20, .*; "
        "choose one with --steps, or --equal seconds$",
    ),
    "a setting twice": (
        {"algos": ["ddpg:gamma=0.9,tau=0.1, gamma = 0.8"]},
        "^--algos: ddpg:gamma=0.9,tau=0.1,gamma = 0.8 has gamma more than once$",
    ),
    "steps twice": ({"algos": ["ddpg:n_timesteps=20"]}, "--steps 300 is for all algorithms; leave it or n_timesteps="),
    "environment twice": ({"env": "Quick,Quick"}, "is there twice; both would be Quick-v0_0"),
    "baseline": ({"algos": ["ddpg", "td3"], "baseline": "td4"}, "unknown baseline 'td4'; did you mean 'td3'"),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_before_anything_is_written(
    changes: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sbx", None)
    args = compare_arguments(tmp_path, **{key: value for key, value in changes.items() if key != "envs"})
    if "envs" in changes:
        args = CompareArgs(",".join(changes.get("algos", [CUSTOM])), changes["envs"], log_dir=tmp_path)
    with pytest.raises(SettingsError, match=message) as caught:
        plan(args)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_the_baseline_is_found_however_it_is_written(tmp_path: Path) -> None:
    args = compare_arguments(tmp_path, [CUSTOM, "ddpg:tau=0.1,gamma=0.9"], baseline="ddpg: tau = 0.1, gamma=0.9")
    plan(args)
    assert baseline_of(args) == "ddpg:tau=0.1,gamma=0.9"


# --- What is done, and what is not done again ---


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[CompareArgs, list[dict[str, Any]]]:
    args = compare_arguments(tmp_path_factory.mktemp("compared"), [CUSTOM, DDPG, f"sac:{TINY}"], seeds=2)
    Quick.seeds.clear()
    records = do(args)
    return args, records


def test_record(compared: tuple[CompareArgs, list[dict[str, Any]]]) -> None:
    args, records = compared
    for run, record in zip(plan(args), records, strict=True):
        text = (run.directory / "result.json").read_text()
        assert record == json.loads(text, parse_constant=lambda token: pytest.fail(f"{token} is not JSON"))
        assert (record["label"], record["env"], record["seed"]) == (run.label, run.args.env, run.args.seed)
        assert (record["status"], record["error"], record["threads"]) == ("finished", None, 1)
        assert (record["steps"], record["planned_steps"]) == (300, 300)
        assert len(record["score"]["returns"]) == 10
        evaluations = record["evaluations"]
        assert evaluations["steps"] == [100, 200, 300]
        assert [len(returns) for returns in evaluations["returns"]] == [10, 10, 10]
        for times in (evaluations["seconds"], evaluations["cpu_seconds"]):
            assert 0 < times[0] < times[1] < times[2]
        assert evaluations["seconds"][2] <= record["seconds"]["train"]
        arguments = yaml.safe_load((run.directory / "Quick-v0" / "args.yml").read_text())
        assert (arguments["label"], arguments["seed"]) == (run.label, run.args.seed)


def test_all_are_evaluated_on_the_same_episodes(compared: tuple[CompareArgs, list[dict[str, Any]]]) -> None:
    one_run = 3 * [1_000_000 + i for i in range(5)] + [2_000_000 + i for i in range(5)]
    assert [seed for seed in Quick.seeds if 1_000_000 <= seed < LOOK_SEED][: 6 * len(one_run)] == 6 * one_run
    assert [seed for seed in Quick.seeds if seed < 1_000_000][:6] == [0, 0, 0, 1, 1, 1]


def test_time_of_evaluations_is_not_time_of_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that goes on by a second with each step of an environment, and by two of CPU time."""
    clock = SimpleNamespace(perf_counter=lambda: 1.0 * Quick.steps, process_time=lambda: 2.0 * Quick.steps)
    monkeypatch.setattr("sb3_ddpg_ext.callbacks.time", clock)
    (record,) = do(compare_arguments(tmp_path))
    assert record["evaluations"]["seconds"] == [100, 200, 300]
    assert record["evaluations"]["cpu_seconds"] == [200, 400, 600]
    assert record["seconds"] == {"train": 300, "evaluate": 3 * 10 * 20, "cpu": 600}


def test_done_runs_are_left_alone_and_more_seeds_add_to_them(
    compared: tuple[CompareArgs, list[dict[str, Any]]], tmp_path: Path
) -> None:
    args, records = compared
    before = stamps(args.log_dir)
    assert len(before) == 6
    more = compare_arguments(args.log_dir, [CUSTOM, DDPG], seeds=3)
    started: list[PlannedRun] = []
    missing = [run for run in plan(more) if finished(run) is None]
    made = [to_json(record) for _, record in run_missing(missing, workers=0, on_start=started.append)]
    assert [(run.label, run.args.seed) for run in started] == [(CUSTOM, 2), (DDPG, 2)]
    assert {record["status"] for record in made} == {"finished"}
    assert do(args) == records  # the same, though each was asked for again
    after = stamps(args.log_dir)
    assert len(after) == 8
    assert {file: after[file] for file in before} == before


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"steps": 400}, "planned_steps and settings"),
        ({"eval_freq": 150}, "protocol"),
        ({"eval_episodes": 20}, "protocol"),
    ],
)
def test_what_was_done_otherwise_is_not_overwritten(
    changes: dict[str, int], what: str, compared: tuple[CompareArgs, list[dict[str, Any]]]
) -> None:
    run = plan(compare_arguments(compared[0].log_dir, **changes))[0]
    message = f"is finished, but with other {what}; choose another --log-dir or remove it"
    for function in (finished, lambda run: execute(run)):
        with pytest.raises(SettingsError, match=f"^{re.escape(str(run.directory))} {message}$"):
            function(run)


LEFT_OVERS = {
    "begun": (None, "not finished"),
    "empty": ("", r"corrupt \(result.json cannot be read: Expecting value"),
    "cut off": ('{"status": "fini', r"corrupt \(result.json cannot be read: Unterminated string"),
    "something else": ("[1, 2]", r"corrupt \(result.json cannot be read: "),
    "no status": ("{}", r"corrupt \(result.json cannot be read: no 'algo' in it"),
    "not even text": (b"\xff\x00", r"corrupt \(result.json cannot be read: 'utf-8' codec"),
    "incomplete": ('{"status": "finished", "error": null}', r"corrupt \(result.json cannot be read: no 'algo' in it"),
    "failed": ('{"algo": "a", "env": "b", "seed": 0, "status": "failed", "error": "oh"}', r"failed \(oh\)"),
}


@pytest.mark.parametrize(("content", "what"), LEFT_OVERS.values(), ids=LEFT_OVERS.keys())
def test_what_is_left_of_a_run_is_named_cleared_and_done_again(
    content: str | bytes | None, what: str, tmp_path: Path
) -> None:
    (run,) = plan(compare_arguments(tmp_path, steps=100))
    assert unfinished_state(run) is None
    with held(run.directory):
        assert unfinished_state(run) == "another process is at it, whose result is waited for"
    (run.directory / "old").mkdir()
    (run.directory / "old" / "file").touch()
    (run.directory / "evaluations.npz").touch()
    if content is not None:
        (run.directory / "result.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert finished(run) is None
    assert re.match(what, unfinished_state(run) or "")
    record = execute(run)
    assert record is not None
    assert record["status"] == "finished"
    assert finished(run) == record
    assert not (run.directory / "old").exists()
    assert (run.directory / LOCK).exists()  # others may be waiting for it


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda r: r | {"score": None}, "corrupt (result.json cannot be read: finished without a score)"),
        (lambda r: r | {"steps": 0}, "corrupt (result.json cannot be read: training took 0 steps"),
        (lambda r: r["evaluations"]["seconds"].append(9) or r, "corrupt (result.json cannot be read: the evaluations'"),
        (
            lambda r: {key: r[key] for key in r if key != "evaluations"},
            "corrupt (result.json cannot be read: no 'evaluations' in it)",
        ),
        (lambda r: r | {"status": "interrupted", "score": None}, "interrupted (stopped before its end)"),
    ],
)
def test_a_record_that_the_report_could_not_use_is_no_finished_run(
    damage: Callable[[dict[str, Any]], dict[str, Any]], what: str, tmp_path: Path
) -> None:
    (run,) = plan(compare_arguments(tmp_path, steps=100))
    record = execute(run)
    assert record is not None
    assert finished(run) == record
    assert unfinished_state(run) is None
    (run.directory / "result.json").write_text(json.dumps(damage(json.loads(json.dumps(record)))))
    assert finished(run) is None
    assert (unfinished_state(run) or "").startswith(what)


def test_a_worker_that_does_not_see_the_log_directory_does_not_train(tmp_path: Path) -> None:
    (run,) = plan(compare_arguments(tmp_path / "mounted elsewhere", steps=100))
    with pytest.raises(FileNotFoundError, match="mounted elsewhere"):
        comparison.execute(run)
    assert not (tmp_path / "mounted elsewhere").exists()


def test_each_run_has_one_thread_of_pytorch(tmp_path: Path) -> None:
    (run,) = plan(compare_arguments(tmp_path, steps=100))
    th.set_num_threads(2)
    try:
        record = execute(run)
        assert record is not None
        assert record["threads"] == th.get_num_threads() == 1
    finally:
        th.set_num_threads(1)


def test_a_directory_of_somebody_else_is_not_cleared(tmp_path: Path) -> None:
    (run,) = plan(compare_arguments(tmp_path))
    run.directory.mkdir(parents=True)
    (run.directory / "thesis.txt").touch()
    with pytest.raises(SettingsError, match="was not made by a comparison; choose another --log-dir or remove it"):
        unfinished_state(run)


def test_a_run_that_another_process_is_at_comes_last_and_is_waited_for(tmp_path: Path) -> None:
    first, second = plan(compare_arguments(tmp_path, seeds=2, steps=100))
    assert run_order(first, second) == [1, 0]


def run_order(first: PlannedRun, second: PlannedRun) -> list[int]:
    with held(first.directory):
        assert execute(first) is None
        results = run_missing([first, second], workers=0)
        order = [next(results)[0].args.seed]
        waiting = threading.Thread(target=lambda: order.append(next(results)[0].args.seed))
        waiting.start()
        waiting.join(timeout=0.3)
        assert waiting.is_alive()
    waiting.join()
    assert next(results, None) is None
    return order


def test_what_another_process_has_done_meanwhile_is_taken_from_it(tmp_path: Path) -> None:
    (run,) = plan(compare_arguments(tmp_path, steps=100))
    first = execute(run)
    before = stamps(tmp_path)
    assert execute(run, wait=True) == first
    assert stamps(tmp_path) == before


def test_what_a_run_could_not_record_itself_is_recorded_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(run: PlannedRun, **_: Any) -> None:
        raise RuntimeError("dead")

    (run,) = plan(compare_arguments(tmp_path, steps=100))
    with monkeypatch.context() as patch:
        patch.setattr("sb3_ddpg_ext.comparison.execute", die)
        ((_, record),) = run_missing([run], workers=0)
        assert to_json(record) == json.loads((run.directory / "result.json").read_text())
        assert (record.status, record.error, record.seed) == ("failed", "RuntimeError: dead", 0)
    again = execute(run)  # as another command does, whose workers do not die
    assert again is not None
    assert again["status"] == "finished"
    before = stamps(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("sb3_ddpg_ext.comparison.execute", die)
        ((_, record),) = run_missing([run], workers=0)
        (other,) = plan(compare_arguments(tmp_path, steps=200))
        ((_, of_other),) = run_missing([other], workers=0)  # in whose place something else is finished
    assert record.status == of_other.status == "failed"
    assert stamps(tmp_path) == before  # what is finished stays so


def test_a_run_that_raises_is_recorded_and_the_others_go_on(tmp_path: Path) -> None:
    args = compare_arguments(tmp_path, [CUSTOM, DDPG], "Nan,Crash,Exit,Quick")
    errors = {(r["label"], r["env"].split(":")[1]): r["error"] for r in do(args)}
    assert re.match("FloatingPointError: Environment 0 returned the reward nan at step 2", errors[CUSTOM, "Nan-v0"])
    # SB3's DDPG trains on
    assert re.match("FloatingPointError: .* evaluation at step 100 has the return nan", errors[DDPG, "Nan-v0"])
    assert errors[CUSTOM, "Crash-v0"] == errors[DDPG, "Crash-v0"] == "RuntimeError: the simulator has exploded"
    assert errors[CUSTOM, "Exit-v0"] == errors[DDPG, "Exit-v0"] == "SystemExit: 3"
    assert errors[CUSTOM, "Quick-v0"] is errors[DDPG, "Quick-v0"] is None
    for run in plan(args):
        record = json.loads((run.directory / "result.json").read_text())
        assert record["status"] == ("finished" if "Quick" in run.args.env else "failed")
        assert run.identity().differences(read_run(run.directory)) == []


def test_settings_that_json_does_not_have_are_recorded(tmp_path: Path) -> None:
    """A run's record must not fail when everything else is done."""
    args = compare_arguments(tmp_path, [f"{CUSTOM},env_kwargs={{g: .inf}},monitor_kwargs={{info_keywords: []}}"])
    (run,) = plan(args)
    assert run.identity().settings["env_kwargs"] == {"g": "Infinity"}


@pytest.mark.slow
def test_the_same_seeds_give_the_same_results_in_other_processes(
    compared: tuple[CompareArgs, list[dict[str, Any]]], tmp_path: Path
) -> None:
    _, records = compared
    others = do(compare_arguments(tmp_path, [CUSTOM, DDPG, f"sac:{TINY}"], seeds=2, workers=2))
    for one, other in zip(records, others, strict=True):
        assert one["score"] == other["score"]
        assert one["evaluations"]["returns"] == other["evaluations"]["returns"]
    assert records[0]["score"] != records[3]["score"]


# --- The command, and what can happen to it ---


def command(env: str = "Slow", *further: str, algos: Sequence[str] = (CUSTOM,), seeds: int = 3) -> list[str]:
    envs = ",".join(f"comparison_envs:{name}-v0" for name in env.split(","))
    numbers = ["--seeds", str(seeds), "--steps", "300", "--eval-freq", "150", "--eval-episodes", "10"]
    return ["--algos", ",".join(algos), "--envs", envs, *numbers, "--log-dir", "out", *further]


def started(arguments: Sequence[str], cwd: Path, *program: str) -> AbstractContextManager[subprocess.Popen[str]]:
    return processes.started([*(program or ("-m", "sb3_ddpg_ext", "compare")), *arguments], cwd)


def compare(arguments: Sequence[str], cwd: Path, *program: str) -> subprocess.CompletedProcess[str]:
    with started(arguments, cwd, *program) as process:
        output, errors = process.communicate(timeout=120)
    return subprocess.CompletedProcess(arguments, process.returncode, output, errors)


def begun(cwd: Path) -> list[tuple[int, int]]:
    """Seed and process of each training that has begun."""
    file = cwd / "begun"
    lines = file.read_text().splitlines() if file.exists() else []
    return [(int(seed), int(pid)) for seed, pid in map(str.split, lines)]


def results(cwd: Path) -> dict[int, dict[str, Any]]:
    records = [json.loads(file.read_text()) for file in stamps(cwd / "out")]
    return {record["seed"]: record for record in records}


@pytest.mark.slow
def test_sigkill_of_a_worker_loses_nothing(tmp_path: Path) -> None:
    with started(command("Slow", "--workers", "2"), tmp_path, str(ROOT / "scripts" / "compare.py")) as process:
        wait_until(lambda: len(begun(tmp_path)) == 2)
        victim, pid = begun(tmp_path)[0]
        os.kill(pid, signal.SIGKILL)
        output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert {seed: r["status"] for seed, r in results(tmp_path).items()} == dict.fromkeys(range(3), "finished")
    seeds = [seed for seed, _ in begun(tmp_path)]
    assert sorted(seeds) == sorted([0, 1, 2, victim])
    assert [output.count(f"seed {seed}: mean return") for seed in range(3)] == [1, 1, 1]
    assert "3 of 3" in output
    assert re.search(r"Report: out.report\.html", output)
    assert errors == ""


@pytest.mark.slow
def test_sigkill_of_the_command_and_the_same_command_again(tmp_path: Path) -> None:
    with started(command("Slow", "--workers", "1"), tmp_path) as process:
        wait_until(lambda: results(tmp_path) and len(begun(tmp_path)) > len(results(tmp_path)))
        children = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
        assert {pid for _, pid in begun(tmp_path)} <= set(children)
        process.kill()
        wait_until(lambda: all(map(gone, children)))
    before, done = stamps(tmp_path / "out"), results(tmp_path)
    missing, half_done = {0, 1, 2} - set(done), {seed for seed, _ in begun(tmp_path)} - set(done)
    assert half_done
    (tmp_path / "begun").unlink()
    again = compare(command("Slow", "--workers", "0"), tmp_path)
    assert again.returncode == 0, again.stderr
    assert {seed for seed, _ in begun(tmp_path)} == missing
    assert len(begun(tmp_path)) == len(missing)
    assert {file: stamps(tmp_path / "out")[file] for file in before} == before
    assert results(tmp_path).keys() == {0, 1, 2}
    assert again.stdout.count("not finished, so it is run again, from scratch") == len(half_done)


@pytest.mark.slow
def test_two_commands_at_once_do_each_run_once(tmp_path: Path) -> None:
    both = [command("Together", "--workers", "0", "--quiet"), command("Together", "--workers", "0")]
    with started(both[0], tmp_path) as one, started(both[1], tmp_path) as other:
        outputs = [process.communicate(timeout=120) for process in (one, other)]
    assert (one.returncode, other.returncode) == (0, 0), outputs
    assert sorted(seed for seed, _ in begun(tmp_path)) == [0, 1, 2]
    assert len({pid for _, pid in begun(tmp_path)}) == 2
    assert all("3 of 3" in output for output, _ in outputs)
    assert ["seed 0: mean return" in output for output, _ in outputs] == [False, True]  # one is quiet
    assert results(tmp_path).keys() == {0, 1, 2}


@pytest.mark.parametrize("workers", ["0", pytest.param("1", marks=pytest.mark.slow)])
def test_ctrl_c_stops_at_once_keeps_what_is_finished_and_says_how_to_go_on(workers: str, tmp_path: Path) -> None:
    with started(command("Slow", "--workers", workers), tmp_path) as process:
        wait_until(lambda: results(tmp_path) and len(begun(tmp_path)) > len(results(tmp_path)))
        children = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the children as well
        output, errors = process.communicate(timeout=60)
        wait_until(lambda: all(map(gone, children)), seconds=10)
    assert process.returncode == 130
    assert errors == ""
    assert len(results(tmp_path)) < 3
    assert re.search(r"Interrupted\. [12] of 3 runs are finished and kept; the same command does the rest", output)
    assert "Report: out/report.html\n" in output
    assert "## Learning curves" in (tmp_path / "out" / "report.md").read_text()


def test_the_steps_of_running_runs_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(processes.ENVIRONMENT, "TERM", "xterm")
    ours, theirs = pty.openpty()
    arguments = command("Slow", "--workers", "0", "--steps", "3000", "--eval-freq", "3000", seeds=1)
    shown = ""
    with processes.started(["-m", "sb3_ddpg_ext", "compare", *arguments], tmp_path, output=theirs):
        while not re.search(r"\b[1-9]\d*/3000\b.*seed 0", shown) and select.select([ours], [], [], 60)[0]:
            shown += os.read(ours, 1000).decode(errors="replace")
    os.close(ours)
    os.close(theirs)
    assert re.search(r"\b[1-9]\d*/3000\b.*seed 0", shown)
    steps = [int(n) for n in re.findall(r"\b(\d+)/3000\b", shown)]
    assert steps == sorted(steps)


@pytest.mark.slow
def test_a_cluster_that_was_started_by_hand(tmp_path: Path) -> None:
    with cluster_started_by_hand("--nthreads 1", "--nthreads 1", cwd=tmp_path) as (address, _):
        result = compare(command("Together", "--scheduler", address), tmp_path)
    assert result.returncode == 0, result.stderr
    assert results(tmp_path).keys() == {0, 1, 2}
    assert len({pid for _, pid in begun(tmp_path)}) == 2


def test_failures_are_named_and_are_the_exit_status(tmp_path: Path) -> None:
    result = compare(command("Crash,Quick", "--workers", "0", seeds=1), tmp_path)
    assert result.returncode == 1
    assert f"{CUSTOM} on comparison_envs:Crash-v0, seed 0: failed: RuntimeError: the simulator has exploded" in (
        result.stdout
    )
    assert "0 of 1" in result.stdout
    assert "1 of 1" in result.stdout
    assert "Traceback" not in result.stdout + result.stderr
    assert result.stdout.splitlines()[-2:] == [
        f"Baseline: {CUSTOM}, chosen by rule (ddpg if it is among the algorithms, otherwise the first of them)",
        "Report: out/report.html",
    ]


@pytest.mark.skipif(find_spec("sbx") is None, reason="needs sbx-rl, which brings JAX")
@pytest.mark.parametrize("workers", ["0", "2"])
def test_algorithms_of_sbx(workers: str, tmp_path: Path) -> None:
    labels = [f"{algo}:{TINY}" for algo in ALGORITHMS if algo.startswith("sbx_")]
    result = compare(command("Quick", "--workers", workers, algos=labels, seeds=1), tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    records = [json.loads(file.read_text()) for file in tmp_path.glob("out/*/*/result.json")]
    assert sorted(record["label"] for record in records) == sorted(labels)
    for record in records:
        assert (record["steps"], record["updates"]) == (300, 200)
        assert record["versions"].keys() >= {"sbx_rl", "jax"}


def test_steps_of_their_own_at_equal_seconds(tmp_path: Path) -> None:
    algos = [f"long={CUSTOM},n_timesteps=600", f"short={CUSTOM},n_timesteps=300"]
    arguments = command("Quick", "--workers", "0", "--equal", "seconds", algos=algos, seeds=2)
    steps = arguments.index("--steps")
    result = compare([*arguments[:steps], *arguments[steps + 2 :]], tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    report = (tmp_path / "out" / "report.md").read_text()
    assert (
        "| environment | algorithm | score at equal seconds | area under the curve over seconds | P | speed |" in report
    )
    rows = re.findall(r"^\| comparison_envs:Quick-v0 \| (\w+) \|", report.replace("\\", ""), re.MULTILINE)
    assert rows[:2] == ["long", "short"]
    assert re.search(r"Steps by then, in the median: long [1-6]\d\d, short [1-3]\d\d\.", report)


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    result = compare(command("Quick,Crash", "--dry-run", "--workers", "3", seeds=6), tmp_path)
    assert result.returncode == 0, result.stderr
    assert list(tmp_path.iterdir()) == []
    assert re.search(
        rf"{re.escape(CUSTOM)} +comparison_envs:Quick-v0 +0 of 6 +300 +\d+ s +\d+ updates, timed", result.stdout
    )
    assert re.search(r"Crash-v0 +0 of 6 +300 +unknown +RuntimeError: the simulator has exploded", result.stdout)
    assert re.search(r"^12 runs to do, about \d+ s with 3 workers, and the unknown$", result.stdout, re.MULTILINE)


def test_workers_with_nothing_to_do_save_no_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = compare_arguments(tmp_path, seeds=4, workers=3)
    first = do(replace(args, seeds=1, workers=0))[0]
    seconds = {"train": 50.0, "evaluate": 10.0, "cpu": 50.0}
    runs = plan(args)
    (runs[0].directory / "result.json").write_text(json.dumps({**first, "seconds": seconds}))
    for missing, about in ((runs[1:2], "1 min 00 s"), (runs[1:], "1 min 00 s"), (runs, "2 min 00 s")):
        display.print_plan(args, runs, missing)
        said = capsys.readouterr().out.splitlines()[-1]
        assert said == f"{len(missing)} runs to do, about {about} with 3 workers"
