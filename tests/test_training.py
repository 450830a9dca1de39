"""Settings to run directory and back, in this process. The command line is tested in test_cli."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import yaml
from processes import ENVIRONMENT
from small_runs import TINY_PARAMS
from stable_baselines3 import DDPG
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_ddpg_ext import CustomDDPG, evaluation, load_vecnormalize, report
from sb3_ddpg_ext.arguments import EvaluateArgs, TrainArgs
from sb3_ddpg_ext.building import make_env, make_model
from sb3_ddpg_ext.callbacks import Evaluation, StopOnSignal
from sb3_ddpg_ext.episodes import score
from sb3_ddpg_ext.errors import SettingsError
from sb3_ddpg_ext.evaluation import find_model
from sb3_ddpg_ext.protocol import EVAL_SEED
from sb3_ddpg_ext.results.records import Evaluations
from sb3_ddpg_ext.results.result_file import read_run, to_json
from sb3_ddpg_ext.run_arguments import settings_of
from sb3_ddpg_ext.settings import parse_settings
from sb3_ddpg_ext.training import train, train_in


def run(tmp_path: Path, *params: str, **kwargs: Any) -> dict[str, Any]:
    defaults = {"env": "Pendulum-v1", "steps": 300, "eval_freq": 100, "eval_episodes": 2, "quiet": True}
    record = train(TrainArgs(**{**defaults, **kwargs, "log_dir": tmp_path, "params": (*TINY_PARAMS, *params)}))
    return {**to_json(record), "directory": str(record.directory)}


def evaluate(args: EvaluateArgs) -> dict[str, Any]:
    played = evaluation.evaluate(args)[1]
    return {"mean": played.mean, "returns": played.returns.tolist()}


def settings(**raw: Any) -> Any:
    return parse_settings("custom_ddpg", {"n_timesteps": 100, "policy_kwargs": {"net_arch": [8]}, **raw}, "test")


@pytest.fixture(scope="module")
def normalized_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    record = run(tmp_path_factory.mktemp("runs"), "normalize=true", seed=3)
    return Path(record["directory"])


# --- The run directory ---


def test_layout_is_the_zoos(normalized_run: Path) -> None:
    assert normalized_run.parts[-2:] == ("custom_ddpg", "Pendulum-v1_1")
    assert sorted(str(p.relative_to(normalized_run)) for p in normalized_run.rglob("*") if p.is_file()) == [
        "0.monitor.csv",
        "Pendulum-v1.zip",
        "Pendulum-v1/args.yml",
        "Pendulum-v1/config.yml",
        "Pendulum-v1/vecnormalize.json",
        "Pendulum-v1/vecnormalize.pkl",
        "best_model.zip",
        "best_model_vecnormalize.json",
        "best_model_vecnormalize.pkl",
        "evaluations.npz",
        "progress.csv",
        "result.json",
    ]


def test_record(normalized_run: Path) -> None:
    record = json.loads((normalized_run / "result.json").read_text())
    assert record["status"] == "finished"
    assert (record["algo"], record["env"], record["seed"], record["steps"]) == ("custom_ddpg", "Pendulum-v1", 3, 300)
    assert record["updates"] == 250
    assert record["settings"] == yaml.safe_load((normalized_run / "Pendulum-v1" / "config.yml").read_text())
    assert record["score"]["mean"] == pytest.approx(np.mean(record["score"]["returns"]))
    assert len(record["score"]["returns"]) == 2
    assert {"python", "torch", "stable_baselines3", "sb3_ddpg_ext"} <= record["versions"].keys()
    assert record["seconds"]["train"] > 0
    assert record["seconds"]["evaluate"] > 0
    with np.load(normalized_run / "evaluations.npz") as evaluations:
        assert evaluations["timesteps"].tolist() == [100, 200, 300]
        assert evaluations["results"].shape == (3, 2)
        best = evaluations["results"].mean(axis=1)
    assert record["best_evaluation"]["mean"] == pytest.approx(best.max())


def test_each_model_is_evaluated_with_its_own_statistics(normalized_run: Path) -> None:
    """Best and last differ in their VecNormalize statistics; playing the best model reproduces its evaluation."""
    record = json.loads((normalized_run / "result.json").read_text())
    last = evaluate(EvaluateArgs(normalized_run, episodes=2, model="last"))
    assert last["returns"] == record["score"]["returns"]
    best = evaluate(EvaluateArgs(normalized_run, episodes=2, model="best", seed=EVAL_SEED))
    assert best["mean"] == pytest.approx(record["best_evaluation"]["mean"])
    by_file = evaluate(EvaluateArgs(normalized_run / "best_model.zip", episodes=2, seed=EVAL_SEED))
    assert by_file["returns"] == best["returns"]
    statistics = [
        load_vecnormalize(file, make_env("Pendulum-v1", settings(), 1, 0)).obs_rms.count  # type: ignore[union-attr]
        for file in (find_model(normalized_run, which).vecnormalize for which in ("best", "last"))  # type: ignore[arg-type]
    ]
    assert statistics[0] <= statistics[1]


@pytest.mark.parametrize("algo", ["td3", "sac", "tqc", "crossq"])
def test_models_of_other_algorithms_are_evaluated_without_pickle(
    algo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = run(tmp_path, "normalize=true", algo=algo)

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a pickle is read")

    for module in ("pickle", "cloudpickle", "torch"):
        monkeypatch.setattr(f"{module}.load", refuse)
        monkeypatch.setattr(f"{module}.loads", refuse, raising=False)
    again = evaluate(EvaluateArgs(Path(record["directory"]), episodes=2, model="last"))
    assert again["returns"] == record["score"]["returns"]


def test_pickles_are_evaluated_only_with_trust(normalized_run: Path, tmp_path: Path) -> None:
    copied = tmp_path / "run"
    shutil.copytree(normalized_run, copied)
    (copied / "best_model_vecnormalize.json").unlink()
    with pytest.raises(SettingsError, match=r"best_model_vecnormalize\.pkl was not .* say --trusted if you trust"):
        evaluate(EvaluateArgs(copied))
    model = DDPG("MlpPolicy", "Pendulum-v1", buffer_size=10, policy_kwargs={"net_arch": [8]})
    model.save(copied / "best_model.zip")
    trusted = evaluate(EvaluateArgs(copied, episodes=1, trusted=True))
    assert len(trusted["returns"]) == 1
    with pytest.raises(SettingsError, match=r"best_model\.zip was saved by Stable-Baselines3 .* say --trusted"):
        find_model(copied).load(make_env("Pendulum-v1", settings(), 1, 0))


def test_missing_statistics_are_not_passed_over(normalized_run: Path, tmp_path: Path) -> None:
    copied = tmp_path / "run"
    os.system(f"cp -r '{normalized_run}' '{copied}'")
    for suffix in ("json", "pkl"):
        (copied / f"best_model_vecnormalize.{suffix}").unlink()
    with pytest.raises(SettingsError, match=r"trained with VecNormalize, but its statistics .* are missing"):
        evaluate(EvaluateArgs(copied))


# --- Runs of others ---

FOREIGN = """
import gymnasium as gym
from pathlib import Path
Path("was_imported").touch()
class Wrapper(gym.Wrapper): pass
gym.register("Foreign-v0", entry_point="gymnasium.envs.classic_control:PendulumEnv", max_episode_steps=200)
"""


@pytest.fixture
def foreign_run(normalized_run: Path, tmp_path: Path) -> Iterator[Path]:
    """A run in the folder ``pack``, with a module beside its files; the current folder is importable, as in a shell."""
    shutil.copytree(normalized_run, tmp_path / "pack" / "run")
    for place in ("pack", "pack/run", "pack/run/Pendulum-v1", "."):
        (tmp_path / place / "foreign.py").write_text(FOREIGN)
    before = set(sys.modules)
    yield tmp_path / "pack" / "run"
    gym.registry.pop("Foreign-v0", None)
    for name in set(sys.modules) - before:
        if name.split(".")[0] in ("pack", "run", "foreign"):
            del sys.modules[name]


def change(run_directory: Path, file: str, **values: Any) -> None:
    path = run_directory / "Pendulum-v1" / file
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **values}))


@pytest.mark.parametrize(
    ("folder", "module"),
    [(".", "pack.run.foreign"), (".", "pack.foreign"), ("pack", "run.foreign"), ("pack/run", "foreign")],
)
@pytest.mark.parametrize("name", ["env_wrapper", "policy", "env"])
def test_a_run_directory_imports_nothing_of_itself(
    foreign_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, module: str, name: str
) -> None:
    monkeypatch.chdir(tmp_path / folder)
    monkeypatch.syspath_prepend(tmp_path / folder)
    if name == "env":
        change(foreign_run, "args.yml", env=f"{module}:Foreign-v0")
    else:
        change(foreign_run, "config.yml", **{name: f"{module}.Wrapper"})
    for path in (foreign_run, foreign_run / "best_model.zip", Path(os.path.relpath(foreign_run))):
        with pytest.raises(SettingsError, match=rf"'{module}' would be imported from .*say --trusted$"):
            find_model(path)
        assert not Path("was_imported").exists()
    if name == "env_wrapper":
        assert find_model(foreign_run, trusted=True).settings.env_wrapper
        assert Path("was_imported").exists()


def test_a_module_of_the_current_folder_needs_no_ceremony(
    foreign_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    change(foreign_run, "args.yml", env="foreign:Foreign-v0")
    change(foreign_run, "config.yml", env_wrapper="foreign.Wrapper")
    assert len(evaluate(EvaluateArgs(foreign_run, episodes=1))["returns"]) == 1


def test_same_seed_same_run(tmp_path: Path) -> None:
    first, second, other = (run(tmp_path, seed=seed) for seed in (1, 1, 2))
    assert [Path(r["directory"]).name for r in (first, second)] == ["Pendulum-v1_1", "Pendulum-v1_2"]
    assert first["score"]["returns"] == second["score"]["returns"] != other["score"]["returns"]


def test_evaluating_does_not_change_training(tmp_path: Path) -> None:
    """Whatever is evaluated, and however often, the same seed trains the same model."""
    often, never = run(tmp_path, eval_freq=50), run(tmp_path, eval_freq=0)
    assert often["score"]["returns"] == never["score"]["returns"]
    assert never["best_evaluation"] is None
    assert not (Path(never["directory"]) / "evaluations.npz").exists()


@pytest.mark.parametrize("algo", ["ddpg", "td3", "sac", "tqc", "crossq"])
def test_baselines_take_the_same_path(algo: str, tmp_path: Path) -> None:
    record = run(tmp_path, algo=algo, steps=120, eval_freq=0, eval_episodes=1)
    assert record["updates"] > 0
    result = evaluate(EvaluateArgs(Path(record["directory"]), model="last", episodes=1))
    assert result["returns"] == record["score"]["returns"]


@pytest.mark.parametrize("vec_env", ["dummy", "subproc"])
def test_several_environments(vec_env: Any, tmp_path: Path) -> None:
    record = run(tmp_path, "gradient_steps=-1", n_envs=2, vec_env=vec_env, eval_freq=100)
    directory = Path(record["directory"])
    assert record["updates"] == 250
    assert {p.name for p in directory.glob("*.csv")} == {"0.monitor.csv", "1.monitor.csv", "progress.csv"}
    with np.load(directory / "evaluations.npz") as evaluations:
        assert evaluations["timesteps"].tolist() == [100, 200, 300]


def test_config_of_a_run_trains_again(normalized_run: Path, tmp_path: Path) -> None:
    config = yaml.safe_load((normalized_run / "Pendulum-v1" / "config.yml").read_text())
    file = tmp_path / "again.yml"
    file.write_text(yaml.safe_dump({"Pendulum-v1": config}))
    args = TrainArgs(
        "Pendulum-v1", seed=3, hyperparams=file, log_dir=tmp_path, eval_freq=0, eval_episodes=2, quiet=True
    )
    first = json.loads((normalized_run / "result.json").read_text())
    assert to_json(train(args))["score"]["returns"] == first["score"]["returns"]


def test_tensorboard(tmp_path: Path) -> None:
    record = run(tmp_path, steps=60, eval_freq=0, eval_episodes=1, tensorboard=True)
    assert list(Path(record["directory"]).glob("tensorboard/CustomDDPG_1/events*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_training_between_two_steps_and_saves(number: int, tmp_path: Path) -> None:
    monitor = tmp_path / "custom_ddpg" / "Pendulum-v1_1" / "0.monitor.csv"

    def send_when_training() -> None:
        while not (monitor.exists() and len(monitor.read_text().splitlines()) > 2):
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    threading.Thread(target=send_when_training, daemon=True).start()
    record = run(tmp_path, steps=100_000)
    assert record["status"] == "interrupted"
    assert 200 <= record["steps"] < 100_000
    assert record["score"] is None
    assert signal.getsignal(number) is before
    directory = Path(record["directory"])
    assert json.loads((directory / "result.json").read_text())["steps"] == record["steps"]
    model = CustomDDPG.load(directory / "Pendulum-v1.zip")
    assert model.num_timesteps == record["steps"]


def test_a_signal_ends_the_final_evaluation_and_the_record_is_written(tmp_path: Path) -> None:
    model = tmp_path / "custom_ddpg" / "Pendulum-v1_1" / "Pendulum-v1.zip"

    def send_when_saved() -> None:
        while not model.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=send_when_saved, daemon=True).start()
    record = run(tmp_path, steps=100, eval_freq=0, eval_episodes=100_000)
    assert record["status"] == "interrupted"
    assert record["steps"] == 100
    saved = json.loads((model.parent / "result.json").read_text())
    assert {**saved, "directory": str(model.parent)} == record


def test_a_signal_ends_a_periodic_evaluation(tmp_path: Path) -> None:
    directory = tmp_path / "custom_ddpg" / "Pendulum-v1_1"

    def send_when_evaluating() -> None:
        while not (directory / "Pendulum-v1" / "args.yml").exists():
            time.sleep(0.01)
        time.sleep(2)  # 50 steps take milliseconds, 100,000 episodes hours
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=send_when_evaluating, daemon=True).start()
    record = run(tmp_path, steps=100_000, eval_freq=50, eval_episodes=100_000)
    assert (record["status"], record["steps"]) == ("interrupted", 50)
    assert not (directory / "evaluations.npz").exists()
    assert not list(directory.glob(".partial*"))


def test_an_error_in_training_keeps_what_was_reached(tmp_path: Path) -> None:
    broken = "stable_baselines3.common.callbacks.ConvertCallback"
    with pytest.raises(TypeError):
        run(tmp_path, f"callback={{{broken}: {{callback: not callable}}}}")
    assert (tmp_path / "custom_ddpg" / "Pendulum-v1_1" / "Pendulum-v1.zip").exists()


def test_the_best_model_is_the_best_and_not_the_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = make_env("Pendulum-v1", settings(), 1, 0)
    model = make_model(settings(buffer_size=100), "custom_ddpg", env, seed=0)
    means = iter([-3.0, -1.0, -2.0])
    monkeypatch.setattr(
        "stable_baselines3.common.callbacks.evaluate_policy", lambda *_, **__: ([next(means)] * 2, [1, 1])
    )
    model.learn(30, callback=Evaluation(tmp_path, env, eval_freq=10, episodes=2, max_steps=0, stop=StopOnSignal()))
    assert CustomDDPG.load(tmp_path / "best_model").num_timesteps == 20


def test_callbacks_of_the_settings_are_called(tmp_path: Path) -> None:
    checkpoints = f"{{save_freq: 100, save_path: {tmp_path / 'checkpoints'}}}"
    run(tmp_path, f"callback={{stable_baselines3.common.callbacks.CheckpointCallback: {checkpoints}}}")
    assert len(list((tmp_path / "checkpoints").iterdir())) == 3


def test_normalized_stacks_of_frames_are_trained_on_and_evaluated(tmp_path: Path) -> None:
    record = run(
        tmp_path,
        "normalize=true",
        "frame_stack=2",
        "monitor_kwargs=dict(override_existing=False)",
        eval_episodes=1,
    )
    result = evaluate(EvaluateArgs(Path(record["directory"]), model="last", episodes=1))
    assert result["returns"] == record["score"]["returns"]


def test_a_stochastic_policy_is_sampled_when_asked(tmp_path: Path) -> None:
    directory = Path(run(tmp_path, algo="sac", steps=60, eval_freq=0, eval_episodes=1)["directory"])
    scores = [evaluate(EvaluateArgs(directory, model="last", episodes=1, stochastic=s)) for s in (False, False, True)]
    assert scores[0]["returns"] == scores[1]["returns"] != scores[2]["returns"]


def test_evaluation_is_the_same_each_time(tmp_path: Path) -> None:
    env = make_env("Pendulum-v1", settings(), 5, 0)
    model = make_model(settings(learning_starts=10_000, buffer_size=100), "custom_ddpg", env, seed=0)
    callback = Evaluation(tmp_path, env, eval_freq=10, episodes=5, max_steps=0, stop=StopOnSignal())
    model.learn(150, callback=callback)  # without an update: the policy stays the same
    results = np.asarray(callback.evaluations_results)
    assert results.shape == (3, 5)
    assert (results == results[0]).all()
    assert len(set(results[0])) == 5
    assert score(model, env, 5, EVAL_SEED).returns.tolist() == results[0].tolist()
    env.seed(EVAL_SEED)
    assert evaluate_policy(model, env, 5)[0] == pytest.approx(results[0].mean())


def test_learning_curve(normalized_run: Path) -> None:
    figure = report.learning_curve(normalized_run)
    axes = figure.axes[0]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]  # type: ignore[union-attr]
    assert labels == ["training episodes", "evaluation: mean of 2 episodes", "its 95% interval"]
    assert axes.get_lines()[1].get_xdata().tolist() == [100, 200, 300]  # type: ignore[union-attr]
    assert axes.get_lines()[0].get_xdata().tolist() == [200]  # type: ignore[union-attr]


def test_one_episode_has_no_interval(tmp_path: Path) -> None:
    np.savez(tmp_path / "evaluations.npz", timesteps=[100, 200], results=[[-3.0], [-2.0]])
    labels = [text.get_text() for text in report.learning_curve(tmp_path).axes[0].get_legend().get_texts()]  # type: ignore[union-attr]
    assert labels == ["training episodes", "evaluation: one episode"]


def test_learning_curve_of_a_run_that_was_stopped_at_once(tmp_path: Path) -> None:
    (tmp_path / "0.monitor.csv").write_text('#{"t_start": 0.0, "env_id": "Pendulum-v1"}\nr,l,t\n')
    assert len(report.learning_curve(tmp_path).axes[0].get_lines()) == 1


def test_learning_curve_of_a_run_whose_last_episode_was_cut_off_by_a_full_disk(tmp_path: Path) -> None:
    rows = '#{"t_start": 0.0, "env_id": "Pendulum-v1"}\r\nr,l,t\r\n-9.5,200,0.1\r\n-7.5,2'
    (tmp_path / "0.monitor.csv").write_bytes(rows.encode())
    (episodes,) = report.learning_curve(tmp_path).axes[0].get_lines()
    assert (episodes.get_xdata().tolist(), episodes.get_ydata().tolist()) == ([200], [-9.5])  # type: ignore[union-attr]


def test_evaluations_are_told_as_they_come_and_what_that_raises_ends_the_run(tmp_path: Path) -> None:
    args = TrainArgs("Pendulum-v1", steps=120, eval_freq=40, eval_episodes=1, params=TINY_PARAMS, quiet=True)
    seen: list[Evaluations] = []

    def enough(evaluations: Evaluations) -> None:
        seen.append(evaluations)
        if len(evaluations.steps) == 2:
            raise StopIteration("enough")

    with pytest.raises(StopIteration, match="enough"):
        train_in(tmp_path, args, settings_of(args), label="", stop=StopOnSignal(), on_evaluation=enough)
    assert [evaluations.steps.tolist() for evaluations in seen] == [[40], [40, 80]]
    assert [len(evaluations.cpu_seconds) for evaluations in seen] == [1, 2]
    assert (tmp_path / "Pendulum-v1.zip").exists()  # what was reached
    assert not (tmp_path / "result.json").exists()


@pytest.mark.parametrize(
    ("network", "threads", "expected"),
    [("[64, 64]", (), 1), ("[400, 300]", (), 2), ("[64, 64]", ("--threads", "2"), 2)],
)
def test_a_small_network_is_trained_with_one_thread(
    network: str, threads: tuple[str, ...], expected: int, tmp_path: Path
) -> None:
    arguments = [
        "train",
        "--env",
        "Pendulum-v1",
        "--steps",
        "20",
        "--eval-freq",
        "0",
        "--eval-episodes",
        "1",
        "--quiet",
    ]
    arguments += ["-p", f"policy_kwargs={{net_arch: {network}}}", "-p", "batch_size=256", *threads]
    environment = {**ENVIRONMENT, "OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}
    with_two = "import torch, sys; torch.set_num_threads(2); from sb3_ddpg_ext.__main__ import main; sys.exit(main())"
    result = subprocess.run(
        [sys.executable, "-c", with_two, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert ("with one thread" if expected == 1 else "with 2 threads") in result.stdout
    assert read_run(tmp_path / "runs/custom_ddpg/Pendulum-v1_1").threads == expected
