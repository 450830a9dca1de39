"""A student's own environment, an unregistered class in a file, with every command as it is typed."""

import json
import os
import re
import sys
from pathlib import Path

import pytest
import yaml
from own_environment import POINT_MASS
from processes import forked, started
from terminal import screen

from sb3_ddpg_ext.results.result_file import read_run

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
NETWORK = "policy_kwargs={net_arch: [8]}"
TINY = ["--steps", "120", "--eval-freq", "60", "-p", "learning_starts=50", "-p", "batch_size=8", "-p", NETWORK]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "my_env.py").write_text(POINT_MASS)
    return tmp_path


def run(*arguments: str, cwd: Path, status: int = 0) -> tuple[str, str]:
    """:return: What a command prints, on both streams"""
    result = forked(arguments, cwd, ENVIRONMENT, timeout=240)
    assert result.returncode == status, result.stdout + result.stderr
    return result.stdout, result.stderr


def test_train_and_evaluate_a_class(folder: Path) -> None:
    arguments = ["train", "--env", "my_env:PointMass", *TINY, "--eval-episodes", "2", "--quiet"]
    output, _ = run(*arguments, cwd=folder)
    assert output.splitlines()[-1] == "Saved in runs/custom_ddpg/PointMass_1"
    directory = folder / "runs/custom_ddpg/PointMass_1"
    assert (directory / "PointMass.zip").exists()
    assert yaml.safe_load((directory / "PointMass/args.yml").read_text())["env"] == "my_env:PointMass"
    output, _ = run("evaluate", str(directory), "--episodes", "2", "--model", "last", cwd=folder)
    assert f"mean return {json.loads((directory / 'result.json').read_text())['score']['mean']:.1f} " in output


def test_a_class_takes_arguments_and_settings_of_its_name(folder: Path) -> None:
    entry = {"n_timesteps": 120, "policy_kwargs": {"net_arch": [8]}, "env_kwargs": {"limit": 7}}
    (folder / "my.yml").write_text(yaml.safe_dump({"PointMass": entry}))
    arguments = ["train", "--env", "my_env:PointMass", "--hyperparams", "my.yml", "--eval-freq", "0", "--quiet"]
    run(*arguments, "--eval-episodes", "2", "--n-envs", "2", "--vec-env", "subproc", cwd=folder)
    score = read_run(folder / "runs/custom_ddpg/PointMass_1").score
    assert score is not None
    assert score.lengths.tolist() == [7, 7]


def test_a_killed_run_of_a_class_goes_on(folder: Path) -> None:
    arguments = ["train", "--env", "my_env:PointMass", *TINY, "--steps", "100000", "--eval-freq", "0"]
    arguments += ["--checkpoint-freq", "100", "--eval-episodes", "2", "--quiet"]
    directory = folder / "runs/custom_ddpg/PointMass_1"
    with started(["-m", "sb3_ddpg_ext", *arguments], folder) as process:
        while not list(directory.glob("checkpoints/*/manifest.json")):
            assert process.poll() is None, process.communicate()
        process.kill()
    with started(["-m", "sb3_ddpg_ext", "train", "--resume", str(directory)], folder) as process:
        while process.poll() is None and len((directory / "0.monitor.csv").read_text().splitlines()) < 20:
            pass
        process.terminate()
        output, errors = process.communicate(timeout=60)
    assert "Interrupted after" in output, errors


@pytest.mark.parametrize(
    "command", [pytest.param("compare", marks=pytest.mark.slow), pytest.param("tune", marks=pytest.mark.long)]
)
def test_workers_find_a_class(command: str, folder: Path) -> None:
    common = ["--steps", "120", "--eval-freq", "60", "--eval-episodes", "10", "--workers", "2", "--quiet"]
    if command == "compare":
        arguments = ["--envs", "my_env:PointMass", "--algos", f"custom_ddpg:{NETWORK},learning_starts=50"]
        arguments += ["--seeds", "2"]
        runs = "runs/compare/*/PointMass_*/result.json"
    else:
        arguments = ["--env", "my_env:PointMass", "--trials", "2", "--seeds", "1", "--top", "1", "--confirm-seeds", "2"]
        (folder / "my.yml").write_text(
            yaml.safe_dump({"default": {"n_timesteps": 120, "policy_kwargs": {"net_arch": [8]}}})
        )
        arguments += ["--hyperparams", "my.yml"]
        runs = "runs/tune/custom_ddpg_PointMass/confirm/*/PointMass_*/result.json"
    run(command, *arguments, *common, cwd=folder)
    records = [read_run(file.parent) for file in folder.glob(runs)]
    assert len(records) >= 2
    assert all(record.is_finished and record.env == "my_env:PointMass" for record in records)


def test_a_part_of_a_setting_on_the_command_line(folder: Path) -> None:
    entry = {"n_timesteps": 120, "policy_kwargs": {"net_arch": [8], "activation_fn": "nn.Tanh"}}
    (folder / "my.yml").write_text(yaml.safe_dump({"default": entry}))
    arguments = ["train", "--env", "my_env:PointMass", "--hyperparams", "my.yml", "--eval-freq", "0", "--quiet"]
    parts = ["-p", "policy_kwargs.net_arch=[32]", "-p", "env_kwargs.limit=7"]
    run(*arguments, *parts, "--eval-episodes", "1", cwd=folder)
    directory = folder / "runs/custom_ddpg/PointMass_1"
    settings = yaml.safe_load((directory / "PointMass/config.yml").read_text())
    assert settings["policy_kwargs"] == {"net_arch": [32], "activation_fn": "nn.Tanh"}
    score = read_run(directory).score
    assert score is not None
    assert score.lengths.tolist() == [7]
    for part, message in (
        (
            "policy_kwargs.net_arhc=[32]",
            "TD3Policy.__init__() got an unexpected keyword argument 'net_arhc'; did you mean 'net_arch'?",
        ),
        (
            "env_kwargs.limits=7",
            "PointMass.__init__() got an unexpected keyword argument 'limits'; did you mean 'limit'?",
        ),
        ("policy_kwarg.net_arch=[32]", "unknown hyperparameter 'policy_kwarg'; did you mean 'policy_kwargs'?"),
    ):
        _, errors = run(*arguments, "-p", part, cwd=folder, status=2)
        assert message in errors


def test_a_part_of_a_setting_of_a_variant(folder: Path) -> None:
    algos = "custom_ddpg:policy_kwargs.net_arch=[32],env_kwargs.limit=7,small=custom_ddpg:policy_kwargs.net_arch=[8]"
    arguments = ["compare", "--envs", "my_env:PointMass", "--steps", "120", "--eval-episodes", "10", "--dry-run"]
    output, _ = run(*arguments, "--algos", algos, cwd=folder)
    assert "custom_ddpg:policy_kwargs.net_arch=[32],env_kwargs.limit=7" in output
    assert "small" in output
    _, errors = run(*arguments, "--algos", "custom_ddpg:policy_kwargs.net_arhc=[32]", cwd=folder, status=2)
    assert "did you mean 'net_arch'?" in errors


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ("my_env:PointMas", "my_env: unknown environment 'PointMas'; did you mean 'PointMass'? known: PointMass"),
        ("my_env:spaces", "expected a subclass of gymnasium's Env, got 'my_env:spaces'"),
    ],
)
def test_what_is_no_environment_of_the_module_is_refused(env: str, message: str, folder: Path) -> None:
    _, errors = run("train", "--env", env, "--quiet", cwd=folder, status=2)
    assert errors == f"error: {message}\n"


def test_a_class_with_the_name_of_a_registered_environment_is_the_class(folder: Path) -> None:
    (folder / "my_env.py").write_text(POINT_MASS.replace("class PointMass", "class Pendulum"))
    run("train", "--env", "my_env:Pendulum", *TINY, "--eval-episodes", "2", "--quiet", cwd=folder)
    score = read_run(folder / "runs/custom_ddpg/Pendulum_1").score
    assert score is not None
    assert score.lengths.tolist() == [25, 25]


def test_the_class_of_a_strangers_run_is_not_taken_from_its_directory(folder: Path) -> None:
    run("train", "--env", "my_env:PointMass", *TINY, "--eval-episodes", "1", "--quiet", cwd=folder)
    directory = folder / "runs/custom_ddpg/PointMass_1"
    (directory / "my_env.py").write_text(f"open({str(folder / 'was_run')!r}, 'w')\n{POINT_MASS}")
    _, errors = run("evaluate", ".", cwd=directory, status=2)
    assert "'my_env' would be imported from" in errors
    assert not (folder / "was_run").exists()


ENDLESS = ["train", "--env", "my_env:PointMass", *TINY, "--eval-episodes", "2", "-p", "env_kwargs={limit: 0}"]


def test_an_environment_without_a_time_limit_is_warned_of_and_its_evaluations_end(folder: Path) -> None:
    output, errors = run(*ENDLESS, "--eval-max-steps", "40", "--quiet", cwd=folder)
    warned = [line for line in errors.splitlines() if line.startswith("warning: ")]
    assert "my_env:PointMass has no time limit" in warned[0]
    assert "cut off after 40 steps" in warned[0]
    assert warned[1:] == ["warning: Episodes of an evaluation were cut off after 40 steps (--eval-max-steps)"]
    assert "over 2 episodes, 2 of them cut off after 40 steps (--eval-max-steps)" in output
    directory = folder / "runs/custom_ddpg/PointMass_1"
    score = read_run(directory).score
    assert score is not None
    assert score.lengths.tolist() == [40, 40]
    output, _ = run("evaluate", str(directory), "--episodes", "1", "--eval-max-steps", "30", cwd=folder)
    assert "over 1 episodes, 1 of them cut off after 30 steps (--eval-max-steps)" in output


def test_a_time_limit_in_the_settings_ends_evaluations(folder: Path) -> None:
    """Outside of SB3's monitor, no episode would be counted."""
    limit = "env_wrapper={gymnasium.wrappers.TimeLimit: {max_episode_steps: 30}}"
    output, errors = run(*ENDLESS, "-p", limit, "--quiet", cwd=folder)
    assert errors == ""
    assert "cut off" not in output
    record = read_run(folder / "runs/custom_ddpg/PointMass_1")
    assert record.score is not None
    assert record.score.lengths.tolist() == [30, 30]


@pytest.mark.slow
def test_a_comparison_says_what_was_cut_off(folder: Path) -> None:
    arguments = ["compare", "--envs", "my_env:PointMass", "--steps", "60", "--eval-freq", "60", "--eval-episodes", "10"]
    arguments += ["--algos", f"custom_ddpg:{NETWORK},env_kwargs={{limit: 0}}", "--seeds", "1", "--workers", "0"]
    output, errors = run(*arguments, cwd=folder)
    assert "has no time limit" in errors
    assert "of its last episodes, 10 of them cut off after 10,000 steps" in output


def test_the_progress_bar_shows_how_training_goes(folder: Path) -> None:
    arguments = ["train", "--env", "my_env:PointMass", *TINY, "--steps", "300", "--eval-episodes", "2"]
    _, lines = screen([sys.executable, "-m", "sb3_ddpg_ext", *arguments], folder, ENVIRONMENT)
    bar = next(line for line in lines if "300/300" in line)
    assert re.search(r"last -\d+\.\d, best -\d+\.\d, noise 0\.37, bounds \d+%", bar), lines
    assert lines[-1] == "Saved in runs/custom_ddpg/PointMass_1"


def test_an_error_in_step_is_the_last_thing_on_the_screen(folder: Path) -> None:
    failing = POINT_MASS.replace("        self.n += 1\n", "        self.n += 1\n        ([0] * 20)[self.n]\n")
    (folder / "my_env.py").write_text(failing)
    arguments = ["train", "--env", "my_env:PointMass", *TINY, "--eval-freq", "0", "--eval-episodes", "2"]
    _, lines = screen([sys.executable, "-m", "sb3_ddpg_ext", *arguments], folder, ENVIRONMENT)
    assert "IndexError: list index out of range" in "".join(lines)
    assert lines[-1].startswith("error: "), lines
    assert not any("━" in line for line in lines)
