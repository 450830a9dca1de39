"""A run that was interrupted, and goes on from a checkpoint, ends with the same bits as one that never was."""

import contextlib
import errno
import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import damages
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import ENVIRONMENT, started
from resumed_runs import RUNS, SMALL, Forgetful, InterruptedRunError, Wandering, digests, train
from stable_baselines3.common.callbacks import BaseCallback, StopTrainingOnNoModelImprovement
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize

from sb3_ddpg_ext import CustomDDPG, PrioritizedReplayBuffer, ResumableCheckpointCallback
from sb3_ddpg_ext.buffers import RowReplayBuffer
from sb3_ddpg_ext.checkpoint import CheckpointError
from sb3_ddpg_ext.checkpoint.codec import decode, encode, is_data
from sb3_ddpg_ext.checkpoint.segments import row_arrays
from sb3_ddpg_ext.checkpoint.store import CheckpointDirectory, write_state

HELPERS = Path(__file__).parent / "helpers"
STEPS = 260
HERE = [name for name, run in RUNS.items() if not run[2] and name != "forgetful"]
# The drill has those with environments in other processes
IN_NEW_PROCESS = ("her 4", "wandering 4")
NEW_PROCESS = ["pendulum", *(pytest.param(name, marks=pytest.mark.drill) for name in IN_NEW_PROCESS)]


def command(name: str, directory: Path, steps: int, every: int = 0) -> list[str | Path]:
    return [HELPERS / "resumed_runs.py", name, directory, str(steps), str(every), directory.parent / "digests.json"]


def interrupted(name: str, directory: Path, every: int, interrupt: int) -> Path:
    with pytest.raises(InterruptedRunError):
        train(name, directory, STEPS, every, interrupt)
    return directory


def uninterrupted(name: str, tmp_path: Path) -> dict[str, str]:
    return digests(*train(name, tmp_path / "none", STEPS))


@pytest.mark.parametrize("name", HERE)
def test_a_run_that_was_interrupted(name: str, tmp_path: Path) -> None:
    expected = uninterrupted(name, tmp_path)
    directory = interrupted(name, tmp_path / "checkpoints", every=70, interrupt=230)
    assert digests(*train(name, directory, STEPS)) == expected


@pytest.mark.parametrize("name", NEW_PROCESS)
def test_a_run_that_goes_on_in_a_new_process(name: str, tmp_path: Path) -> None:
    expected = uninterrupted(name, tmp_path)
    directory = interrupted(name, tmp_path / "checkpoints", every=70, interrupt=230)
    # Ours are UserWarnings. As an error, one of Box2D's of another class crashes the process
    arguments = ["-W", "error::UserWarning", *command(name, directory, STEPS)]
    subprocess.run([sys.executable, *arguments], env=ENVIRONMENT, check=True)
    assert json.loads((tmp_path / "digests.json").read_text()) == expected


# Episodes of Pendulum end after 200 steps. Learning starts after 30 steps
@pytest.mark.parametrize("step", [1, 2, 30, 31, 32, 199, 200, 201, 259])
def test_at_which_step_it_is_interrupted(step: int, tmp_path: Path) -> None:
    expected = uninterrupted("pendulum", tmp_path)
    directory = interrupted("pendulum", tmp_path / "checkpoints", every=step, interrupt=step + 1)
    assert CustomDDPG.resume(directory, "Pendulum-v1").num_timesteps == step
    assert digests(*train("pendulum", directory, STEPS)) == expected


@given(st.data())
@settings(max_examples=8, deadline=None)
def test_runs_that_are_interrupted_again_and_again(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    tmp_path = tmp_path_factory.mktemp("run")
    name = data.draw(st.sampled_from(["pendulum", "pendulum frugal", "pendulum compact", "wandering", "her"]))
    directory = tmp_path / "checkpoints"
    every = data.draw(st.integers(1, 40))
    for _ in range(data.draw(st.integers(1, 3))):
        resumed = CustomDDPG.resume(directory, _env(name)).num_timesteps if directory.exists() else 0
        steps = data.draw(st.integers(resumed + 2 * every, resumed + 2 * every + 20))
        if steps < STEPS:
            interrupted(name, directory, every, steps)
    assert digests(*train(name, directory, STEPS)) == uninterrupted(name, tmp_path)
    shutil.rmtree(tmp_path)


def _env(name: str) -> Any:
    env_id, n_envs, *_ = RUNS[name]
    return make_vec_env(env_id, n_envs)


@pytest.mark.drill
def test_a_run_that_is_killed_again_and_again(tmp_path: Path) -> None:
    name, directory, steps, n_killed = "wandering 4", tmp_path / "checkpoints", 1500, 0
    expected = digests(*train(name, tmp_path / "none", steps))
    rng = random.Random(0)
    while True:
        before = set(directory.glob("checkpoint-*"))
        with started(command(name, directory, steps, every=20)) as process:
            while process.poll() is None and set(directory.glob("checkpoint-*")) <= before:
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.3))
            if process.poll() is None and n_killed < 3:
                process.kill()
                n_killed += 1
                continue
            assert process.wait() == 0, process.communicate()
            break
    assert n_killed > 1
    assert json.loads((tmp_path / "digests.json").read_text()) == expected


def newest(directory: Path) -> Path:
    return max(directory.glob("checkpoint-*"))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncate, flip, empty, Path.unlink])
@pytest.mark.parametrize("file", ["model.zip", "state.bin", "manifest.json", "rows"])
def test_a_damaged_checkpoint(file: str, damage: Callable[[Path], None], tmp_path: Path) -> None:
    directory = interrupted("pendulum", tmp_path / "checkpoints", every=70, interrupt=230)
    assert len(list(directory.glob("checkpoint-*"))) == 2
    damage(max((directory / "rows").iterdir()) if file == "rows" else newest(directory) / file)
    with pytest.warns(UserWarning, match="Resuming from step 140, not from the last checkpoint: checkpoint-000003: "):
        ended_with = digests(*train("pendulum", directory, STEPS, every=50))
    assert ended_with == uninterrupted("pendulum", tmp_path)
    # The damaged one is gone, and two good ones are there
    assert [path.name for path in sorted(directory.glob("checkpoint-*"))] == ["checkpoint-000006", "checkpoint-000007"]


def test_no_checkpoint_is_intact(tmp_path: Path) -> None:
    directory = interrupted("pendulum", tmp_path / "checkpoints", every=70, interrupt=230)
    for path in directory.glob("checkpoint-*"):
        flip(path / "manifest.json")
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* is intact: checkpoint-000003: manifest.json"):
        CustomDDPG.resume(directory, "Pendulum-v1")
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        CustomDDPG.resume(tmp_path, "Pendulum-v1")


def kept_rows(name: str, directory: Path, warning: str) -> Any:
    with pytest.warns(UserWarning, match=warning):
        model = CustomDDPG.resume(directory, _env(name))
    assert model.replay_buffer is not None
    return model


SHARING = [
    "pendulum",
    "pendulum frugal",
    "pendulum compact",
    "pendulum prioritized",
    "mountain car",
    "her",
    "her infos",
]


@pytest.mark.parametrize("name", SHARING)
def test_rows_that_all_checkpoints_share_are_damaged(name: str, tmp_path: Path) -> None:
    arguments = {"policy": "MlpPolicy", "seed": 0, **SMALL, **RUNS[name][-1], "gradient_steps": 1}
    model = CustomDDPG(env=_env(name), **arguments)
    for _ in range(3):
        model.learn(110, reset_num_timesteps=model.num_timesteps == 0)
        model.save_checkpoint(tmp_path)
    segments = json.loads(json.loads((newest(tmp_path) / "manifest.json").read_text())["manifest"])["segments"]
    flip(tmp_path / "rows" / segments[1]["file"]["name"])
    n_rows = sum(segment["new"] for segment in segments[2:])
    for path in sorted(tmp_path.glob("checkpoint-*"))[:-1]:
        shutil.rmtree(path)
    resumed = kept_rows(name, tmp_path, f"{n_rows * model.n_envs} left: checkpoint-000003: .* has changed")
    before: Any = model.replay_buffer
    after = resumed.replay_buffer
    assert (after.size(), after.pos, after.full) == (n_rows, n_rows, False)
    positions = np.arange(before.pos - n_rows, before.pos) % before.buffer_size
    arrays = row_arrays(after)
    for key, array in row_arrays(before).items():
        np.testing.assert_array_equal(arrays[key][:n_rows], array[positions])
    if isinstance(after, PrioritizedReplayBuffer):
        np.testing.assert_array_equal(after.scaled_priorities[:n_rows], before.scaled_priorities[positions])
        assert after.why_damaged() is None
    if name.startswith("her"):
        for i, env in np.argwhere(after.ep_length > 0):
            episode = np.arange(after.ep_start[i, env], after.ep_start[i, env] + after.ep_length[i, env])
            assert episode[0] <= i <= episode[-1] < n_rows
            np.testing.assert_array_equal(after.ep_start[episode, env], episode[0])
        assert (after.ep_length > 0).sum() > n_rows / 2
    resumed.learn(50, reset_num_timesteps=False)
    resumed.save_checkpoint(tmp_path)
    again: Any = CustomDDPG.resume(tmp_path, _env(name)).replay_buffer  # intact, without a warning
    for key, array in row_arrays(resumed.replay_buffer).items():
        np.testing.assert_array_equal(row_arrays(again)[key][: again.size()], array[: again.size()])


def test_no_whole_episode_is_left_for_hindsight(tmp_path: Path) -> None:
    model = CustomDDPG(env=_env("her"), seed=0, **{**SMALL, **RUNS["her"][-1], "gradient_steps": 0})
    for steps in (100, 2):
        model.learn(steps, reset_num_timesteps=False).save_checkpoint(tmp_path)
    segments = json.loads(json.loads((newest(tmp_path) / "manifest.json").read_text())["manifest"])["segments"]
    flip(tmp_path / "rows" / segments[-2]["file"]["name"])
    with pytest.raises(CheckpointError, match="no whole episode is left"):
        CustomDDPG.resume(tmp_path, _env("her"))


def train_until_full(directory: Path, fill: Callable[[], None]) -> CustomDDPG:
    class Fill(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps == 120:
                fill()
            return True

    callbacks = [ResumableCheckpointCallback(directory, every=50), Fill()]
    return small().learn(STEPS, callback=callbacks)


def test_a_full_disk(tmp_path: Path) -> None:
    directory = tmp_path / "disk"
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(directory)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("may not mount a small disk")
    full = directory / "other data"

    def fill() -> None:
        with contextlib.suppress(OSError), full.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    try:
        checkpoints = directory / "checkpoints"
        warning = r"The checkpoint of step 150 was not saved: .*No space left.*; the last one is of step 100"
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model = train_until_full(checkpoints, fill)
        assert re.match(warning, str(caught[0].message))
        assert model.num_timesteps == STEPS
        assert CustomDDPG.resume(checkpoints, "Pendulum-v1").num_timesteps == 100
        assert {path.name[:11] for path in (checkpoints / "rows").iterdir()} <= {"rows-000001", "rows-000002"}
        assert not list(directory.rglob(".partial*"))
        full.unlink()
        model.save_checkpoint(checkpoints)
        resumed: Any = CustomDDPG.resume(checkpoints, "Pendulum-v1")
        np.testing.assert_array_equal(resumed.replay_buffer._rows, vars(model.replay_buffer)["_rows"])
    finally:
        subprocess.run(["umount", str(directory)], check=True)


def test_a_disk_that_fails_when_data_are_forced_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync

    def fails(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    expected = digests(*train("pendulum", tmp_path / "none", STEPS))
    directory = interrupted("pendulum", tmp_path / "checkpoints", every=50, interrupt=70)
    monkeypatch.setattr(os, "fsync", fails)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert digests(*train("pendulum", directory, STEPS, every=50)) == expected
    messages = [str(warning.message) for warning in caught]
    assert all(f"of step {step} was not saved: [Errno 28] No space" in " ".join(messages) for step in (100, 150, 200))
    monkeypatch.setattr(os, "fsync", fsync)
    assert CustomDDPG.resume(directory, "Pendulum-v1").num_timesteps == 50


def test_what_a_killed_process_has_left_is_removed(tmp_path: Path) -> None:
    model = small(gradient_steps=0).learn(20)
    model.save_checkpoint(tmp_path)
    (tmp_path / ".partial-checkpoint-000002").mkdir()
    (tmp_path / ".partial-checkpoint-000009").mkdir()
    (tmp_path / ".partial-checkpoint-000009" / "model.zip").write_bytes(b"PK")
    (tmp_path / "rows" / "rows-000002-0000.npy").write_bytes(b"only half")
    (tmp_path / "rows" / "rows-000002-0009.npy").write_bytes(b"of what was to come")
    resumed = CustomDDPG.resume(tmp_path, "Pendulum-v1").learn(20, reset_num_timesteps=False)
    resumed.save_checkpoint(tmp_path)
    assert not list(tmp_path.rglob(".partial*"))
    assert not list(tmp_path.rglob("rows-000002-0009.npy"))
    again: Any = CustomDDPG.resume(tmp_path, "Pendulum-v1").replay_buffer
    assert again.pos == 40


def small(env: Any = "Pendulum-v1", **kwargs: Any) -> CustomDDPG:
    return CustomDDPG("MlpPolicy", env, seed=0, **{**SMALL, **kwargs})


def size(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def test_an_old_checkpoint_that_cannot_be_read_is_removed(tmp_path: Path) -> None:
    model = small(gradient_steps=0)
    for _ in range(3):
        model.learn(20, reset_num_timesteps=False).save_checkpoint(tmp_path, keep=3)
    flip(min(tmp_path.glob("checkpoint-*")) / "manifest.json")
    CustomDDPG.resume(tmp_path, "Pendulum-v1").save_checkpoint(tmp_path, keep=4)
    assert [path.name[-1] for path in sorted(tmp_path.glob("checkpoint-*"))] == ["2", "3", "4"]


def test_a_full_buffer_does_not_let_the_directory_grow(tmp_path: Path) -> None:
    model = small(buffer_size=1000, gradient_steps=0).learn(1000)
    assert model.replay_buffer is not None
    sizes = []
    for _ in range(40):
        model.learn(90, reset_num_timesteps=False)
        model.save_checkpoint(tmp_path)
        sizes.append(size(tmp_path / "rows"))
    rows = model.replay_buffer._rows  # type: ignore[attr-defined]
    assert max(sizes[12:]) < rows.nbytes * 1.3 + 20_000
    resumed = CustomDDPG.resume(tmp_path, "Pendulum-v1").replay_buffer
    assert isinstance(resumed, RowReplayBuffer)
    np.testing.assert_array_equal(resumed._rows, rows)


def test_only_new_rows_are_written(tmp_path: Path) -> None:
    model = small(buffer_size=10_000, gradient_steps=0).learn(5000)
    model.save_checkpoint(tmp_path)
    first = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "rows").iterdir()}
    model.learn(50, reset_num_timesteps=False)
    model.save_checkpoint(tmp_path)
    second = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "rows").iterdir()}
    assert first.items() <= second.items()
    (new,) = second.keys() - first.keys()
    assert (tmp_path / "rows" / new).stat().st_size < 50 * 10 * 4 + 200


def test_many_checkpoints_leave_few_files_and_cost_little(tmp_path: Path) -> None:
    model = small(buffer_size=20_000, gradient_steps=0)
    written = []
    for i in range(120):
        model.learn(7 + i % 5, reset_num_timesteps=False)
        before = {path.name for path in (tmp_path / "rows").glob("*")}
        model.save_checkpoint(tmp_path)
        written += [path.stat().st_size for path in (tmp_path / "rows").iterdir() if path.name not in before]
    buffer: Any = model.replay_buffer
    n_bytes = buffer._rows[: buffer.pos].nbytes
    assert len(list((tmp_path / "rows").iterdir())) < 20
    assert sum(written) < n_bytes * np.log2(120) + 120 * 200
    for path in sorted(tmp_path.glob("checkpoint-*"), reverse=True):  # each kept one has all of its segments
        resumed: Any = CustomDDPG.resume(tmp_path, "Pendulum-v1").replay_buffer
        np.testing.assert_array_equal(resumed._rows[: resumed.pos], buffer._rows[: resumed.pos])
        shutil.rmtree(path)


def rewrite_manifest(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """What somebody can do who knows the format."""
    manifest = json.loads(json.loads((path / "manifest.json").read_text())["manifest"])
    change(manifest)
    for file in manifest["files"]:
        data = (path / Path(file["name"]).name).read_bytes()
        file |= {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    content = json.dumps(manifest)
    digest = hashlib.sha256(content.encode()).hexdigest()
    (path / "manifest.json").write_text(json.dumps({"sha256": digest, "manifest": content}))


def is_refused(directory: Path) -> None:
    """With one clear error, and without memory for what is not there."""
    tracemalloc.start()
    with pytest.raises(CheckpointError):
        CustomDDPG.resume(directory, "Pendulum-v1")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6


FORGED_MANIFESTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "a file elsewhere": lambda m: m["files"].append({**m["files"][0], "name": "../model.zip"}),
    "rows elsewhere": lambda m: m["segments"][0]["file"].update(name="../../rows-1.npy"),
    "no files": lambda m: m["files"].clear(),
    "a text": lambda m: m["segments"][0].update(first="0"),
    "a negative number": lambda m: m["segments"][0].update(first=-1),
    "beyond the end": lambda m: m["segments"][0].update(first=10**12),
    "many rows": lambda m: m["segments"][0].update(count=10**12),
    "another list": lambda m: m.update(segments=3),
    "no step": lambda m: m.pop("step"),
    "a step that is no number": lambda m: m.update(step="1; rm"),
    "fewer than no new rows": lambda m: m["segments"][0].update(new=-1),
    "another version": lambda m: m.update(format=99),
}


@pytest.mark.parametrize("change", FORGED_MANIFESTS.values(), ids=FORGED_MANIFESTS)
def test_a_forged_manifest(change: Callable[[dict[str, Any]], object], tmp_path: Path) -> None:
    small(gradient_steps=0).learn(20).save_checkpoint(tmp_path)
    rewrite_manifest(newest(tmp_path), change)
    is_refused(tmp_path)


def forged(**changes: Any) -> bytes:
    tree = {"arrays": {}, "tree": {"dict": {}}, **changes}
    return json.dumps(tree).encode() + b"\n"


FORGED_STATES = {
    "no JSON": b"pickle",
    "deep": b'{"arrays": {}, "tree": ' + b'{"list": [' * 100_000 + b"]}" * 100_000 + b"}",
    "deep enough for JSON": b'{"arrays": {}, "tree": ' + b'{"list": [' * 900 + b"]}" * 900 + b"}",
    "a large number": b'{"arrays": {}, "tree": ' + b"9" * 100_000 + b"}",
    "large array": forged(arrays={"0": ["<f8", [10**12]]}),
    "larger array": forged(arrays={"0": ["<f8", [2**40, 2**40]]}),
    "negative array": forged(arrays={"0": ["<f8", [-1]]}),
    "objects": forged(arrays={"0": ["O", [0]]}),
    "nothing of it": forged(arrays={"0": ["<U0", [10**8]]}),
    "empty": forged(tree={}),
    "no array": forged(tree={"array": "7"}),
    "a deque": forged(tree={"deque": [], "maxlen": -1}),
    "keys": forged(tree={"items": [[{"list": []}, 1]]}),
    "nothing": forged(),
}


@pytest.mark.parametrize("content", FORGED_STATES.values(), ids=FORGED_STATES)
def test_a_forged_state(content: bytes, tmp_path: Path) -> None:
    small(gradient_steps=0).learn(20).save_checkpoint(tmp_path)
    (newest(tmp_path) / "state.bin").write_bytes(content)
    rewrite_manifest(newest(tmp_path), lambda _: None)
    is_refused(tmp_path)


FORGED_BUFFERS: dict[str, Callable[[dict[str, Any]], object]] = {
    "large rows": lambda b: b["rows"].update(_rows=["float32", [120, 1, 10**6]]),
    "many rows": lambda b: b["rows"].update(_rows=["float32", [10**12, 1, 10]]),
    "other rows": lambda b: b["rows"].update(rewards=["float32", [120, 1]]),
    "objects": lambda b: b["rows"].update(_rows=["object", [120, 1, 10]]),
    "another size": lambda b: b["attributes"]["object"].update(buffer_size={"data": 10**12}),
    "another position": lambda b: b["attributes"]["object"].update(pos={"data": 120}),
    "no position": lambda b: b["attributes"]["object"].update(pos={"data": None}),
}


def test_what_hindsight_rewrites_takes_little_space(tmp_path: Path) -> None:
    arguments = {**SMALL, **RUNS["her"][-1], "buffer_size": 2000, "gradient_steps": 0}
    model = CustomDDPG(env=_env("her"), seed=0, **arguments).learn(3000)
    model.save_checkpoint(tmp_path)
    buffer, resumed = (vars(each.replay_buffer) for each in (model, CustomDDPG.resume(tmp_path, _env("her"))))
    for name in ("ep_start", "ep_length"):
        np.testing.assert_array_equal(resumed[name], buffer[name])
    runs = CheckpointDirectory(tmp_path).newest()[0].state()["buffer"]["rewritten"]
    assert sum(len(each["starts"]) for each in runs.values()) < 2000  # episodes have up to 6 steps


@pytest.mark.parametrize("change", FORGED_BUFFERS.values(), ids=FORGED_BUFFERS)
def test_a_forged_buffer(change: Callable[[dict[str, Any]], object], tmp_path: Path) -> None:
    small(gradient_steps=0).learn(20).save_checkpoint(tmp_path)
    state = CheckpointDirectory(tmp_path).newest()[0].state()
    change(state["buffer"])
    write_state(newest(tmp_path), state)
    rewrite_manifest(newest(tmp_path), lambda _: None)
    is_refused(tmp_path)


def test_a_pipe_in_place_of_a_file(tmp_path: Path) -> None:
    small(gradient_steps=0).learn(20).save_checkpoint(tmp_path)
    for name in ("model.zip", "manifest.json"):
        (newest(tmp_path) / name).unlink()
        os.mkfifo(newest(tmp_path) / name)
        with pytest.raises(CheckpointError, match=name):
            CustomDDPG.resume(tmp_path, "Pendulum-v1")


@pytest.mark.parametrize("n", [40, pytest.param(200, marks=pytest.mark.drill)])
@pytest.mark.filterwarnings("ignore:Resuming from step|The replay buffer has lost:UserWarning")
def test_whatever_is_damaged(n: int, tmp_path: Path) -> None:
    model = small(gradient_steps=0)
    original, rows, outcomes = tmp_path / "original", {}, []
    for _ in range(4):
        model.learn(60, reset_num_timesteps=False)
        model.save_checkpoint(original)
        rows[model.num_timesteps] = vars(model.replay_buffer)["_rows"].copy()
    rng = random.Random(n)
    for i in range(n):
        directory = tmp_path / f"{i}"
        shutil.copytree(original, directory)
        for _ in range(rng.choice([1, 1, 1, 3])):
            damages.damage(directory, rng)
        try:
            resumed: Any = CustomDDPG.resume(directory, "Pendulum-v1")
        except CheckpointError:
            outcomes.append("refused")
            continue
        buffer, step = resumed.replay_buffer, resumed.num_timesteps
        assert step in (180, 240)
        if buffer.full:
            np.testing.assert_array_equal(buffer._rows, rows[step])
        else:  # the newest ones
            newest_rows = np.roll(rows[step], -step % 120, axis=0)
            np.testing.assert_array_equal(buffer._rows[: buffer.pos], newest_rows[120 - buffer.pos :])
        outcomes.append("intact" if buffer.full else "in part")
        shutil.rmtree(directory)
    assert set(outcomes) == {"intact", "in part", "refused"}


def test_rows_that_somebody_else_has_added(tmp_path: Path) -> None:
    model = small(buffer_size=300, gradient_steps=0).learn(100)
    model.save_checkpoint(tmp_path)
    buffer = model.replay_buffer
    assert isinstance(buffer, RowReplayBuffer)
    zeros = np.zeros((1, 3))
    buffer.add(zeros, zeros, np.zeros((1, 1)), np.array([7.0]), np.array([False]), [{}])
    model.learn(20, reset_num_timesteps=False)
    model.save_checkpoint(tmp_path)
    model.learn(60)  # a new count of steps
    model.save_checkpoint(tmp_path)
    resumed = CustomDDPG.resume(tmp_path, "Pendulum-v1").replay_buffer
    assert isinstance(resumed, RowReplayBuffer)
    assert resumed.pos == 181
    np.testing.assert_array_equal(resumed._rows, buffer._rows)


def test_a_dataset_in_place_of_the_arrays(tmp_path: Path) -> None:
    model = small(gradient_steps=0).learn(40)
    buffer = model.replay_buffer
    assert isinstance(buffer, RowReplayBuffer)
    buffer.rewards = np.full((120, 1), 0.1)  # float64
    model.save_checkpoint(tmp_path)
    resumed = CustomDDPG.resume(tmp_path, "Pendulum-v1").replay_buffer
    assert isinstance(resumed, RowReplayBuffer)
    assert resumed.rewards.dtype == np.float64
    for name in ("observations", "rewards", "actions", "dones"):
        np.testing.assert_array_equal(vars(resumed)[name][:40], vars(buffer)[name][:40])


class CheckpointAtStep(BaseCallback):
    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.directory = directory

    def _on_step(self) -> bool:
        model: Any = self.model
        model.save_checkpoint(self.directory)
        return True


def test_a_checkpoint_in_the_middle_of_a_step_is_refused(tmp_path: Path) -> None:
    model = small()
    with pytest.raises(CheckpointError, match="in the middle of a step"):
        model.learn(10, callback=CheckpointAtStep(tmp_path))
    with pytest.raises(CheckpointError, match="in the middle of a step"):
        model.save_checkpoint(tmp_path)
    model.learn(10)
    model.save_checkpoint(tmp_path)


@pytest.mark.parametrize(("every", "keep"), [(0, 2), (10, 0)])
def test_wrong_arguments(every: int, keep: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 or more"):
        ResumableCheckpointCallback(tmp_path, every, keep)


def test_another_environment_is_refused(tmp_path: Path) -> None:
    small(VecNormalize(make_vec_env("Pendulum-v1", 2))).learn(50).save_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="made with 2 environments, got 1"):
        CustomDDPG.resume(tmp_path, "Pendulum-v1")
    with pytest.raises(CheckpointError, match="had the VecEnv wrappers VecNormalize; this one has none"):
        CustomDDPG.resume(tmp_path, make_vec_env("Pendulum-v1", 2))
    with pytest.raises(ValueError, match="Observation spaces do not match"):
        CustomDDPG.resume(tmp_path, VecNormalize(make_vec_env("MountainCarContinuous-v0", 2)))


@pytest.mark.parametrize("seed", [0, None])
@pytest.mark.parametrize("steps", [0, 50])
def test_a_checkpoint_between_two_calls_of_learn(steps: int, seed: int | None, tmp_path: Path) -> None:
    model = CustomDDPG("MlpPolicy", make_vec_env("Pendulum-v1", seed=0), seed=seed, **SMALL)
    if steps:
        model.learn(steps)
    model.save_checkpoint(tmp_path)
    model.learn(100, reset_num_timesteps=False)
    resumed = CustomDDPG.resume(tmp_path, "Pendulum-v1").learn(100, reset_num_timesteps=False)
    expected = model.policy.state_dict()
    for name, weights in resumed.policy.state_dict().items():
        np.testing.assert_array_equal(weights, expected[name], err_msg=name)


@pytest.mark.parametrize("kwargs", [{"n_steps": 3}, {"fused": False, "n_steps": 3}])
def test_an_episode_that_cannot_be_put_back(kwargs: dict[str, Any], tmp_path: Path) -> None:
    small(make_vec_env(Forgetful, seed=0), **kwargs).learn(100).save_checkpoint(tmp_path)
    with pytest.warns(UserWarning, match="new episodes.*observations or rewards were different"):
        resumed = CustomDDPG.resume(tmp_path, make_vec_env(Forgetful, seed=0))
    buffer: Any = resumed.replay_buffer
    assert (buffer.dones[99], buffer.timeouts[99]) == (1, 1)  # returns over three steps end there
    resumed.learn(100, reset_num_timesteps=False)
    assert resumed.num_timesteps == 200


@pytest.mark.slow
def test_an_environment_in_a_process_without_a_wrapper(tmp_path: Path) -> None:
    env = SubprocVecEnv([Wandering])
    small(env).learn(50).save_checkpoint(tmp_path)
    with pytest.warns(UserWarning, match="needs a wrapper such as SB3's Monitor"):
        CustomDDPG.resume(tmp_path, env).learn(20, reset_num_timesteps=False)
    env.close()


def test_an_environment_without_a_wrapper(tmp_path: Path) -> None:
    small(DummyVecEnv([Wandering])).learn(50).save_checkpoint(tmp_path)
    CustomDDPG.resume(tmp_path, DummyVecEnv([Wandering])).learn(20, reset_num_timesteps=False)


def test_monitors_do_not_see_that_an_episode_is_played_again(tmp_path: Path) -> None:
    def env(**kwargs: Any) -> Any:
        return make_vec_env("Pendulum-v1", monitor_dir=str(tmp_path / "monitor"), seed=0, monitor_kwargs=kwargs)

    model = small(env()).learn(450)
    model.save_checkpoint(tmp_path / "checkpoints")
    written = (tmp_path / "monitor" / "0.monitor.csv").read_text()
    before: Any = model.get_env().envs[0]  # type: ignore[union-attr]
    resumed = CustomDDPG.resume(tmp_path / "checkpoints", env(override_existing=False))
    after: Any = resumed.get_env().envs[0]  # type: ignore[union-attr]
    assert (tmp_path / "monitor" / "0.monitor.csv").read_text() == written
    for name in ("episode_returns", "episode_lengths", "total_steps", "rewards"):
        assert vars(after)[name] == vars(before)[name], name
    resumed.learn(200, reset_num_timesteps=False)
    rows = (tmp_path / "monitor" / "0.monitor.csv").read_text().splitlines()
    assert [row.split(",")[1] for row in rows[2:]] == ["200", "200", "200"]
    for each in (model, resumed):
        each.get_env().close()  # type: ignore[union-attr]


class Counting(BaseCallback):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def _on_step(self) -> bool:
        self.count += 1
        return True

    def get_state(self) -> dict[str, int]:
        return {"count": self.count}

    def set_state(self, state: dict[str, int]) -> None:
        self.count = state["count"]


class LongAgo(BaseCallback):
    def _on_training_start(self) -> None:
        self.model.start_time -= int(50e9)

    def _on_step(self) -> bool:
        return True


def test_callbacks_and_the_log_go_on(tmp_path: Path) -> None:
    ours = Counting()
    model = small()
    model.learn(400, callback=[ours, LongAgo(), ResumableCheckpointCallback(tmp_path, every=100)])
    goes_on, new = Counting(), StopTrainingOnNoModelImprovement(3)
    new._on_step = lambda: True  # type: ignore[method-assign]
    resumed = CustomDDPG.resume(tmp_path, "Pendulum-v1")
    resumed.learn(10, callback=[new, goes_on], reset_num_timesteps=False)
    assert goes_on.count == 410
    assert (time.time_ns() - resumed.start_time) / 1e9 > 50
    assert resumed._num_timesteps_at_start == 0
    assert resumed.ep_info_buffer is not None
    assert [info["l"] for info in resumed.ep_info_buffer] == [200, 200]


def test_noise_that_was_chosen_after_resuming(tmp_path: Path) -> None:
    small().learn(100).save_checkpoint(tmp_path)
    resumed = CustomDDPG.resume(tmp_path, "Pendulum-v1")
    resumed.action_noise = None
    with pytest.warns(UserWarning, match="does not explore"):
        resumed.learn(20, reset_num_timesteps=False)


DATA = [
    *(None, True, 3, 2**200, 0.1, float("inf"), "text", (1, (2.0, "a")), [], {"a": {}}, {1: "one", "x": (2,)}),
    *(np.arange(6.0).reshape(2, 3), np.float32(0.1), np.zeros((0, 3)), np.array(["a", "bc"])),
]


@pytest.mark.parametrize("value", DATA, ids=repr)
def test_data_come_back_as_they_were(value: Any) -> None:
    arrays: dict[str, np.ndarray] = {}
    decoded = decode(json.loads(json.dumps(encode(value, arrays))), arrays)
    assert type(decoded) is type(value)
    assert repr(decoded) == repr(value)


@pytest.mark.parametrize("value", [object(), [lambda: 0], np.array([object()]), {"a": {1, 2}}], ids=range(4))
def test_what_is_no_data(value: Any) -> None:
    assert not is_data(value)
