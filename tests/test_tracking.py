"""Weights & Biases in its offline mode: what the real command leaves in the run directory."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from own_environment import POINT_MASS
from small_runs import TINY_PARAMS
from wandb.proto.wandb_internal_pb2 import Record

from sb3_ddpg_ext.arguments import TrainArgs
from sb3_ddpg_ext.errors import SettingsError
from sb3_ddpg_ext.run_arguments import check, settings_of

# The point mass, to which something happens at its 150th step, once
ENVIRONMENT = f"""{POINT_MASS}

import os, signal
from pathlib import Path

import psutil


class Eventful(PointMass):
    def __init__(self, event):
        super().__init__()
        self.event, self.steps = event, 0

    def step(self, action):
        self.steps += 1
        if self.steps == 150 and not Path("happened").exists():
            Path("happened").touch()
            getattr(self, self.event)()
        return super().step(action)

    def interrupted(self):
        os.kill(os.getpid(), signal.SIGINT)

    def fails(self):
        raise RuntimeError("broken")

    def loses_wandb(self):
        (service,) = psutil.Process().children()
        service.kill()
        service.wait()
"""


def train(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("WANDB")},
        "HOME": str(folder),  # where nobody is logged in
        "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, "-m", "sb3_ddpg_ext", "train", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def train_eventfully(folder: Path, event: str) -> subprocess.CompletedProcess[str]:
    (folder / "eventful.py").write_text(ENVIRONMENT)
    limit = "env_wrapper={gymnasium.wrappers.TimeLimit: {max_episode_steps: 25}}"
    params = [word for param in (*TINY_PARAMS, limit, f"env_kwargs.event={event}") for word in ("-p", param)]
    arguments = "--quiet --env eventful:Eventful --steps 300 --eval-freq 100 --eval-episodes 2 --track wandb"
    return train(folder, *arguments.split(), *params)


def records(file: Path) -> list[Record]:
    """:return: What wandb has written: LevelDB's format of logs, with wandb's own first 7 bytes"""
    data, at, found, whole = file.read_bytes(), 7, [], b""
    assert data[:4] == b":W&B"
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # a block ends with zeros where there is no space for another header
            at += 32768 - at % 32768
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            found.append(Record.FromString(whole))
            whole = b""
    return found


def items(message: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in message}


class Tracked:
    """The parts of a tracked run, in the order in which they were written."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.parts = [records(file) for file in sorted(directory.glob("wandb/offline-run-*/*.wandb"))]

    def runs(self) -> list[Any]:
        return [next(record.run for record in part if record.HasField("run")) for part in self.parts]

    def config(self, part: int) -> dict[str, Any]:
        return items(self.runs()[part].config.update)

    def history(self, part: int) -> list[dict[str, Any]]:
        return [items(r.history.item) for r in self.parts[part] if r.HasField("history")]

    def summary(self, part: int) -> dict[str, Any]:
        summary: dict[str, Any] = {}
        for record in self.parts[part]:
            summary |= items(record.summary.update)
        return summary

    def exit_code(self, part: int) -> int:
        return next(record.exit.exit_code for record in self.parts[part] if record.HasField("exit"))


def test_an_interrupted_run_goes_on_as_the_same_tracked_run(tmp_path: Path) -> None:
    first = train_eventfully(tmp_path, "interrupted")
    assert first.returncode == 130, first.stderr
    directory = tmp_path / "runs" / "custom_ddpg" / "Eventful_1"
    second = train(tmp_path, "--resume", str(directory))  # with a progress bar
    assert (second.returncode, second.stderr) == (0, "")
    assert "wandb" not in first.stdout + first.stderr + second.stdout

    tracked, record = Tracked(directory), json.loads((directory / "result.json").read_text())
    assert [(run.run_id, run.project, run.display_name, run.host) for run in tracked.runs()] == [
        ((directory / "wandb_id.txt").read_text(), "sb3_ddpg_ext", "Eventful_1", "")
    ] * 2
    assert [tracked.summary(part)["status"] for part in range(2)] == ["interrupted", "finished"]
    assert [tracked.exit_code(part) for part in range(2)] == [255, 0]
    assert tracked.summary(1)["final/mean_reward"] == record["score"]["mean"]

    config = tracked.config(0)
    assert config["settings"] == record["settings"] == yaml.safe_load((directory / "Eventful/config.yml").read_text())
    assert (config["env"], config["seed"], config["planned_steps"]) == ("eventful:Eventful", 0, 300)
    assert config["device"] == "auto"
    assert str(tmp_path) not in json.dumps(config)

    # Each evaluation, with its step, and what the algorithm logs
    logged = [line for part in range(2) for line in tracked.history(part)]
    evaluations = {line["step"]: line["eval/mean_reward"] for line in logged if "eval/mean_reward" in line}
    with np.load(directory / "evaluations.npz") as saved:
        assert list(evaluations) == saved["timesteps"].tolist() == [100, 200, 300]
        assert list(evaluations.values()) == pytest.approx(saved["results"].mean(axis=1).tolist())
    at_100 = {name: value for line in logged if line["step"] == 100 for name, value in line.items()}
    assert {"train/actor_loss", "train/critic_loss", "rollout/noise_std"} <= set(at_100)
    assert (at_100["rollout/ep_len_mean"], at_100["train/n_updates"]) == (25, 49)
    numbers = {name: value for line in logged for name, value in line.items() if not name.startswith("_")}
    assert all(isinstance(value, int | float) for value in numbers.values())


def test_training_goes_on_where_wandb_fails(tmp_path: Path) -> None:
    result = train_eventfully(tmp_path, "loses_wandb")
    assert result.returncode == 0
    assert re.fullmatch("warning: wandb failed, and does not track this run any more: .*\n", result.stderr)
    record = json.loads((tmp_path / "runs" / "custom_ddpg" / "Eventful_1" / "result.json").read_text())
    assert (record["status"], record["steps"]) == ("finished", 300)


@pytest.mark.slow
def test_a_run_that_fails(tmp_path: Path) -> None:
    result = train_eventfully(tmp_path, "fails")
    assert result.returncode == 2
    tracked = Tracked(tmp_path / "runs" / "custom_ddpg" / "Eventful_1")
    assert (tracked.summary(0)["status"], tracked.exit_code(0)) == ("failed", 1)
    assert [line["step"] for line in tracked.history(0) if "eval/mean_reward" in line] == [100]


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    args = TrainArgs("Pendulum-v1", quiet=True, track="wandb")
    monkeypatch.setattr("sb3_ddpg_ext.errors.find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"^wandb is not installed: pip install 'sb3_ddpg_ext\[wandb\]'$"):
        check(args, settings_of(args))
