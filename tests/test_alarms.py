"""What lets training fail without any NaN is warned of once, with a remedy; what is in order is not."""

import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ddpg_ext import CustomDDPG
from sb3_ddpg_ext.building import make_env, make_model
from sb3_ddpg_ext.settings import load_settings

SMALL: dict[str, Any] = {"batch_size": 8, "buffer_size": 5000, "policy_kwargs": {"net_arch": [8]}, "seed": 0}
both_paths = pytest.mark.parametrize("fused", ["auto", False])


class Bounds(gym.Wrapper):
    """An environment that takes any action space."""

    def __init__(self, high: list[float]) -> None:
        super().__init__(gym.make("Pendulum-v1"))
        self.action_space = spaces.Box(-np.array(high, np.float32), np.array(high, np.float32))

    def step(self, action: Any) -> Any:
        return self.env.step(np.clip(action[:1], -2, 2))


def messages(model: CustomDDPG, steps: int, calls: int = 2) -> list[str]:
    """What is warned of in several calls of `learn`."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(calls):
            model.learn(steps, reset_num_timesteps=False)
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize(
    ("high", "said"),
    [
        ([1e6], r"The action space is very wide (-1e+06 to 1e+06)"),
        ([1.0, 1e5], r"The action space is very wide (-100000 to 100000)"),
        ([1.0, 2000.0], r"Component 1 of the action has a range 2,000 times that of component 0"),
    ],
)
def test_bounds(high: list[float], said: str) -> None:
    (message,) = messages(CustomDDPG("MlpPolicy", Bounds(high), **SMALL), 10)
    assert message.startswith(said)


class Scaled(gym.ObservationWrapper):
    def __init__(self, scale: float) -> None:
        super().__init__(gym.make("Pendulum-v1"))
        self.scale = scale
        self.observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)

    def observation(self, observation: Any) -> Any:
        return (observation * self.scale).astype(np.float32)


@both_paths
def test_observations(fused: Any) -> None:
    model = CustomDDPG("MlpPolicy", Scaled(1e5), fused=fused, **SMALL)
    (message,) = messages(model, 50)
    assert message.startswith("An observation has a component of size ")
    assert message.endswith("Scale it in the environment, or use VecNormalize (normalize: true).")


@pytest.mark.parametrize(("norm_obs", "number"), [(True, 0), (False, 1)])
def test_observations_with_vecnormalize(norm_obs: bool, number: int) -> None:
    env = VecNormalize(make_vec_env(lambda: Scaled(1e5)), norm_obs=norm_obs)
    assert len(messages(CustomDDPG("MlpPolicy", env, **SMALL), 50)) == number


def test_many_observations_of_moderate_size_are_no_large_ones() -> None:
    env = make_vec_env(lambda: Scaled(900), n_envs=40)  # up to 7,200; the sum of squares is above 10,000 squared
    assert messages(CustomDDPG("MlpPolicy", env, **{**SMALL, "learning_starts": 2000}), 800) == []


@both_paths
@pytest.mark.parametrize("bias", [10.0, -10.0])
def test_a_saturated_actor(fused: Any, bias: float) -> None:
    model = CustomDDPG("MlpPolicy", "Pendulum-v1", learning_rate=1e-9, fused=fused, **SMALL)
    with th.no_grad():
        model.actor.mu[-2].bias.fill_(bias)
    (message,) = messages(model, 5000, calls=1)
    assert message.startswith("1 of 1 components of the action have been at one bound, but for the noise, in 1")


def test_a_policy_that_goes_from_bound_to_bound_is_not_saturated() -> None:
    model = CustomDDPG("MlpPolicy", "Pendulum-v1", learning_rate=1e-9, **SMALL)
    with th.no_grad():
        for network in (model.actor.mu[0], model.actor.mu[-2]):
            network.weight.mul_(100)
    assert messages(model, 3000, calls=1) == []


@both_paths
def test_a_critic_that_diverges(fused: Any) -> None:
    model = CustomDDPG("MlpPolicy", "Pendulum-v1", learning_rate=1e-9, fused=fused, **SMALL)
    with th.no_grad():
        model.critic.q_networks[0][-1].bias.fill_(-1e6)  # as far as it gets when it diverges
    (message,) = messages(model, 900)
    assert message.startswith("The critic's values are -1e+06 on average at step 800, but rewards of at most 1")
    assert "Try a lower learning_rate, tau or gamma" in message


def test_rewards_that_grow_are_no_divergence() -> None:
    class Jackpot(gym.RewardWrapper):
        n = 0

        def reward(self, reward: Any) -> float:
            self.n += 1
            return 1000.0 * (self.n > 1000)

    model = CustomDDPG("MlpPolicy", Jackpot(gym.make("Pendulum-v1")), learning_rate=1e-2, **SMALL)
    assert not [message for message in messages(model, 3000, calls=1) if message.startswith("The critic")]


@pytest.mark.parametrize(
    "env_id", ["Pendulum-v1", "MountainCarContinuous-v0", "HalfCheetah-v5", "LunarLanderContinuous-v3"]
)
def test_no_false_alarms(env_id: str) -> None:
    changes = ["n_timesteps=2500", "learning_starts=500", "policy_kwargs={net_arch: [32, 32]}", "batch_size=32"]
    settings = load_settings("custom_ddpg", env_id, overrides=changes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Box2D
        warnings.simplefilter("error", UserWarning)
        model = make_model(settings, "custom_ddpg", make_env(env_id, settings, settings.n_envs, seed=0), seed=0)
        model.learn(settings.n_timesteps)
