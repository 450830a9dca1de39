"""What is not finite is named with its environment, component and step, before it is stored."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import optuna
import pytest
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize

from sb3_ddpg_ext import CustomDDPG
from sb3_ddpg_ext.errors import NonFiniteError

SMALL: dict[str, Any] = {
    "learning_starts": 20,
    "batch_size": 8,
    "buffer_size": 500,
    "policy_kwargs": {"net_arch": [8]},
    "seed": 0,
}


class Broken(gym.Wrapper):
    """
    Returns one number that is not finite.

    :param env: An environment with flat observations
    :param step: In this step of the environment, counted over episodes; 0 for the first reset, -1 for the second one
    :param value: What is put in
    :param reward: Whether it is the reward instead of the observation
    """

    def __init__(self, env: gym.Env, step: int, value: float = np.nan, reward: bool = False) -> None:
        super().__init__(env)
        self.broken, self.value, self.reward = step, value, reward
        self.n_steps = self.n_resets = 0

    def _break(self, observation: np.ndarray) -> np.ndarray:
        observation = observation.copy()
        observation[1] = self.value
        return observation

    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.n_steps += 1
        if self.n_steps == self.broken:
            return (observation, self.value, terminated, truncated, info) if self.reward else (
                self._break(observation), reward, terminated, truncated, info
            )  # fmt: skip
        return observation, reward, terminated, truncated, info

    def reset(self, **kwargs: Any) -> Any:
        observation, info = self.env.reset(**kwargs)
        self.n_resets += 1
        return (self._break(observation) if self.broken == 1 - self.n_resets else observation), info


def two_environments(step: int, value: float = np.nan, reward: bool = False) -> Any:
    env = make_vec_env("Pendulum-v1", n_envs=2, env_kwargs={"max_episode_steps": 30})
    env.envs[1] = Broken(env.envs[1], step, value, reward)  # type: ignore[attr-defined]
    return env


WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "none": lambda env: env,
    "VecNormalize": VecNormalize,
    "VecNormalize of rewards": lambda env: VecNormalize(env, norm_obs=False),
    "VecNormalize that is frozen": lambda env: VecNormalize(env, training=False),
    "VecNormalize of stacked frames": lambda env: VecNormalize(VecFrameStack(env, 2)),
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS.keys())
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("step", "source", "at"),
    [(7, "step", 14), (30, "step", 60), (50, "step", 100), (0, "reset", 0), (-1, "reset", 60)],
    ids=["before learning", "the last of an episode", "while learning", "the first reset", "the second reset"],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of VecNormalize's statistics
def test_observations(wrap: Any, value: float, step: int, source: str, at: int) -> None:
    model = CustomDDPG("MlpPolicy", wrap(two_environments(step, value)), **SMALL)
    if step == 30 and np.isinf(value) and wrap not in (WRAPPERS["none"], WRAPPERS["VecNormalize of rewards"]):
        model.learn(70)  # the last observation of an episode is clipped by VecNormalize, and SB3 stores it so
        assert np.isfinite(model.replay_buffer.next_observations).all()
        return
    component = 4 if isinstance(model.env, VecNormalize) and model.observation_space.shape == (6,) else 1
    with pytest.raises(NonFiniteError) as raised:
        model.learn(200)
    assert str(raised.value) == (
        f"Environment 1 returned the observation {value} in component {component} from {source}() at step {at}; "
        "observations must be finite (stable_baselines3's VecCheckNan helps to find the cause)."
    )
    if source == "step":  # nothing of it was stored
        assert np.isfinite(model.replay_buffer.observations).all()
        assert np.isfinite(model.replay_buffer.next_observations).all()


class BrokenGoal(gym.Wrapper):
    def step(self, action: Any) -> Any:
        observation, *rest = self.env.step(action)
        return {**observation, "desired_goal": np.full(3, np.nan, dtype=np.float32)}, *rest


def test_dict_observations() -> None:
    env = BrokenGoal(BitFlippingEnv(n_bits=3, continuous=True))
    goals = {key: spaces.Box(-1, 1, (3,)) for key in env.observation_space.spaces}
    env.observation_space = spaces.Dict(goals)
    model = CustomDDPG("MultiInputPolicy", env, **SMALL)
    with pytest.raises(
        NonFiniteError, match=r"observation nan of 'desired_goal' in component 0 from step\(\) at step 1"
    ):
        model.learn(50)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_statistics_that_are_not_finite_are_named() -> None:
    env = VecNormalize(make_vec_env("Pendulum-v1"), training=False)
    env.obs_rms.mean = np.array([0.0, np.nan, 0.0])  # type: ignore[union-attr]
    with pytest.raises(NonFiniteError, match=r"component 1 from reset\(\) at step 0, normalised by VecNormalize"):
        CustomDDPG("MlpPolicy", env, **SMALL).learn(50)


@pytest.mark.parametrize("wrap", [WRAPPERS["none"], WRAPPERS["VecNormalize"]])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_rewards(wrap: Any) -> None:
    with pytest.raises(
        NonFiniteError, match=r"Environment 1 returned the reward nan at step 14; rewards must be finite"
    ):
        CustomDDPG("MlpPolicy", wrap(two_environments(7, reward=True)), **SMALL).learn(100)


def test_numbers_whose_squares_overflow_are_finite() -> None:
    class Large(gym.RewardWrapper):
        def reward(self, reward: Any) -> float:
            return float(reward) * 1e30

    CustomDDPG("MlpPolicy", Large(gym.make("Pendulum-v1")), **{**SMALL, "learning_starts": 100}).learn(50)


def test_images_are_not_looked_at() -> None:
    from sb3_ddpg_ext.guards import check_observations

    check_observations(np.zeros((2, 3), dtype=np.uint8), np.zeros(2, dtype=bool), 0, None)


def test_a_trial_that_diverges_is_pruned_as_with_sb3() -> None:
    """RL Zoo and Optuna's examples catch these two around `learn()`."""

    def objective(trial: optuna.Trial) -> float:
        try:
            CustomDDPG("MlpPolicy", "Pendulum-v1", learning_rate=1e30, **SMALL).learn(100)
        except (AssertionError, ValueError) as error:
            raise optuna.TrialPruned(str(error)) from error
        return 0.0

    study = optuna.create_study()
    study.optimize(objective, n_trials=2)
    assert [trial.state for trial in study.trials] == [optuna.trial.TrialState.PRUNED] * 2
