"""
What the real command leaves in each tracker: Weights & Biases in its offline mode, MLflow's store of files, and
Trackio's database.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
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
from sb3_ddpg_ext.tracking.mlflow import MLflow

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

    def loses_mlflow(self):
        Path("mlruns").rename("lost")  # at once: its thread may be writing

    def loses_trackio(self):
        database = Path(".cache/huggingface/trackio/sb3_ddpg_ext.db")
        database.parent.mkdir(parents=True, exist_ok=True)  # it writes twice a second
        database.write_bytes(bytes(10_000))
"""


TRACKERS = ("wandb", "mlflow", "trackio")


def train(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    of_others = ("WANDB", "MLFLOW", "TRACKIO", "HF_", "XDG_")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(of_others)},
        "HOME": str(folder),  # where nobody is logged in
        "MLFLOW_TRACKING_URI": f"file:{folder}/mlruns",
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, "-m", "sb3_ddpg_ext", "train", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def train_eventfully(folder: Path, tracker: str, event: str) -> subprocess.CompletedProcess[str]:
    (folder / "eventful.py").write_text(ENVIRONMENT)
    limit = "env_wrapper={gymnasium.wrappers.TimeLimit: {max_episode_steps: 25}}"
    params = [word for param in (*TINY_PARAMS, limit, f"env_kwargs.event={event}") for word in ("-p", param)]
    arguments = f"--quiet --env eventful:Eventful --steps 300 --eval-freq 100 --eval-episodes 2 --track {tracker}"
    return train(folder, *arguments.split(), *params)


@dataclass
class Tracked:
    """The only run that a tracker has."""

    name: str
    config: dict[str, str]
    """as MLflow has it: with dots in the names of nested settings"""
    status: str
    numbers: list[tuple[int, str, Any]]
    """step, name and value of each, in the order in which they were logged"""

    def of(self, name: str) -> dict[int, Any]:
        return {step: value for step, key, value in self.numbers if key == name}


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


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    texts: dict[str, str] = {}
    for name, value in config.items():
        texts |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: str(value)}
    return texts


def tracked_by_wandb(directory: Path) -> Tracked:
    # One for each time that the run was begun or gone on with
    parts = [records(file) for file in sorted(directory.glob("wandb/offline-run-*/*.wandb"))]
    runs = [next(record.run for record in part if record.HasField("run")) for part in parts]
    ((_, name, project, host),) = {(run.run_id, run.display_name, run.project, run.host) for run in runs}
    assert (project, host) == ("sb3_ddpg_ext", "")
    assert {run.run_id for run in runs} == {(directory / "wandb_id.txt").read_text()}
    numbers, summary, exit_codes = [], {}, []
    for record in (record for part in parts for record in part):
        exit_codes += [record.exit.exit_code] if record.HasField("exit") else []
        line = items(record.history.item)
        numbers += [(line["step"], key, value) for key, value in line.items() if key[0] != "_" and key != "step"]
        summary |= items(record.summary.update)
    numbers += [(summary["step"], key, value) for key, value in summary.items() if key.startswith("final/")]
    assert exit_codes[-1] == {"finished": 0, "interrupted": 255, "failed": 1}[summary["status"]]
    return Tracked(name, flat(items(runs[0].config.update)), summary["status"], numbers)


def tracked_by_mlflow(directory: Path) -> Tracked:
    from mlflow import MlflowClient

    client = MlflowClient(f"file:{directory.parents[2]}/mlruns")
    experiment = client.get_experiment_by_name("sb3_ddpg_ext")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_id == (directory / "mlflow_id.txt").read_text()
    assert set(run.data.tags) == {"mlflow.runName"}
    history = [item for name in run.data.metrics for item in client.get_metric_history(run.info.run_id, name)]
    numbers = [(item.step, item.key, item.value) for item in history]
    statuses = {"FINISHED": "finished", "KILLED": "interrupted", "FAILED": "failed"}
    return Tracked(run.info.run_name, dict(run.data.params), statuses[run.info.status], numbers)


def tracked_by_trackio(directory: Path) -> Tracked:
    code = """if True:
        import json, trackio
        from trackio.sqlite_storage import SQLiteStorage
        (run,) = trackio.Api().runs("sb3_ddpg_ext")
        print(json.dumps([run.name, run.config, SQLiteStorage.get_logs("sb3_ddpg_ext", run.name)]))
    """
    environment = {**os.environ, "TRACKIO_DIR": str(directory.parents[2] / ".cache/huggingface/trackio")}
    read = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    name, config, lines = json.loads(read.stdout)
    assert name == (directory / "trackio_id.txt").read_text()
    assert re.fullmatch(f"{directory.name}-[0-9a-f]{{8}}", name)
    status = [line.pop("status") for line in lines if "status" in line][-1]
    numbers = [(line["step"], *item) for line in lines for item in line.items() if item[0] not in ("step", "timestamp")]
    return Tracked(directory.name, flat(config), status, numbers)


def tracked(folder: Path, tracker: str) -> Tracked:
    readers = {"wandb": tracked_by_wandb, "mlflow": tracked_by_mlflow, "trackio": tracked_by_trackio}
    return readers[tracker](folder / "runs" / "custom_ddpg" / "Eventful_1")


@pytest.fixture(autouse=True)
def no_environment_of_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("MLFLOW")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")


@pytest.mark.parametrize("tracker", ["wandb", *(pytest.param(name, marks=pytest.mark.slow) for name in TRACKERS[1:])])
def test_an_interrupted_run_goes_on_as_the_same_tracked_run(tmp_path: Path, tracker: str) -> None:
    first = train_eventfully(tmp_path, tracker, "interrupted")
    assert first.returncode == 130, first.stderr
    assert tracked(tmp_path, tracker).status == "interrupted"
    directory = tmp_path / "runs" / "custom_ddpg" / "Eventful_1"
    second = train(tmp_path, "--resume", str(directory))  # with a progress bar
    assert (second.returncode, second.stderr) == (0, "")
    assert tracker not in first.stdout + first.stderr + second.stdout

    run, record = tracked(tmp_path, tracker), json.loads((directory / "result.json").read_text())
    assert (run.name, run.status) == ("Eventful_1", "finished")
    assert run.of("final/mean_reward") == {300: record["score"]["mean"]}

    settings = yaml.safe_load((directory / "Eventful/config.yml").read_text())
    arguments = {"env": "eventful:Eventful", "seed": 0, "planned_steps": 300, "device": "auto"}
    assert flat({"settings": settings, **arguments}).items() <= run.config.items()
    assert str(tmp_path) not in json.dumps(run.config)

    # Each evaluation, with its step, and what the algorithm logs
    with np.load(directory / "evaluations.npz") as saved:
        evaluations = dict(zip(saved["timesteps"].tolist(), saved["results"].mean(axis=1).tolist(), strict=True))
    assert list(evaluations) == [100, 200, 300]
    assert run.of("eval/mean_reward") == pytest.approx(evaluations)
    at_100 = {name: value for step, name, value in run.numbers if step == 100}
    assert {"train/actor_loss", "train/critic_loss", "rollout/noise_std"} <= set(at_100)
    assert (at_100["rollout/ep_len_mean"], at_100["train/n_updates"]) == (25, 49)
    assert all(isinstance(value, int | float) for _, _, value in run.numbers)


@pytest.mark.parametrize("tracker", TRACKERS)
def test_training_goes_on_where_the_tracker_fails(tmp_path: Path, tracker: str) -> None:
    result = train_eventfully(tmp_path, tracker, f"loses_{tracker}")
    assert result.returncode == 0
    what = "failed to flush" if tracker == "trackio" else "failed, and does not track this run any more:"
    assert re.fullmatch(f"warning: {tracker} {what} .*\n", result.stderr)
    record = json.loads((tmp_path / "runs" / "custom_ddpg" / "Eventful_1" / "result.json").read_text())
    assert (record["status"], record["steps"]) == ("finished", 300)


@pytest.mark.slow
@pytest.mark.parametrize("tracker", TRACKERS)
def test_a_run_that_fails(tmp_path: Path, tracker: str) -> None:
    result = train_eventfully(tmp_path, tracker, "fails")
    assert result.returncode == 2
    run = tracked(tmp_path, tracker)
    assert (run.status, list(run.of("eval/mean_reward"))) == ("failed", [100])


@pytest.mark.parametrize("tracker", TRACKERS)
def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, tracker: str) -> None:
    args = TrainArgs("Pendulum-v1", quiet=True, track=tracker)
    monkeypatch.setattr("sb3_ddpg_ext.errors.find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=rf"^{tracker} is not installed: pip install 'sb3_ddpg_ext\[{tracker}\]'$"):
        check(args, settings_of(args))


def test_mlflow_without_a_store(monkeypatch: pytest.MonkeyPatch) -> None:
    args = TrainArgs("Pendulum-v1", quiet=True, track="mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nowhere://at-all")
    with pytest.raises(SettingsError, match=r"^mlflow cannot open its store: .*nowhere://at-all"):
        check(args, settings_of(args))
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.setattr("sb3_ddpg_ext.tracking.mlflow.find_spec", lambda name: None)  # as with mlflow-skinny alone
    with pytest.raises(SettingsError, match=r"^mlflow has no store: set MLFLOW_TRACKING_URI .* pip install mlflow"):
        check(args, settings_of(args))


def test_what_mlflow_gets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "of mine")
    config = {"a": {"b": [1, "x"], "c": {}}, "none": None, "long": "x" * 7000, **{f"p{i}": i for i in range(150)}}
    run = MLflow()
    with pytest.warns(UserWarning, match="^mlflow does not get long, which is longer than it allows$"):
        run.start(tmp_path, config)
    for step in range(10):
        run.log({"train/loss": step / 2, "time/fps": 100.0}, step)
        if step % 3 == 0:
            run._request.result()  # what is logged meanwhile waits for the next request
    run.end("interrupted", {}, 9)
    resumed = MLflow()
    resumed.start(tmp_path, {"another": "machine"})
    resumed.end("finished", {"final/mean_reward": -1.5}, 20)

    client, run_id = MlflowClient(), (tmp_path / "mlflow_id.txt").read_text()
    tracked = client.get_run(run_id)
    assert tracked.data.params == {
        "a.b": "[1, 'x']",
        "a.c": "{}",
        "none": "None",
        **{f"p{i}": str(i) for i in range(150)},
    }
    assert client.get_experiment(tracked.info.experiment_id).name == "of mine"
    losses = [(item.step, item.value) for item in client.get_metric_history(run_id, "train/loss")]
    assert losses == [(step, step / 2) for step in range(10)]
    assert (tracked.info.status, tracked.data.metrics["final/mean_reward"]) == ("FINISHED", -1.5)
