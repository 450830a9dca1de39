"""Replay buffers, and VecNormalize statistics: they come back as they were, and nothing in a stranger's file is run."""

import copy
import hashlib
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from damages import Bomb, members
from gymnasium import spaces
from stable_baselines3 import DDPG, HerReplayBuffer
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_ddpg_ext import CustomDDPG, PrioritizedReplayBuffer, load_vecnormalize, save_vecnormalize
from sb3_ddpg_ext.checkpoint import CheckpointError
from sb3_ddpg_ext.errors import SavedFileError, UntrustedFileError


class Goals(gym.Env):  # type: ignore[type-arg]
    """A goal-conditioned environment."""

    observation_space = spaces.Dict(
        {name: spaces.Box(-1, 1, (2,)) for name in ("observation", "achieved_goal", "desired_goal")}
    )
    action_space = spaces.Box(-1, 1, (2,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self._observe(), float(self.np_random.random()), False, self.steps == 9, {"note": self.steps}

    def _observe(self) -> dict[str, Any]:
        return {key: self.np_random.uniform(-1, 1, 2).astype(np.float32) for key in self.observation_space}

    def compute_reward(self, achieved: Any, desired: Any, infos: Any) -> Any:
        return -np.linalg.norm(achieved - desired, axis=-1)


BUFFERS: dict[str, dict[str, Any]] = {
    "rows": {},
    "full": {"buffer_size": 40},
    "n-step": {"n_steps": 3},
    "two environments": {"n_envs": 2},
    "SB3's": {"replay_buffer_class": ReplayBuffer},
    "SB3's, optimized": {
        "replay_buffer_class": ReplayBuffer,
        "optimize_memory_usage": True,
        "replay_buffer_kwargs": {"handle_timeout_termination": False},
    },
    "compact": {"optimize_memory_usage": True},
    "compact, full": {"optimize_memory_usage": True, "buffer_size": 80, "n_envs": 2},
    "prioritized": {"replay_buffer_class": PrioritizedReplayBuffer, "replay_buffer_kwargs": {"alpha": 0.5, "eps": 0.1}},
    "prioritized, full": {"replay_buffer_class": PrioritizedReplayBuffer, "buffer_size": 80, "n_envs": 2, "n_steps": 3},
    "Dict": {"goals": True},
    "Dict, n-step": {"goals": True, "n_steps": 3, "n_envs": 2},
    "HER": {"goals": True, "replay_buffer_class": HerReplayBuffer, "replay_buffer_kwargs": {"n_sampled_goal": 2}},
}


def make(
    n_envs: int = 1, goals: bool = False, algorithm: Any = CustomDDPG, buffer_size: int = 200, **kwargs: Any
) -> Any:
    env = DummyVecEnv([Goals if goals else lambda: gym.make("Pendulum-v1")] * n_envs)
    policy = "MultiInputPolicy" if goals else "MlpPolicy"
    return algorithm(
        policy,
        env,
        buffer_size=buffer_size,
        learning_starts=20,
        batch_size=8,
        policy_kwargs={"net_arch": [4]},
        seed=0,
        **kwargs,
    )


def samples(model: Any) -> list[Any]:
    np.random.seed(1)  # noqa: NPY002 (SB3's generator)
    batch = model.replay_buffer.sample(64, env=None)
    flat = [list(part.values()) if isinstance(part, dict) else [part] for part in batch if part is not None]
    return [np.asarray(tensor) for part in flat for tensor in part]


@pytest.mark.parametrize("case", BUFFERS)
def test_a_buffer_comes_back(case: str, tmp_path: Path) -> None:
    kwargs = BUFFERS[case]
    model = make(**copy.deepcopy(kwargs)).learn(90)
    model.save_replay_buffer(tmp_path / "buffer")
    assert zipfile.is_zipfile(tmp_path / "buffer.pkl")
    other = make(**copy.deepcopy(kwargs))
    other.load_replay_buffer(tmp_path / "buffer", truncate_last_traj=False)
    assert type(other.replay_buffer) is type(model.replay_buffer)
    for expected, got in zip(samples(model), samples(other), strict=True):
        np.testing.assert_array_equal(expected, got)
    for each in (model, other):  # and goes on being filled
        each.env.seed(3)
        each.learn(30, reset_num_timesteps=False)
    assert model.replay_buffer.pos == other.replay_buffer.pos
    assert model.replay_buffer.full == other.replay_buffer.full


def test_a_buffer_file_is_as_large_as_what_is_in_it(tmp_path: Path) -> None:
    model = make(buffer_size=1_000_000).learn(30)
    model.save_replay_buffer(tmp_path / "buffer.pkl")
    assert (tmp_path / "buffer.pkl").stat().st_size < 10_000


def test_what_cannot_be_written_is_pickled_and_needs_trust(tmp_path: Path) -> None:
    her = {"replay_buffer_class": HerReplayBuffer, "replay_buffer_kwargs": {"copy_info_dict": True}}
    for algorithm, kwargs in ((CustomDDPG, {"goals": True, **her}), (DDPG, {})):
        model = make(algorithm=algorithm, **copy.deepcopy(kwargs)).learn(30)
        model.save_replay_buffer(tmp_path / "buffer")
        other = make(**copy.deepcopy(kwargs))
        with pytest.raises(UntrustedFileError, match=r"is a pickle.*trusted=True"):
            other.load_replay_buffer(tmp_path / "buffer")
        other.load_replay_buffer(tmp_path / "buffer", truncate_last_traj=False, trusted=True)
        assert other.replay_buffer.pos == 30


def rewritten(file: Path, **changes: bytes | None) -> None:
    """Pack a buffer's file again, with a checksum of its JSON that fits if that was changed."""
    if "buffer.json" in changes:
        changes["buffer.sha256"] = hashlib.sha256(changes["buffer.json"] or b"").hexdigest().encode()
    content = members(file) | changes
    with zipfile.ZipFile(file, "w") as archive:
        for name, value in content.items():
            if value is not None:
                archive.writestr(name, value)


def test_payloads_in_a_buffer_are_not_run(tmp_path: Path) -> None:
    model, canary = make().learn(30), tmp_path / "canary"
    payload = pickle.dumps(Bomb(canary))
    objects = tmp_path / "objects.npy"
    np.save(objects, np.array([Bomb(canary)], dtype=object), allow_pickle=True)
    (tmp_path / "buffer").write_bytes(payload)
    with pytest.raises(UntrustedFileError):
        model.load_replay_buffer(tmp_path / "buffer")
    model.save_replay_buffer(tmp_path / "good")
    for member in ("buffer.json", "0.npy"):
        for content in (payload, objects.read_bytes()):
            (tmp_path / "bad").write_bytes((tmp_path / "good.pkl").read_bytes())
            rewritten(tmp_path / "bad", **{member: content})
            with pytest.raises(SavedFileError):
                model.load_replay_buffer(tmp_path / "bad")
    assert not canary.exists()
    pickle.loads(payload)
    assert canary.exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pos", -1),
        ("pos", 10**6),
        ("pos", 3),
        ("full", 1),
        ("buffer_size", 2**50),
        ("buffer_size", 0),
        ("n_envs", 2),
        ("gamma", 2),
        ("x", 2),
    ],
)
def test_settings_of_a_buffer_are_checked(name: str, value: Any, tmp_path: Path) -> None:
    model = make(n_steps=2).learn(30)
    model.save_replay_buffer(tmp_path / "buffer")
    with zipfile.ZipFile(tmp_path / "buffer.pkl") as archive:
        content = json.loads(archive.read("buffer.json"))
    content["settings"][name] = value
    rewritten(tmp_path / "buffer.pkl", **{"buffer.json": json.dumps(content).encode()})
    with pytest.raises(SavedFileError, match=r"buffer.*: it does not hold such a buffer"):
        model.load_replay_buffer(tmp_path / "buffer")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda buffer: buffer._free.append(10**6), "a kept observation is missing"),
        (lambda buffer: buffer._free.append(0), "a kept observation is missing"),
        (lambda buffer: buffer._free.append(0.5), "a kept observation is missing"),
        (lambda buffer: buffer._place.__setitem__(3, 10**6), "a kept observation is missing"),
        (lambda buffer: buffer._place.__setitem__(3, -2), "a kept observation is missing"),
        (lambda buffer: setattr(buffer, "_kept", buffer._kept[:0]), "not those of its spaces"),
        (lambda buffer: setattr(buffer, "_kept", buffer._kept[:-1]), "not those of its spaces"),
        (lambda buffer: setattr(buffer, "_kept", buffer._kept.astype(np.float64)), "not those of its spaces"),
        (lambda buffer: buffer._kept.fill(np.nan), "not finite"),
    ],
)
def test_kept_observations_are_checked(edit: Any, message: str, tmp_path: Path) -> None:
    model = make(optimize_memory_usage=True).learn(30)
    edit(model.replay_buffer)
    model.save_replay_buffer(tmp_path / "buffer")
    with pytest.raises(SavedFileError, match=f"it does not hold such a buffer: .*{message}"):
        make(optimize_memory_usage=True).load_replay_buffer(tmp_path / "buffer")
    model.save_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        CustomDDPG.resume(tmp_path, gym.make("Pendulum-v1"))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda buffer: buffer.scaled_priorities.__setitem__((3, 0), -1), "a priority is not positive and finite"),
        (lambda buffer: buffer.scaled_priorities.__setitem__((3, 0), 0), "a priority is not positive and finite"),
        (lambda buffer: buffer.scaled_priorities.__setitem__((3, 0), np.nan), "not finite|not positive and finite"),
        (lambda buffer: buffer.scaled_priorities.__setitem__((3, 0), np.inf), "not finite|not positive and finite"),
        (lambda buffer: setattr(buffer, "alpha", 2), "the largest priority is out of its range"),
        (lambda buffer: setattr(buffer, "beta", -1), "the largest priority is out of its range"),
        (lambda buffer: setattr(buffer, "eps", 0.0), "the largest priority is out of its range"),
        (lambda buffer: setattr(buffer, "max_priority", -1.0), "the largest priority is out of its range"),
    ],
)
def test_priorities_are_checked(edit: Any, message: str, tmp_path: Path) -> None:
    kwargs = {"replay_buffer_class": PrioritizedReplayBuffer}
    model = make(**kwargs).learn(30)
    edit(model.replay_buffer)
    model.save_replay_buffer(tmp_path / "buffer")
    with pytest.raises(SavedFileError, match=f"it does not hold such a buffer: .*({message})"):
        make(**kwargs).load_replay_buffer(tmp_path / "buffer")
    model.save_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        CustomDDPG.resume(tmp_path, gym.make("Pendulum-v1"))


def test_a_priority_without_a_transition_is_noticed(tmp_path: Path) -> None:
    model = make(replay_buffer_class=PrioritizedReplayBuffer).learn(30)
    model.replay_buffer.scaled_priorities[30] = 1  # in a file, there is one row more than transitions
    model.save_replay_buffer(tmp_path / "buffer")
    with pytest.raises(SavedFileError, match="there is a priority without a transition"):
        model.load_replay_buffer(tmp_path / "buffer")


def test_a_buffer_of_another_model_is_refused(tmp_path: Path) -> None:
    make(n_steps=2).learn(30).save_replay_buffer(tmp_path / "buffer")
    with pytest.raises(SavedFileError, match=r"it is a .*RowNStepReplayBuffer, and the model has a .*RowReplayBuffer"):
        make().load_replay_buffer(tmp_path / "buffer")
    rows = make().learn(30)
    rows.replay_buffer._rows[3, 0, 1] = np.nan
    rows.save_replay_buffer(tmp_path / "buffer")
    with pytest.raises(SavedFileError, match="not finite"):
        make().load_replay_buffer(tmp_path / "buffer")
    rewritten(tmp_path / "buffer.pkl", **{"0.npy": None})
    with pytest.raises(SavedFileError, match="no member"):
        make().load_replay_buffer(tmp_path / "buffer")


@pytest.mark.parametrize("case", ["rows", "compact", "prioritized", "Dict"])
def test_a_flipped_bit_of_a_buffer_is_noticed(case: str, tmp_path: Path) -> None:
    """Also if the file was packed again since then, so that zip's own checksums fit."""
    model, file = make(**copy.deepcopy(BUFFERS[case])).learn(30), tmp_path / "buffer.pkl"
    model.save_replay_buffer(file)
    whole, content = file.read_bytes(), members(file)
    for name, member in content.items():
        for place in (0, len(member) // 3, len(member) // 2, len(member) - 1):
            changed = bytearray(member)
            changed[place] ^= 1
            position = whole.index(member) + place
            for repacked in (False, True):
                file.write_bytes(whole)
                if repacked:
                    with zipfile.ZipFile(file, "w") as archive:
                        for each in content:
                            archive.writestr(each, bytes(changed) if each == name else content[each])
                else:
                    file.write_bytes(whole[:position] + changed[place : place + 1] + whole[position + 1 :])
                with pytest.raises(SavedFileError) as error:
                    make(**copy.deepcopy(BUFFERS[case])).load_replay_buffer(file)
                assert str(error.value).startswith(str(file)), (name, place, repacked)
                assert "\n" not in str(error.value)


# --- VecNormalize ---


def normalized(goals: bool = False, **kwargs: Any) -> VecNormalize:
    env = VecNormalize(DummyVecEnv([Goals if goals else lambda: gym.make("Pendulum-v1")]), **kwargs)
    env.reset()
    for _ in range(30):
        env.step(np.array([env.action_space.sample()]))
    return env


@pytest.mark.parametrize(
    "kwargs", [{}, {"norm_obs": False}, {"norm_reward": False, "clip_obs": 3}, {"goals": True}, {"gamma": 0.9}]
)
def test_statistics_come_back(kwargs: dict[str, Any], tmp_path: Path) -> None:
    env = normalized(**kwargs)
    save_vecnormalize(env, tmp_path / "statistics.json")
    env.save(tmp_path / "statistics.pkl")
    back = load_vecnormalize(tmp_path / "statistics.json", env.venv)
    theirs = load_vecnormalize(tmp_path / "statistics.pkl", env.venv, trusted=True)
    observations = {k: np.ones((1, 2)) for k in Goals.observation_space} if "goals" in kwargs else np.ones((1, 3))
    for a, b in ((back, env), (back, theirs)):
        np.testing.assert_equal(a.normalize_obs(observations), b.normalize_obs(observations))  # type: ignore[arg-type]
        np.testing.assert_array_equal(a.normalize_reward(np.ones(1)), b.normalize_reward(np.ones(1)))
        for name in ("training", "norm_obs", "norm_reward", "clip_obs", "clip_reward", "gamma", "epsilon"):
            assert getattr(a, name) == getattr(b, name)


def test_pickled_statistics_need_trust(tmp_path: Path) -> None:
    canary, file = tmp_path / "canary", tmp_path / "vecnormalize.pkl"
    file.write_bytes(pickle.dumps(Bomb(canary)))
    with pytest.raises(UntrustedFileError, match=r"vecnormalize\.pkl .*trusted=True"):
        load_vecnormalize(file, normalized().venv)
    assert not canary.exists()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: d["vecnormalize"].update(gamma="x"), "gamma must be a number"),
        (lambda d: d["vecnormalize"].update(training=1), "training must be True or False"),
        (lambda d: d["vecnormalize"].update(obs_rms=d["vecnormalize"]["ret_rms"]), r"of the shape \(\)"),
        (lambda d: d["vecnormalize"].update(obs_rms=None), "missing"),
        (lambda d: d["vecnormalize"]["obs_rms"].update(count=-1), "count cannot be"),
        (lambda d: d["vecnormalize"]["obs_rms"].update(var=d["vecnormalize"]["ret_rms"]["var"]), "of one shape"),
        (lambda d: d["vecnormalize"].pop("obs_rms"), "obs_rms"),
        (lambda d: d.update(format=2), "another version"),
        (lambda d: d.clear(), "format"),
    ],
)
def test_statistics_are_checked(edit: Any, message: str, tmp_path: Path) -> None:
    env, file = normalized(), tmp_path / "statistics.json"
    save_vecnormalize(env, file)
    document = json.loads(file.read_text())
    edit(document)
    if "vecnormalize" in document:
        text = json.dumps(document["vecnormalize"])
        document["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    file.write_text(json.dumps(document))
    with pytest.raises(SavedFileError, match=message) as error:
        load_vecnormalize(file, env.venv)
    assert str(file) in str(error.value)
    save_vecnormalize(env, file)
    file.write_text(file.read_text().replace('"clip_obs": 10', '"clip_obs": 20'))
    with pytest.raises(SavedFileError, match="another checksum"):
        load_vecnormalize(file, env.venv)
    file.write_text("{")
    with pytest.raises(SavedFileError, match="not valid JSON"):
        load_vecnormalize(file, env.venv)
