"""CustomDDPG in the real RL Zoo, and run directories that both read."""

import os
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_runs import TINY_PARAMS
from torch import nn

from sb3_ddpg_ext.arguments import EvaluateArgs, TrainArgs
from sb3_ddpg_ext.errors import SettingsError
from sb3_ddpg_ext.evaluation import evaluate, find_model
from sb3_ddpg_ext.settings import hyperparams_file, load_settings, parse_settings, read_yaml
from sb3_ddpg_ext.training import train
from sb3_ddpg_ext.zoo import for_the_zoo, hyperparams, main

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "SDL_VIDEODRIVER": "dummy"}
TINY = ["policy_kwargs:dict(net_arch=[8])", "learning_starts:50", "buffer_size:1000", "batch_size:8"]


def zoo(*args: str, cwd: Path) -> str:
    result = subprocess.run(
        [sys.executable, "-m", "sb3_ddpg_ext.zoo", *args], cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


# --- Without RL Zoo ---


@pytest.mark.parametrize("env", list(read_yaml(hyperparams_file("custom_ddpg"))))
def test_the_settings_mean_the_same(env: str) -> None:
    ours, zoos = load_settings("custom_ddpg", env), parse_settings("custom_ddpg", hyperparams[env], "zoo")
    assert zoos.noise == ours.noise
    assert {**zoos.hyperparams, "learning_rate": None} == {**ours.hyperparams, "learning_rate": None}
    assert zoos.n_timesteps == ours.n_timesteps
    assert not {"noise_type", "noise_std", "noise_kwargs"} & hyperparams[env].keys()


def test_no_noise_stays_none() -> None:
    assert for_the_zoo({"noise_type": None, "noise_std": 0.1}) == {"action_noise": None}
    assert for_the_zoo({"gamma": 0.9}) == {"gamma": 0.9}


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fly"]) == 2
    assert capsys.readouterr().err.startswith("usage: python -m sb3_ddpg_ext.zoo {train,optimize,enjoy,record_video}")


def zoos_run(directory: Path, config: str, args: str) -> Path:
    """A run directory as the zoo writes it, with a model of this package in it."""
    params = (*TINY_PARAMS, "normalize=true")
    run = train(
        TrainArgs("Pendulum-v1", steps=60, eval_freq=60, eval_episodes=1, quiet=True, params=params, log_dir=directory)
    )
    (run.directory / "Pendulum-v1" / "config.yml").write_text(config)
    (run.directory / "Pendulum-v1" / "args.yml").write_text(args)
    return run.directory


def ordered(content: dict[str, Any]) -> str:
    return yaml.dump(OrderedDict(content))


CONFIG = {"n_timesteps": 100, "normalize": True, "train_freq": (1, "step")}


def test_the_zoos_files_are_read(tmp_path: Path) -> None:
    config = ordered({**CONFIG, "policy_kwargs": {"net_arch": [8], "activation_fn": nn.Tanh}})
    assert "!!python/object/apply:collections.OrderedDict" in config
    assert "!!python/name:torch.nn.modules.activation.Tanh" in config
    args = ordered({"algo": "custom_ddpg", "env": "Pendulum-v1", "env_kwargs": {"g": 9.0}, "conf_file": None})
    run = zoos_run(tmp_path, config, args)
    saved = find_model(run)
    assert saved.settings.hyperparams["policy_kwargs"] == {"net_arch": [8], "activation_fn": nn.Tanh}
    assert saved.settings.hyperparams["train_freq"] == (1, "step")
    assert saved.settings.env_kwargs == {"g": 9.0}
    assert saved.vecnormalize == run / "Pendulum-v1" / "vecnormalize.json"  # the zoo has no others


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system [touch ran]",
        "!!python/object/apply:collections.OrderedDict [[[a, !!python/object/apply:os.system [touch ran]]]]",
        "!!python/object/apply:collections.OrderedDict {args: [[[a, 1]]], state: {b: 1}}",
        "!!python/object/apply:collections.OrderedDict [1, 2]",
        "!!python/object/apply:collections.OrderedDict [[[a, b, c]]]",
        "a: !!python/name:os.system ''",
        "a: !!python/object/new:os.system [touch ran]",
    ],
)
def test_nothing_else_of_python_is_read(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "args.yml").write_text(text)
    with pytest.raises(SettingsError, match=r"^args.yml: not a YAML file: ") as error:
        read_yaml(tmp_path / "args.yml")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "ran").exists()


# --- With it ---


@pytest.fixture(scope="module")
def zoos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the zoo has trained CustomDDPG."""
    pytest.importorskip("rl_zoo3", reason="pip install -e '.[zoo]'")
    folder = tmp_path_factory.mktemp("zoo")
    arguments = ["train", "--env", "Pendulum-v1", "-n", "300", "--eval-freq", "100", "--seed", "1"]
    printed = zoo(*arguments, "--hyperparams", *TINY, "normalize:True", cwd=folder)
    assert "Loading hyperparameters from: sb3_ddpg_ext.zoo" in printed
    return folder


@pytest.mark.slow
def test_the_zoo_trains_with_our_settings_and_we_evaluate(zoos: Path) -> None:
    run = zoos / "logs/custom_ddpg/Pendulum-v1_1"
    saved = find_model(run)
    assert saved.algo == "custom_ddpg"
    assert saved.settings.hyperparams["n_steps"] == 3
    assert saved.settings.noise is not None
    assert saved.settings.noise.kwargs == {"schedule": "linear"}
    with pytest.raises(SettingsError, match="--trusted"):  # the zoo's statistics are a pickle
        evaluate(EvaluateArgs(run, episodes=1))
    assert evaluate(EvaluateArgs(run, episodes=1, trusted=True))[1].mean < 0


@pytest.mark.slow
def test_the_zoo_plays_and_records_its_runs(zoos: Path) -> None:
    arguments = ["--env", "Pendulum-v1", "-f", "logs", "-n", "210"]
    assert "1 Episodes" in zoo("enjoy", *arguments, "--no-render", cwd=zoos)
    zoo("record_video", *arguments, "-o", "videos", cwd=zoos)
    assert len(list((zoos / "videos").glob("*.mp4"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["custom_ddpg", "td3"])
def test_the_zoo_plays_our_runs(algo: str, zoos: Path, tmp_path: Path) -> None:
    params = (*TINY_PARAMS, "normalize=true", "env_kwargs={g: 9.0}")
    args = TrainArgs("Pendulum-v1", algo, steps=120, eval_freq=60, eval_episodes=1, quiet=True, params=params)
    train(TrainArgs(**{**vars(args), "log_dir": tmp_path / "runs"}))
    arguments = ["--algo", algo, "--env", "Pendulum-v1", "-f", "runs", "-n", "210"]
    assert "1 Episodes" in zoo("enjoy", *arguments, "--no-render", "--load-best", cwd=tmp_path)
    zoo("record_video", *arguments, "-o", "videos", cwd=tmp_path)
    assert len(list((tmp_path / "videos").glob("*.mp4"))) == 1


@pytest.mark.slow
def test_the_zoo_searches_our_space(zoos: Path) -> None:
    arguments = ["--env", "Pendulum-v1", "-n", "60", "--n-trials", "2", "--no-optim-plots", "--eval-episodes", "1"]
    arguments += ["--storage", "sqlite:///study.db", "--study-name", "ours"]
    printed = zoo("optimize", *arguments, cwd=zoos)
    assert "correlation_time" in printed or "noise_schedule" in printed
    # A trial of the study becomes a run
    arguments = ["--env", "Pendulum-v1", "-n", "60", "--trial-id", "1", *arguments[-4:]]
    zoo("train", *arguments, "-f", "from-study", cwd=zoos)
    assert (zoos / "from-study/custom_ddpg/Pendulum-v1_1/Pendulum-v1.zip").exists()
