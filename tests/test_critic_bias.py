"""The critic's values beside the returns of the evaluations: worked out by hand, and in real runs."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from small_runs import TINY_PARAMS
from stable_baselines3 import DDPG, SAC, TD3
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize
from torch import nn

from sb3_ddpg_ext import CustomDDPG, critic_bias
from sb3_ddpg_ext.arguments import TrainArgs
from sb3_ddpg_ext.critic_bias import CriticBias, counted_steps, discounted_returns
from sb3_ddpg_ext.results.result_file import read_run
from sb3_ddpg_ext.training import train


class Rewards(gym.Env[Any, Any]):
    """Gives the same rewards in each episode. The observation is the number of the step."""

    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, rewards: list[float], *, cut_off: bool) -> None:
        self.rewards, self.cut_off = rewards, cut_off

    def reset(self, **_: Any) -> tuple[Any, dict[str, Any]]:
        self.n = 0
        return np.zeros(1, np.float32), {}

    def step(self, _: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward, self.n = self.rewards[self.n], self.n + 1
        ends = self.n == len(self.rewards)
        return np.full(1, self.n, np.float32), reward, ends and not self.cut_off, ends and self.cut_off, {}


def values_and_returns(env: VecEnv, slope: float, intercept: float, episodes: int = 2) -> tuple[float, float]:
    """:return: What is found for a critic with Q(s, a) = slope s + intercept, and a discount of 0.5"""
    model = CustomDDPG("MlpPolicy", env, gamma=0.5, policy_kwargs={"net_arch": []})
    (linear,) = model.critic.q_networks[0]  # type: ignore[misc]
    with th.no_grad():
        linear.weight[:] = th.tensor([[slope, 0.0]])
        linear.bias[:] = intercept
    bias = CriticBias(model)
    evaluate_policy(model, env, episodes, callback=lambda locals_, _: bias.see(locals_), warn=False)
    return bias.means()


@pytest.fixture
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(critic_bias, "_STEPS_BETWEEN_STATES", 1)


# --- By hand ---


@pytest.mark.usefixtures("every_step")
@pytest.mark.parametrize("n_envs", [1, 3])
def test_an_episode_that_terminates(n_envs: int) -> None:
    env = make_vec_env(lambda: Rewards([1.0, 2.0, 4.0], cut_off=False), n_envs)
    q_value, discounted_return = values_and_returns(env, slope=6, intercept=1)
    assert q_value == pytest.approx((1 + 7 + 13) / 3)
    assert discounted_return == pytest.approx((3 + 4 + 4) / 3)  # 1 + 1 + 1, 2 + 2, 4


@pytest.mark.usefixtures("every_step")
def test_after_a_time_limit_the_critic_says_what_would_follow() -> None:
    env = make_vec_env(lambda: Rewards([1.0, 0.0, 0.0, 2.0], cut_off=True))
    q_value, discounted_return = values_and_returns(env, slope=8, intercept=0)
    # In the first half of the episode, with Q = 32 of the fifth state: 1 + 2 / 8 + 32 / 16 and 2 / 4 + 32 / 8
    assert (q_value, discounted_return) == pytest.approx(((0 + 8) / 2, (3.25 + 4.5) / 2))


@pytest.mark.usefixtures("every_step")
def test_with_vec_normalize_both_are_in_terms_of_normalised_rewards() -> None:
    env = VecNormalize(make_vec_env(lambda: Rewards([2.0, 40.0], cut_off=False)), norm_obs=False, epsilon=0)
    env.training, env.ret_rms.var = False, np.array(4.0)
    model_env = VecNormalize(make_vec_env(lambda: Rewards([2.0, 40.0], cut_off=False)), norm_obs=False, epsilon=0)
    model_env.ret_rms.var = np.array(4.0)
    env.norm_reward = False  # as in evaluations
    model = CustomDDPG("MlpPolicy", model_env, gamma=0.5)
    bias = CriticBias(model)
    evaluate_policy(model, env, 1, callback=lambda locals_, _: bias.see(locals_), warn=False)
    assert bias.means()[1] == pytest.approx((6 + 10) / 2)  # 2 / 2 + 10 / 2 and 10: 40 / 2 is clipped


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=30), st.floats(0, 1), st.floats(-10, 10))
def test_the_first_return_is_the_sum_of_discounted_rewards(rewards: list[float], gamma: float, last: float) -> None:
    expected = sum(gamma**k * reward for k, reward in enumerate([*rewards, last]))
    assert discounted_returns(rewards, gamma, last)[0] == pytest.approx(expected)


@given(st.integers(1, 300))
def test_some_step_of_each_episode_counts(length: int) -> None:
    assert counted_steps(length, cut_off=False)[-1] < length
    assert 2 * counted_steps(length, cut_off=True)[-1] <= length


def test_the_states_are_those_of_the_steps() -> None:
    env = make_vec_env(lambda: Rewards([0.0] * 25, cut_off=False))
    assert values_and_returns(env, slope=1, intercept=0)[0] == pytest.approx((0 + 10 + 20) / 3)


def test_which_algorithms() -> None:
    kwargs: Any = {"policy": "MlpPolicy", "env": "Pendulum-v1", "buffer_size": 10, "policy_kwargs": {"net_arch": [4]}}
    assert [CriticBias.is_defined_for(algorithm(**kwargs)) for algorithm in (CustomDDPG, DDPG, TD3, SAC)] == [
        *(True, True, True),
        False,
    ]


def test_of_several_networks_the_smallest_value_counts() -> None:
    env = make_vec_env(lambda: Rewards([0.0], cut_off=False))
    model = TD3("MlpPolicy", env, buffer_size=10, policy_kwargs={"net_arch": []})
    for network, value in zip(model.critic.q_networks, (5.0, 3.0), strict=True):
        nn.init.zeros_(network[0].weight)  # type: ignore[index,arg-type]
        nn.init.constant_(network[0].bias, value)  # type: ignore[index,arg-type]
    bias = CriticBias(model)
    evaluate_policy(model, env, 1, callback=lambda locals_, _: bias.see(locals_), warn=False)
    assert bias.means() == (3.0, 0.0)


def test_dict_observations() -> None:
    env = DummyVecEnv([lambda: BitFlippingEnv(n_bits=3, continuous=True)] * 2)
    model = CustomDDPG("MultiInputPolicy", env, gamma=0.9, buffer_size=10)
    bias = CriticBias(model)
    evaluate_policy(model, env, 4, callback=lambda locals_, _: bias.see(locals_), warn=False)
    assert np.isfinite(bias.means()).all()


# --- In runs ---


def run(tmp_path: Path, *params: str, **kwargs: Any) -> Path:
    args = {"env": "Pendulum-v1", "steps": 200, "eval_freq": 100, "eval_episodes": 2, "quiet": True, **kwargs}
    return train(TrainArgs(**{**args, "log_dir": tmp_path, "params": (*TINY_PARAMS, *params)})).directory


@pytest.mark.parametrize(("algo", "params"), [("custom_ddpg", ("normalize=true",)), ("ddpg", ()), ("td3", ())])
def test_evaluations_are_otherwise_what_they_were(
    algo: str, params: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_values = run(tmp_path, *params, algo=algo)
    monkeypatch.setattr(CriticBias, "is_defined_for", lambda _: False)
    without = run(tmp_path, *params, algo=algo)
    with np.load(with_values / "evaluations.npz") as ours, np.load(without / "evaluations.npz") as sb3s:
        assert {*ours} - {*sb3s} == {"q_values", "discounted_returns"}
        for name in sb3s:
            assert np.array_equal(ours[name], sb3s[name])
        assert ours["q_values"].shape == ours["discounted_returns"].shape == (2,)
        assert np.isfinite(ours["q_values"]).all()
    scores = [read_run(directory).score for directory in (with_values, without)]
    assert np.array_equal(scores[0].returns, scores[1].returns)  # type: ignore[union-attr]


def test_an_entropy_is_not_compared(tmp_path: Path) -> None:
    with np.load(run(tmp_path, algo="sac") / "evaluations.npz") as evaluations:
        assert "q_values" not in evaluations


def test_a_critic_that_is_called_in_another_way_does_not_end_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Any) -> Any:
        raise RuntimeError("not so")

    monkeypatch.setattr(CriticBias, "means", refuse)
    with pytest.warns(UserWarning, match="not compared with returns: not so") as caught:
        directory = run(tmp_path)
    assert len(caught) == 1
    assert read_run(directory).is_finished
