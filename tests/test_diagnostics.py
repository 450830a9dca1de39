"""What the log says of the networks: hand-worked numbers, any policy, and not a bit of training changes."""

import copy
import math
import random
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv, FakeImageEnv
from stable_baselines3.common.logger import KVWriter
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

from sb3_ddpg_ext import CustomDDPG, MlpPolicy, PrioritizedReplayBuffer, rollouts
from sb3_ddpg_ext.diagnostics import leaving_no_trace, minibatch_statistics, norms

NORMS = {f"train/{network}_{what}_norm" for network in ("actor", "critic") for what in ("grad", "weight")}
VALUES = {
    *("train/q_value_mean", "train/q_value_std", "train/target_q_value_mean", "train/target_q_value_std"),
    *("train/td_error", "train/actor_saturation", "train/actor_spread"),
}
DEAD = {"train/actor_dead_units", "train/critic_dead_units"}
SMALL: dict[str, Any] = {"batch_size": 8, "learning_starts": 20, "policy_kwargs": {"net_arch": [8]}, "seed": 0}


class Kept(KVWriter):
    """What was logged, row by row."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def write(self, key_values: dict[str, Any], *_: Any, **__: Any) -> None:
        self.rows.append(dict(key_values))

    def close(self) -> None:
        pass


def pendulum(limit: int = 30) -> gym.Env[Any, Any]:
    return gym.make("Pendulum-v1", max_episode_steps=limit)


def logged(model: CustomDDPG, steps: int = 61) -> list[dict[str, Any]]:
    """:return: The rows of the log that have statistics of the networks"""
    kept = Kept()

    def attach(locals_: dict[str, Any], _: Any) -> bool:
        formats = locals_["self"].logger.output_formats
        if kept not in formats:
            formats.append(kept)
        return True

    model.learn(steps, callback=attach, log_interval=1)
    return [row for row in kept.rows if "train/actor_weight_norm" in row]


def keys(model: CustomDDPG, **kwargs: Any) -> set[str]:
    (row,) = logged(model, **kwargs)  # the second one would be 1,000 updates later
    assert all(np.isfinite(value) for value in row.values())
    return row.keys() & (NORMS | VALUES | DEAD) | {key for key in row if key.startswith("train/q_")}


# --- The numbers ---


class Critic(nn.Module):
    """Q(s, a) = w (max(s, 0) + max(-1, 0) + a)"""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight, self.relu = nn.Parameter(th.tensor(weight)), nn.ReLU()

    def forward(self, observations: th.Tensor, actions: th.Tensor) -> tuple[th.Tensor, ...]:
        units = self.relu(th.cat([observations, -th.ones_like(observations)], dim=1))
        return (self.weight * (units.sum(dim=1, keepdim=True) + actions),)


class Actor(nn.Module):
    """mu(s) = tanh(v s)"""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(th.tensor(weight))

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return th.tanh(self.weight * observations)


def by_hand() -> tuple[Any, ReplayBufferSamples]:
    networks = SimpleNamespace(
        actor=Actor(4.0), actor_target=Actor(0.0), critic=Critic(2.0), critic_target=Critic(10.0)
    )
    batch = ReplayBufferSamples(
        observations=th.tensor([[1.0], [0.5]]),
        actions=th.tensor([[0.0], [1.0]]),
        next_observations=th.tensor([[1.0], [2.0]]),
        dones=th.tensor([[0.0], [1.0]]),
        rewards=th.tensor([[1.0], [3.0]]),
    )
    return networks, batch


def test_a_minibatch_by_hand() -> None:
    networks, batch = by_hand()
    assert minibatch_statistics(networks, batch, gamma=0.5) == pytest.approx(
        {
            "q_value_mean": 2.5,  # 2 (1 + 0) and 2 (0.5 + 1)
            "q_value_std": 0.5,
            "target_q_value_mean": 4.5,  # 1 + 0.5 * 10 * 1 and 3
            "target_q_value_std": 1.5,
            "td_error": 2.0,  # |2 - 6| and |3 - 3|
            "actor_saturation": 0.5,  # tanh(4) = 0.9993 and tanh(2) = 0.964
            "actor_spread": (math.tanh(4) - math.tanh(2)) / 2,  # half of their distance
            "critic_dead_units": 0.5,  # one unit of two; the actor has no ReLU
        }
    )


def test_n_step_returns_have_discounts_of_their_own() -> None:
    networks, batch = by_hand()
    batch = batch._replace(discounts=th.tensor([[0.1], [0.1]]))
    assert minibatch_statistics(networks, batch, gamma=0.5)["target_q_value_mean"] == pytest.approx(2.5)


def test_norms_by_hand() -> None:
    networks: Any = SimpleNamespace(actor=nn.Linear(1, 1), critic=nn.Linear(2, 1, bias=False))
    nn.init.constant_(networks.actor.weight, 3.0)
    nn.init.constant_(networks.actor.bias, -4.0)
    nn.init.constant_(networks.critic.weight, 2.0)
    assert norms(networks) == pytest.approx({"actor_weight_norm": 5.0, "critic_weight_norm": 8**0.5})
    networks.critic(th.tensor([[3.0, 4.0]])).sum().backward()
    assert norms(networks)["critic_grad_norm"] == pytest.approx(5.0)
    assert "critic_grad_norm" not in norms(networks, critic_gradient=False)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 5), st.integers(0, 4), st.integers(1, 3))
def test_a_dead_unit_is_one_that_is_0_everywhere(alive: int, dead: int, pixels: int) -> None:
    class Images(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu = nn.ReLU()

        def forward(self, observations: th.Tensor, *_: th.Tensor) -> Any:
            units = th.full((2, alive + dead, pixels, pixels), -1.0)
            units[1, :alive, -1, 0] = 1.0  # one pixel in one image is enough
            self.relu(units)
            return observations if not _ else (observations,)

    networks, batch = by_hand()
    networks.actor = networks.critic = Images()
    found = minibatch_statistics(networks, batch, 0.9)
    assert found["actor_dead_units"] == found["critic_dead_units"] == pytest.approx(dead / (alive + dead))


@pytest.mark.parametrize("policy", ["MlpPolicy", "LayerNormPolicy"])
def test_both_ways_of_computing_gradients_leave_the_same(policy: Any) -> None:
    fused, autograd = (logged(CustomDDPG(policy, pendulum(), fused=fused, **SMALL))[0] for fused in (True, False))
    assert len(NORMS & fused.keys()) == 4
    for key in NORMS | VALUES | DEAD:
        assert fused[key] == pytest.approx(autograd[key], rel=1e-3, abs=1e-6), key


def test_the_critics_gradient_is_left_out_where_the_actors_step_has_added_to_it() -> None:
    model = CustomDDPG("MlpPolicy", pendulum(), **SMALL)
    next(model.critic.parameters()).register_hook(lambda grad: grad)
    assert keys(model) == (NORMS | VALUES | DEAD) - {"train/critic_grad_norm"}


# --- Any policy, any buffer ---


def test_images_and_dict_observations() -> None:
    images = FakeImageEnv(action_dim=2, screen_height=36, screen_width=36, discrete=False)
    assert keys(CustomDDPG("CnnPolicy", images, **{**SMALL, "buffer_size": 300}), steps=30) == NORMS | VALUES | DEAD
    goals = BitFlippingEnv(n_bits=3, continuous=True)
    assert keys(CustomDDPG("MultiInputPolicy", goals, **SMALL), steps=30) == NORMS | VALUES | DEAD
    her = CustomDDPG("MultiInputPolicy", goals, replay_buffer_class=HerReplayBuffer, **SMALL)
    assert keys(her, steps=30) == NORMS | VALUES | DEAD


@pytest.mark.parametrize(
    "kwargs",
    [
        {"n_steps": 3},
        {"optimize_memory_usage": True},
        {"replay_buffer_class": PrioritizedReplayBuffer},
        {"policy": "LayerNormPolicy"},
    ],
)
def test_with_vec_normalize(kwargs: dict[str, Any]) -> None:
    env = VecNormalize(make_vec_env(pendulum, n_envs=2))
    assert keys(CustomDDPG(**{"policy": "MlpPolicy", "env": env, **SMALL, **kwargs})) == NORMS | VALUES | DEAD


def test_without_relu_no_units_are_dead() -> None:
    tanh = {**SMALL, "policy_kwargs": {"net_arch": [8], "activation_fn": nn.Tanh}}
    assert keys(CustomDDPG("MlpPolicy", pendulum(), **tanh)) == NORMS | VALUES


def test_a_buffer_of_the_users_is_left_alone() -> None:
    class Counting(ReplayBuffer):
        n_samples = 0

        def sample(self, *args: Any, **kwargs: Any) -> Any:
            self.n_samples += 1
            return super().sample(*args, **kwargs)

    model = CustomDDPG("MlpPolicy", pendulum(), replay_buffer_class=Counting, **SMALL)
    assert keys(model) == NORMS
    assert model.replay_buffer.n_samples == model._n_updates  # type: ignore[union-attr]


def test_networks_that_are_called_in_another_way_do_not_end_training(capsys: pytest.CaptureFixture[str]) -> None:
    model = CustomDDPG("MlpPolicy", pendulum(), verbose=1, **SMALL)

    def only_when_training(*_: Any) -> None:
        if not th.is_grad_enabled():
            raise RuntimeError("not now")

    model.critic.register_forward_hook(only_when_training)
    assert keys(model) == NORMS
    assert "Some statistics of the networks are not logged: not now" in capsys.readouterr().out


# --- Nothing else changes ---


class Dropout(MlpPolicy):
    """Draws random numbers in training mode, and has statistics that change there."""

    def make_actor(self, features_extractor: Any = None) -> Any:
        actor = super().make_actor(features_extractor)
        actor.mu.insert(1, nn.BatchNorm1d(8))
        actor.mu.insert(2, nn.Dropout(0.3))
        return actor


@pytest.mark.parametrize(
    "kwargs",
    [
        *({"policy": policy, "fused": fused} for policy in ("MlpPolicy", Dropout) for fused in ("auto", False)),
        {"policy": "MlpPolicy", "replay_buffer_class": PrioritizedReplayBuffer},
    ],
)
def test_training_is_the_same_to_the_last_bit(kwargs: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollouts, "_UPDATES_BETWEEN_STATISTICS", 1)

    def train() -> tuple[int, list[Any]]:
        env = VecNormalize(make_vec_env(pendulum, n_envs=2, seed=0))
        model = CustomDDPG(env=env, gradient_steps=-1, **SMALL, **kwargs)
        rows = logged(model, steps=160)
        ends = [*model.policy.state_dict().values(), *(param.grad for param in model.actor.parameters())]
        states = np.random.get_state()[1], th.get_rng_state(), random.getstate()[1]  # noqa: NPY002
        return len(rows), [*ends, *states, model.actor.training]

    n_rows, with_statistics = train()
    monkeypatch.setattr(CustomDDPG, "_record_statistics", lambda self: None)
    none, without = train()
    assert (n_rows, none) == (2, 0)  # the episodes of both environments end at once
    for ours, theirs in zip(with_statistics, without, strict=True):
        assert np.array_equal(ours, theirs)


def test_no_trace() -> None:
    model = CustomDDPG(Dropout, pendulum(), **SMALL)
    model.policy.set_training_mode(True)

    def state() -> list[Any]:
        generators = random.getstate()[1], np.random.get_state()[1], th.get_rng_state()  # noqa: NPY002
        return [*generators, *copy.deepcopy(model.policy.state_dict()).values(), model.actor.training]

    def use_and_fail() -> None:
        assert not model.actor.training
        assert not th.is_grad_enabled()
        random.random(), np.random.rand(), th.rand(1)  # noqa: NPY002
        model.actor(th.ones(4, 3))
        raise ZeroDivisionError

    before = state()
    with pytest.raises(ZeroDivisionError), leaving_no_trace(model.policy):
        use_and_fail()
    assert all(map(np.array_equal, before, state()))


def test_not_more_often_than_every_1000_updates_and_not_without_an_update() -> None:
    model = CustomDDPG("MlpPolicy", pendulum(1), **SMALL)
    rows = logged(model, steps=1_100)
    assert [row["train/n_updates"] for row in rows] == [1, 1_001]
    model.learning_starts = 5_000
    assert logged(model, steps=20) == []


def test_logs_are_the_same_after_a_checkpoint(tmp_path: Any) -> None:
    model = CustomDDPG("MlpPolicy", pendulum(), **SMALL).learn(61, log_interval=1)
    model.save_checkpoint(tmp_path)
    resumed = CustomDDPG.resume(tmp_path, pendulum())
    assert resumed._updates_at_statistics == model._updates_at_statistics > 0
