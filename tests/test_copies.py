"""The observations and infos of a step are copies, as with SB3, whatever they hold."""

import copy
from collections import OrderedDict
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize

from sb3_ddpg_ext import CustomDDPG
from sb3_ddpg_ext.copies import Infos, Observations, copy_faster


class Mutable:
    def __init__(self) -> None:
        self.values = [1]


INFOS: list[dict[str, Any]] = [
    {},
    {"TimeLimit.truncated": False, "x": 1.5, "n": 3, "name": "a", "nothing": None, "npy": np.float64(2), "b": np.True_},
    {"array": np.arange(3)},
    {"nested": {"list": [1, 2]}, "x": 1.5},
    {"object": Mutable()},
    OrderedDict(x=1.0),
]


@pytest.mark.parametrize("info", INFOS, ids=lambda info: " ".join(info) or "empty")
def test_a_copy_is_a_deep_copy(info: dict[str, Any]) -> None:
    infos = Infos([{"first": 1}, info])
    copied = copy.deepcopy(infos)
    assert type(copied) is list
    assert repr(copied[1]).split(" at ")[0] == repr(info).split(" at ")[0]
    assert type(copied[1]) is type(info)
    assert copied[1] is not info
    for name, value in info.items():
        assert type(copied[1][name]) is type(value)
        if name in ("array", "nested", "object"):
            assert copied[1][name] is not value
    if "nested" in info:
        assert copied[1]["nested"]["list"] is not info["nested"]["list"]


def test_what_two_infos_share_is_still_shared() -> None:
    """As in a deep copy of SB3's list."""
    shared = [1]
    first, second = copy.deepcopy(Infos([{"shared": shared}, {"shared": shared}]))
    assert first["shared"] is second["shared"]
    assert first["shared"] is not shared


class OneInfo(gym.Wrapper[Any, Any, Any, Any]):
    """Returns the same dict at every step, and changes it."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.info: dict[str, Any] = {"steps": 0, "list": [0]}

    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, _ = self.env.step(action)
        self.info["steps"] += 1
        self.info["list"][0] += 1
        return observation, reward, terminated, truncated, self.info


class Keep(BaseCallback):
    def __init__(self) -> None:
        super().__init__()
        self.kept: list[dict[str, Any]] = []

    def _on_step(self) -> bool:
        (info,) = self.locals["infos"]
        self.kept.append(info)
        info["mine"] = True
        return True


def test_infos_that_are_kept_stay_as_they_were() -> None:
    callback = Keep()
    CustomDDPG("MlpPolicy", OneInfo(gym.make("Pendulum-v1")), learning_starts=100).learn(5, callback)
    assert [(info["steps"], info["list"]) for info in callback.kept] == [(n, [n]) for n in range(1, 6)]


def test_any_vectorized_environment_can_be_given() -> None:
    env = VecNormalize(make_vec_env("Pendulum-v1", n_envs=2))
    copy_faster(env)
    copy_faster(env)
    assert type(env.venv.buf_infos) is Infos
    env.reset()
    infos = env.step(np.zeros((2, 1)))[3]
    assert type(infos) is list
    assert infos == [{"TimeLimit.truncated": False}] * 2
    assert infos[0] is not env.venv.buf_infos[0]


def test_an_environment_in_other_processes_is_left_alone() -> None:
    env = SubprocVecEnv([lambda: gym.make("Pendulum-v1")])
    copy_faster(env)
    assert not hasattr(env, "buf_infos")
    env.close()


def test_what_others_have_put_there_stays() -> None:
    class Mine(list[Any]):
        pass

    env = DummyVecEnv([lambda: gym.make("Pendulum-v1")])
    env.buf_infos = Mine(env.buf_infos)
    copy_faster(env)
    assert type(env.buf_infos) is Mine


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "dict"])
def test_observations_that_are_kept_stay_as_they_were(env_id: str) -> None:
    def make() -> gym.Env[Any, Any]:
        env = gym.make("Pendulum-v1")
        if env_id == "dict":
            space = gym.spaces.Dict({"all": env.observation_space})
            env = gym.wrappers.TransformObservation(env, lambda observation: {"all": observation}, space)
        return env

    plain, copied = (make_vec_env(make, 2, seed=0) for _ in range(2))
    copy_faster(copied)
    assert type(copied.buf_obs) is Observations
    kept: list[list[Any]] = [[], []]
    for env, observations in zip((plain, copied), kept, strict=True):
        observations += [env.reset(), *[env.step(np.full((2, 1), 0.5))[0] for _ in range(3)]]
    for expected, got in zip(*kept, strict=True):
        assert type(got) is type(expected)
        assert repr(got) == repr(expected)
        if env_id == "Pendulum-v1":
            assert (got.dtype, got.flags.c_contiguous) == (expected.dtype, True)


def test_an_array_of_objects_is_copied_with_them() -> None:
    array = np.array([[1, 2], None], dtype=object)
    copied = copy.deepcopy(Observations({None: array}))
    assert type(copied) is OrderedDict
    assert copied[None][0] == [1, 2]
    assert copied[None][0] is not array[0]
