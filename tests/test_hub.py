"""Runs go to a Hub and come back, over HTTP; what comes from it runs no code, and every refusal is one line."""

import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import yaml
from gymnasium.envs.classic_control import PendulumEnv
from hub_server import TOKEN, Hub, Repo, hub_server
from processes import forked
from small_runs import TINY_PARAMS
from stable_baselines3 import DDPG

from sb3_ddpg_ext import hub as hub_module
from sb3_ddpg_ext.arguments import TrainArgs
from sb3_ddpg_ext.hub import assemble, files_of
from sb3_ddpg_ext.training import train

pytest.importorskip("huggingface_hub")
HELPERS = str(Path(__file__).parent / "helpers")
ARGS = TrainArgs("Pendulum-v1", steps=120, eval_freq=60, eval_episodes=2, quiet=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    params = (*TINY_PARAMS, "normalize=true")
    args = replace(ARGS, params=params, tensorboard=True, log_dir=tmp_path_factory.mktemp("runs"))
    directory = train(args).directory
    (directory / "Pendulum-v1" / "replay_buffer.pkl").write_bytes(b"large")
    return directory


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hub_server() as server:
        yield server


def environment(hub: Hub | None, home: Path, token: str | None = TOKEN) -> dict[str, str]:
    endpoint = "http://127.0.0.1:9" if hub is None else hub.endpoint
    variables = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    variables |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home / "hf_home"), "OMP_NUM_THREADS": "1"}
    variables |= {"SDL_VIDEODRIVER": "dummy", **({} if token is None else {"HF_TOKEN": token})}
    return variables


def sb3_ddpg(*args: Any, hub: Hub | None, cwd: Path, token: str | None = TOKEN) -> subprocess.CompletedProcess[str]:
    return forked([str(arg) for arg in args], cwd, environment(hub, cwd.parent, token), timeout=120)


def refused(*args: Any, hub: Hub | None, cwd: Path, token: str | None = TOKEN) -> str:
    before = sorted(cwd.iterdir())
    result = sb3_ddpg(*args, hub=hub, cwd=cwd, token=token)
    assert result.returncode == 2, result.stdout + result.stderr
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert sorted(cwd.iterdir()) == before  # nothing is left behind
    return lines[0]


def as_repo(folder: Path) -> Repo:
    files = (path for path in folder.rglob("*") if path.is_file())
    return Repo({path.relative_to(folder).as_posix(): path.read_bytes() for path in files})


# --- There and back ---


def test_a_run_goes_to_the_hub_and_comes_back(run: Path, hub: Hub, tmp_path: Path) -> None:
    pushed = sb3_ddpg("push", run, "--repo", "me/pendulum", hub=hub, cwd=tmp_path)
    assert (pushed.returncode, pushed.stdout) == (0, f"Uploaded to {hub.endpoint}/me/pendulum\n"), pushed.stderr
    repo = hub.repos["me/pendulum"]
    assert repo.files["replay.mp4"][4:8] == b"ftyp"
    assert not repo.private

    pulled = sb3_ddpg("pull", "me/pendulum", "elsewhere/mine", hub=hub, cwd=tmp_path)
    assert pulled.returncode == 0, pulled.stderr
    assert pulled.stdout.startswith("Downloaded to elsewhere/mine: ")
    assert as_repo(tmp_path / "elsewhere" / "mine").files == repo.files
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["mine"]
    for which in ("best", "last"):
        evaluated = sb3_ddpg("evaluate", "elsewhere/mine", "--model", which, "--episodes", "2", hub=None, cwd=tmp_path)
        assert evaluated.returncode == 0, evaluated.stderr
    score = json.loads((run / "result.json").read_text())["score"]
    assert f"mean return {score['mean']:.1f} (" in evaluated.stdout  # of the last model, as the card says
    assert f"**{score['mean']:.2f} ± {score['std']:.2f}** over 2 episodes" in repo.files["README.md"].decode()


def test_the_card_says_how_to_load_the_model(run: Path, hub: Hub, tmp_path: Path) -> None:
    assemble(run, tmp_path / "folder", "me/pendulum", video=False)
    hub.repos["me/pendulum"] = as_repo(tmp_path / "folder")
    page = (tmp_path / "folder" / "README.md").read_text()
    (command,) = re.findall(r"^```bash\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    for line in command.splitlines():
        program, *args = line.split()
        assert program == "sb3-ddpg"
        assert sb3_ddpg(*args, hub=hub, cwd=tmp_path).returncode == 0
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    code += "model.predict(env.reset()); assert not env.training"
    variables = environment(hub, tmp_path)
    result = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_a_second_run_takes_the_place_of_the_first(run: Path, hub: Hub, tmp_path: Path) -> None:
    """Nothing else in the repository is touched, and one that everybody sees is not taken for a private one."""
    assert sb3_ddpg("push", run, "--repo", "me/mine", "--private", "--no-video", hub=hub, cwd=tmp_path).returncode == 0
    repo = hub.repos["me/mine"]
    assert repo.private
    repo.files |= {"LICENSE": b"mine", "data.zip": b"mine", "Other-v0/args.yml": b"env: Other-v0", "Other-v0.zip": b""}
    assert sb3_ddpg("push", run, "--repo", "me/mine", "--private", "--no-video", hub=hub, cwd=tmp_path).returncode == 0
    assert {"LICENSE", "data.zip", "best_model.zip"} <= repo.files.keys()
    assert not {"Other-v0/args.yml", "Other-v0.zip"} & repo.files.keys()

    pulled = sb3_ddpg("pull", "me/mine", hub=hub, cwd=tmp_path)
    assert pulled.stdout.startswith("Files that are no part of a run were left out: 2, such as LICENSE\n")
    assert not hub.downloaded & {"LICENSE", "data.zip"}
    repo.private = False
    message = refused("push", run, "--repo", "me/mine", "--private", "--no-video", hub=hub, cwd=tmp_path)
    assert message == "error: me/mine exists, and everybody can see it; make it private, or name another"


# --- What is pushed ---


def test_the_folder_that_is_pushed(run: Path, tmp_path: Path) -> None:
    assemble(run, tmp_path / "folder", "me/pendulum", video=False)
    assert as_repo(tmp_path / "folder").files.keys() == {
        *("README.md", "result.json", "evaluations.npz", "0.monitor.csv", "progress.csv", "learning_curve.png"),
        *("best_model.zip", "best_model_vecnormalize.json", "Pendulum-v1.zip"),
        *("Pendulum-v1/args.yml", "Pendulum-v1/config.yml", "Pendulum-v1/vecnormalize.json"),
    }
    for file in ("best_model.zip", "Pendulum-v1.zip", "result.json", "Pendulum-v1/config.yml"):
        assert (tmp_path / "folder" / file).read_bytes() == (run / file).read_bytes()
    arguments = (tmp_path / "folder" / "Pendulum-v1" / "args.yml").read_text()
    assert str(run.parent) not in arguments  # no folders of this machine
    expected = {**yaml.safe_load((run / "Pendulum-v1" / "args.yml").read_text()), "log_dir": "runs"}
    assert yaml.safe_load(arguments) == expected


def test_the_card(run: Path, tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    assemble(run, tmp_path / "folder", "me/pendulum", video=False)
    card = ModelCard.load(tmp_path / "folder" / "README.md")
    assert card.data.library_name == "stable-baselines3"
    assert {"Pendulum-v1", "reinforcement-learning", "stable-baselines3"} <= set(card.data.tags or ())
    assert "license" not in card.data.to_dict()  # that is for the author to say
    (result,) = card.data.eval_results or ()
    record = json.loads((run / "result.json").read_text())
    assert result.metric_value == f"{record['score']['mean']:.2f} +/- {record['score']['std']:.2f}"
    assert result.dataset_name == "Pendulum-v1"
    (settings,) = re.findall(r"^```yaml\n(.*?)^```", card.text, re.DOTALL | re.MULTILINE)
    assert yaml.safe_load(settings) == yaml.safe_load((run / "Pendulum-v1" / "config.yml").read_text())
    assert f"torch {record['versions']['torch']}" in card.text
    for link in re.findall(r"\]\((?!http)([^)]+)\)", card.text):
        assert (tmp_path / "folder" / link).exists()


class Invisible(PendulumEnv):
    metadata = {"render_modes": []}  # noqa: RUF012


def test_an_environment_that_cannot_be_drawn(tmp_path: Path) -> None:
    gym.register("Invisible-v0", Invisible, max_episode_steps=20)
    args = replace(ARGS, env="Invisible-v0", params=TINY_PARAMS, log_dir=tmp_path, eval_episodes=1)
    directory = train(args).directory
    with pytest.warns(UserWarning, match="^no video: ") as warned:
        assemble(directory, tmp_path / "folder", "me/blind", video=True)
    assert "\n" not in str(warned[0].message)
    assert (tmp_path / "folder" / "README.md").exists()
    assert not (tmp_path / "folder" / "replay.mp4").exists()


# --- What is not pulled ---


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("evil",)


def _with_a_pickled_model(folder: Path) -> None:
    model = DDPG("MlpPolicy", "Pendulum-v1", policy_kwargs={"net_arch": [8]}, buffer_size=10)
    model.custom = Evil()  # type: ignore[attr-defined]
    model.save(folder / "best_model.zip")


def _with_another_file_for_a_model(folder: Path) -> None:
    (folder / "best_model.zip").write_bytes(pickle.dumps(Evil()))


def _with_pickled_statistics(folder: Path) -> None:
    (folder / "best_model_vecnormalize.json").rename(folder / "best_model_vecnormalize.pkl")


def _with_pickles_named_otherwise(folder: Path) -> None:
    (folder / "best_model_vecnormalize.json").write_bytes(pickle.dumps(Evil()))


def _with_python_in_its_settings(folder: Path) -> None:
    config = folder / "Pendulum-v1" / "config.yml"
    config.write_text(config.read_text() + "callback: !!python/object/apply:os.mkdir [evil]\n")


def _with_a_class_of_the_repository(folder: Path) -> None:
    (folder / "Pendulum-v1" / "evil.py").write_text("import os; os.mkdir('evil')")
    config = folder / "Pendulum-v1" / "config.yml"
    config.write_text(config.read_text() + "env_wrapper: evil.Wrapper\n")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_with_a_pickled_model, "its models or their VecNormalize statistics are pickles"),
        (_with_another_file_for_a_model, "best_model.zip cannot be loaded"),
        (_with_pickled_statistics, "its statistics best_model_vecnormalize.pkl are missing"),
        (_with_pickles_named_otherwise, "its models or their VecNormalize statistics are pickles"),
        (_with_python_in_its_settings, "config.yml"),
        (_with_a_class_of_the_repository, "cannot import 'evil.Wrapper'"),
    ],
)
def test_hostile_files(change: Any, reason: str, run: Path, hub: Hub, tmp_path: Path) -> None:
    assemble(run, tmp_path / "folder", "me/evil", video=False)
    change(tmp_path / "folder")
    hub.repos["me/evil"] = as_repo(tmp_path / "folder")
    work = tmp_path / "work"
    work.mkdir()
    message = refused("pull", "me/evil", hub=hub, cwd=work)
    assert message.startswith("error: me/evil is refused: ")
    assert reason in message
    assert str(tmp_path) not in message
    assert not {name for name in hub.downloaded if name.endswith((".pkl", ".py"))}


@pytest.mark.parametrize(
    "name", ["../evil.zip", "Pendulum-v1/../../args.yml", "/tmp/evil.zip", "a\\b.zip", "a\x1b[2J.zip"]
)
def test_hostile_names(name: str, run: Path, hub: Hub, tmp_path: Path) -> None:
    hub.repos["me/evil"] = Repo({"Pendulum-v1/args.yml": b"", name: b"evil"})
    message = refused("pull", "me/evil", hub=hub, cwd=tmp_path)
    assert message == f"error: me/evil is refused: it has a file with the name {name!r}"
    assert hub.downloaded == set()


def test_what_is_taken_from_a_repository() -> None:
    exact = ["Pendulum-v1.zip", "best_model.zip", "Pendulum-v1/args.yml", "12.monitor.csv", "result.json"]
    others = [
        "other.zip",
        "Pendulum-v1/vecnormalize.pkl",
        "checkpoints/Pendulum-v1.zip",
        "a.monitor.csv",
        "x/result.json",
    ]
    assert files_of("Pendulum-v1", exact + others) == set(exact)


def test_repositories_that_are_no_runs(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repos["me/words"] = Repo({"README.md": b"words", "model.safetensors": b""})
    hub.repos["me/two"] = Repo({"A-v0/args.yml": b"", "B-v0/args.yml": b""})
    hub.repos["me/large"] = Repo({"A-v0/args.yml": b"", "A-v0.zip": b"0" * 2_000_000})
    expected = "is not a run directory: expected one file ENV/args.yml in it, found"
    assert refused("pull", "me/words", hub=hub, cwd=tmp_path) == f"error: me/words {expected} none"
    assert refused("pull", "me/two", hub=hub, cwd=tmp_path) == f"error: me/two {expected} 2 of them"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.endpoint)
    monkeypatch.setattr(hub_module, "MAX_BYTES", 2**20)
    with pytest.raises(hub_module.SettingsError, match="me/large has 2 MiB; at most 1 are downloaded"):
        hub_module.pull(hub_module.PullArgs("me/large", tmp_path / "large"))


def test_nothing_is_overwritten(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    message = refused("pull", "me/mine", hub=hub, cwd=tmp_path)
    assert message == "error: mine exists already; name another directory for me/mine"


# --- Refusals ---


def test_refusals(run: Path, hub: Hub, tmp_path: Path) -> None:
    login = "log in with `hf auth login`, or set HF_TOKEN"
    push = "push", run, "--no-video", "--repo"
    assert refused(*push, "me/x", hub=hub, cwd=tmp_path, token=None) == f"error: no Hugging Face token: {login}"
    assert refused(*push, "me/x", hub=hub, cwd=tmp_path, token="hf_other") == (
        f"error: {hub.endpoint} refuses your token for me/x; {login} to one that may do that"
    )
    for command in (*push, "me/x"), ("pull", "me/x"):
        message = refused(*command, hub=None, cwd=tmp_path)
        assert message.startswith("error: http://127.0.0.1:9 cannot be reached: ConnectError: ")
        assert message.endswith("; check the network")
    assert refused("pull", "me/none", hub=hub, cwd=tmp_path) == (
        f"error: {hub.endpoint} has no me/none, or it is private: then {login}"
    )
    for name in ("me", "a/b/c", "me/--"):
        for command in ("push", run, "--repo", name), ("pull", name):
            assert f"'{name}'" in refused(*command, hub=hub, cwd=tmp_path)
    assert hub.repos == {}


def test_runs_that_cannot_be_pushed(run: Path, hub: Hub, tmp_path: Path) -> None:
    other = tmp_path / "run"
    other.mkdir()
    command = "push", other, "--repo", "me/x", "--no-video"
    assert refused(*command, hub=hub, cwd=tmp_path) == f"error: {other} is not a run directory: it holds no */args.yml"
    (other / "Pendulum-v1").mkdir()
    (other / "Pendulum-v1" / "args.yml").write_text("env: Pendulum-v1")
    assert refused(*command, hub=hub, cwd=tmp_path) == f"error: {other} is not a finished run: it has no result.json"
    for path in run.rglob("*"):
        if path.is_file():
            (other / path.relative_to(run)).parent.mkdir(parents=True, exist_ok=True)
            (other / path.relative_to(run)).write_bytes(path.read_bytes())
    _with_a_pickled_model(other)
    assert refused(*command, hub=hub, cwd=tmp_path) == (
        f"error: {other} cannot be pushed: its models or their VecNormalize statistics are pickles: loading them runs "
        "code from them"
    )
    assert hub.repos == {}


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sb3_ddpg_ext.errors.find_spec", lambda name: None)
    with pytest.raises(hub_module.SettingsError, match=r"huggingface_hub is not installed: pip install .*\[hub\]"):
        hub_module.pull(hub_module.PullArgs("me/x"))
