"""Environments with one fault each, which commands import by name: ``faulty_envs:Faulty-v0`` with ``env_kwargs``."""

import multiprocessing
import os
import signal
import sys
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.classic_control import PendulumEnv


class Faulty(PendulumEnv):
    """
    :param fault: What is wrong
    :param at: In this step, counted over episodes
    """

    def __init__(self, fault: str = "none", at: int = 30, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.fault, self.at, self.n = fault, at, 0

    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = super().step(action)
        self.n += 1
        if self.n != self.at:
            return observation, reward, terminated, truncated, info
        match self.fault:
            case "raises":
                raise KeyError("no such\njoint")
            case "exits":
                sys.exit(3)
            case "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            case "scalar observation":
                observation = np.float32(0.5)
            case "short observation":
                observation = observation[:1]
            case "text observation":
                observation = "upright"
            case "no observation":
                observation = None
            case "array reward":
                reward = np.array([reward])
            case "no reward":
                reward = None
            case "text reward":
                reward = "high"
            case "no terminated":
                terminated = None
            case "no info":
                info = None
            case "four values":
                return observation, reward, terminated, info
            case "one value":
                return None
        return observation, reward, terminated, truncated, info

    def reset(self, **kwargs: Any) -> Any:
        observation, info = super().reset(**kwargs)
        if self.n == 0 or not self.fault.startswith("reset"):
            return observation, info
        match self.fault:
            case "reset raises":
                raise RuntimeError("cannot reset")
            case "reset returns one value":
                return observation
            case "reset returns no info":
                return observation, None
            case _:
                return observation[:2], info


class OldApi(PendulumEnv):
    """Returns four values and an array as reward, as long ago."""

    def step(self, action: Any) -> Any:
        observation, reward, terminated, _, info = super().step(action)
        return observation, np.array([reward]), terminated, info


class NewApi(gym.Wrapper):
    """Makes a good environment of an old one."""

    def step(self, action: Any) -> Any:
        returned: Any = self.env.step(action)
        observation, reward, terminated, info = returned
        return observation, float(reward[0]), terminated, False, info


class ClosesBadly(Faulty):
    """Cannot be closed after its first step."""

    def close(self) -> None:
        if self.n:
            raise ConnectionError("the simulator is gone")


class OnlyHere(PendulumEnv):
    """Cannot be made in another process."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if multiprocessing.current_process().name.startswith("ForkServerProcess"):
            raise OSError("port 5000 is in use")


class Levels(gym.Wrapper):
    """Rewards are the level, which a callback sets."""

    level = 0

    def step(self, action: Any) -> Any:
        observation, _, *rest = self.env.step(action)
        return observation, float(self.level), *rest


class FaultyWrapper(gym.Wrapper):
    """A wrapper that raises."""

    n = 0

    def step(self, action: Any) -> Any:
        self.n += 1
        if self.n == 30:
            raise ZeroDivisionError("division by zero")
        return self.env.step(action)


class FaultyKeys(gym.ObservationWrapper):
    """A Dict observation that lacks a key after a while."""

    n = 0

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.observation_space = spaces.Dict({"a": env.observation_space, "b": env.observation_space})

    def observation(self, observation: Any) -> Any:
        self.n += 1
        return {"a": observation} if self.n == 31 else {"a": observation, "b": observation}


# Without Gymnasium's checker, whose complaints in the first step would be seen in place of ours
gym.register("Faulty-v0", Faulty, max_episode_steps=20, disable_env_checker=True)
gym.register("Adapted-v0", lambda **kwargs: NewApi(OldApi(**kwargs)), max_episode_steps=20, disable_env_checker=True)
for env in (ClosesBadly, OnlyHere):
    gym.register(f"{env.__name__}-v0", env, max_episode_steps=20, disable_env_checker=True)
