"""Environments for the comparison's tests, which its worker processes import by name."""

import os
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium.envs.classic_control import PendulumEnv
from stable_baselines3.common.callbacks import BaseCallback


class Quick(PendulumEnv):
    """Pendulum with short episodes. Remembers what it was asked for, over all of its instances."""

    steps = 0
    seeds: list[int] = []  # noqa: RUF012

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        if seed is not None:
            Quick.seeds.append(seed)
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> Any:
        Quick.steps += 1
        return super().step(action)


class Remembering(Quick):
    """Keeps something over its episodes, so that one cannot be played again."""

    episodes = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.episodes += 1
        observation, info = super().reset(seed=seed, options=options)
        return observation / self.episodes, info


BEGUN = Path("begun")


class Slow(Quick):
    """Says in a file with which seed training begins, and in which process, and takes its time."""

    pause = 0.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        if seed is not None and seed < 1_000_000:
            self.pause = 0.003
            with BEGUN.open("a") as log:
                log.write(f"{seed} {os.getpid()}\n")
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> Any:
        time.sleep(self.pause)
        return super().step(action)


class Together(Slow):
    """Begins with the first training when there is a second one."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        result = super().reset(seed=seed, options=options)
        while self.pause and len(BEGUN.read_text().splitlines()) < 2:
            time.sleep(0.01)
        return result


class Nan(Quick):
    """Has no reward, but for the first step, at which every environment is looked at before anything begins."""

    n_steps = 0

    def step(self, action: Any) -> Any:
        self.n_steps += 1
        observation, reward, *rest = super().step(action)
        return observation, reward if self.n_steps == 1 else float("nan"), *rest


class Crash(Quick):
    """Raises after a while."""

    n = 0

    def step(self, action: Any) -> Any:
        self.n += 1
        if self.n > 150:
            raise RuntimeError("the simulator\nhas exploded")
        return super().step(action)


class Exit(Quick):
    """Ends the process in the midst of training."""

    n = 0

    def step(self, action: Any) -> Any:
        self.n += 1
        if self.n > 150:
            sys.exit(3)
        return super().step(action)


class Explode(BaseCallback):
    """A callback with an error of its own."""

    def _on_step(self) -> bool:
        raise RuntimeError("the callback\nhas exploded")


for env in (Quick, Remembering, Slow, Together, Nan, Crash, Exit):
    gym.register(f"{env.__name__}-v0", f"{__name__}:{env.__name__}", max_episode_steps=20, disable_env_checker=True)
