"""SimBa: its networks, and statistics of observations that count each observation once, for all networks."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from stable_baselines3 import DDPG
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv
from torch import nn

from sb3_ddpg_ext import CustomDDPG, SimbaPolicy
from sb3_ddpg_ext.simba import ResidualBlock, RunningNormExtractor, residual_network, update_statistics

SMALL: dict[str, Any] = {"learning_starts": 20, "batch_size": 8, "buffer_size": 500, "seed": 0, "device": "cpu"}
STATISTICS = ("running_mean", "running_var", "n_observations")


def simba(env: Any = "Pendulum-v1", policy: Any = "SimbaPolicy", **kwargs: Any) -> CustomDDPG:
    policy_kwargs = {"net_arch": [8], **kwargs.pop("policy_kwargs", {})}
    return CustomDDPG(policy, env, policy_kwargs=policy_kwargs, **{**SMALL, **kwargs})


def networks(model: Any) -> list[Any]:
    return [model.actor, model.actor_target, model.critic, model.critic_target]


def statistics(model: Any) -> list[np.ndarray]:
    """:return: The statistics, which are the same in all networks"""
    ours, *others = (
        [getattr(network.features_extractor, name).numpy().copy() for name in STATISTICS] for network in networks(model)
    )
    for other in others:
        for a, b in zip(ours, other, strict=True):
            np.testing.assert_array_equal(a, b)
    return ours


# --- Statistics ---


@given(
    batches=st.lists(
        hnp.arrays(np.float32, st.tuples(st.integers(1, 5), st.just(2)), elements=st.floats(-100, 100, width=32)),
        min_size=1,
        max_size=8,
    )
)
def test_statistics_are_those_of_all_observations(batches: list[np.ndarray]) -> None:
    extractor = RunningNormExtractor(spaces.Box(-100, 100, (2,)))
    for batch in batches:
        extractor.update(th.as_tensor(batch))
    everything = np.concatenate(batches).astype(np.float64)
    scale = np.abs(everything).max() + 1e-6
    np.testing.assert_allclose(extractor.running_mean, everything.mean(axis=0), atol=1e-5 * scale)
    np.testing.assert_allclose(extractor.running_var, everything.var(axis=0), atol=1e-5 * scale**2)
    assert extractor.n_observations == len(everything)


def test_statistics_after_a_million_observations_are_still_precise() -> None:
    values = np.random.default_rng(0).normal(3, 2, (1_000_000, 1)).astype(np.float32)
    extractor = RunningNormExtractor(spaces.Box(-100, 100, (1,)))
    for batch in np.split(values, 10_000):
        extractor.update(th.as_tensor(batch))
    assert extractor.running_mean.item() == pytest.approx(values.mean(), rel=1e-4)
    assert extractor.running_var.item() == pytest.approx(values.var(), rel=1e-4)


def test_before_any_observation_nothing_changes() -> None:
    extractor = RunningNormExtractor(spaces.Box(-1, 1, (2, 2)))
    np.testing.assert_allclose(extractor(th.tensor([[[1.0, 2.0], [3.0, 4.0]]])), [[1, 2, 3, 4]], rtol=1e-6)


class Recorder(BaseCallback):
    """Keeps what the environments show, and what the statistics are at the beginning of each rollout."""

    def __init__(self) -> None:
        super().__init__()
        self.observations: list[np.ndarray] = []
        self.counts: list[int] = []

    def _on_rollout_start(self) -> None:
        self.counts.append(int(self.model.actor.features_extractor.n_observations))

    def _on_step(self) -> bool:
        self.observations.append(self.locals["new_obs"].copy())
        return True


@pytest.mark.parametrize("gradient_steps", [1, 3])
@pytest.mark.parametrize("n_envs", [1, 3])
def test_each_observation_counts_once(n_envs: int, gradient_steps: int) -> None:
    """Also while actions are random, and whatever the number of gradient steps. Episodes end after 15 steps."""
    env = make_vec_env(lambda: gym.make("Pendulum-v1", max_episode_steps=15), n_envs=n_envs, seed=0)
    recorder = Recorder()
    model = simba(env, gradient_steps=gradient_steps).learn(60, callback=recorder)
    mean, var, n = statistics(model)
    assert recorder.counts == list(range(0, 60, n_envs))
    seen = np.concatenate(recorder.observations)
    assert n == len(seen) == 60
    np.testing.assert_allclose(mean, seen.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(var, seen.var(axis=0), rtol=1e-4)


def test_only_steps_of_training_change_them() -> None:
    model = simba().learn(40)
    before = statistics(model)
    model.predict(100 * np.ones(3, np.float32))
    model.predict(100 * np.ones((4, 3), np.float32), deterministic=True)
    model.train(gradient_steps=5, batch_size=8)
    model.policy.set_training_mode(True)
    model.actor(th.ones(2, 3))
    for a, b in zip(statistics(model), before, strict=True):
        np.testing.assert_array_equal(a, b)
    evaluation = EvalCallback(make_vec_env("Pendulum-v1"), n_eval_episodes=1, eval_freq=5, verbose=0)
    model.learn(10, callback=evaluation, reset_num_timesteps=False)
    assert statistics(model)[2] == 50


def test_observations_are_normalised_for_the_actor_and_the_critic() -> None:
    model = simba()
    update_statistics(model.policy, np.array([[1.0, 2.0, 3.0], [3.0, 2.0, 7.0]], np.float32))
    seen: list[th.Tensor] = []
    model.actor.mu.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model.critic.q_networks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    observation = th.tensor([[3.0, 2.0, 1.0]])
    model.actor(observation)
    model.critic(observation, th.tensor([[0.5]]))
    np.testing.assert_allclose(seen[0], [[1, 0, -2]], rtol=1e-6)
    np.testing.assert_allclose(seen[1], [[1, 0, -2, 0.5]], rtol=1e-6)


@pytest.mark.parametrize(
    "change",
    [
        {"policy_kwargs": {"share_features_extractor": True}},
        {"policy": "MlpPolicy", "policy_kwargs": {"features_extractor_class": RunningNormExtractor}},
        {"policy_kwargs": {"n_critics": 2}},
    ],
)
def test_other_policies_with_statistics(change: dict[str, Any], tmp_path: Path) -> None:
    model = simba(**change).learn(40)
    assert statistics(model)[2] == 40
    model.save(tmp_path / "model")
    assert statistics(CustomDDPG.load(tmp_path / "model"))[2] == 40


def test_integers_are_observed_as_the_networks_see_them() -> None:
    policy = SimbaPolicy(spaces.Discrete(4), spaces.Box(-1, 1, (1,)), lambda _: 1e-4)
    update_statistics(policy, np.array([1, 3]))
    np.testing.assert_allclose(policy.actor.features_extractor.running_mean, [0, 0.5, 0, 0.5])


# --- Networks ---


def test_a_block_worked_out_by_hand() -> None:
    """For x = (1, 3), LayerNorm gives (-1, 1), the first layer and ReLU (1, 0, 0, ...), the block x + (2, 0)."""
    block = ResidualBlock(2, nn.ReLU)
    norm, first, _, second = block.layers
    with th.no_grad():
        first.weight.zero_()
        first.weight[0, 1] = 1  # of the second component, 1
        first.weight[1, 0] = 1  # of the first one, -1, of which ReLU makes 0
        second.weight.zero_()
        second.weight[0, 0], second.weight[1, 1] = 2, 5
    assert norm.normalized_shape == (2,)
    assert (first.out_features, second.in_features) == (8, 8)
    np.testing.assert_allclose(block(th.tensor([[1.0, 3.0]])).detach(), [[3, 3]], atol=1e-4)


def test_the_networks_of_the_paper() -> None:
    policy = SimbaPolicy(spaces.Box(-1, 1, (5,)), spaces.Box(-1, 1, (2,)), lambda _: 1e-4)
    assert [type(module) for module in policy.actor.mu] == [
        *(nn.Linear, ResidualBlock, nn.LayerNorm, nn.Linear, nn.Tanh)
    ]
    (critic,) = policy.critic.q_networks
    assert [type(module) for module in critic] == [nn.Linear, ResidualBlock, ResidualBlock, nn.LayerNorm, nn.Linear]
    assert policy.actor.mu[0].weight.shape == (128, 5)
    assert policy.actor.mu[-2].weight.shape == (2, 128)
    assert critic[0].weight.shape == (512, 7)
    assert critic[1].layers[1].weight.shape == (2048, 512)
    for network in (policy.actor, policy.critic):
        assert type(network.optimizer) is th.optim.AdamW
        assert network.optimizer.param_groups[0]["weight_decay"] == 1e-2
        assert {*network.optimizer.param_groups[0]["params"]} == {*network.parameters()}


def test_the_initial_weights_of_the_paper() -> None:
    embedding, block, _, output = residual_network(4, 3, [64], nn.ReLU)
    for layer in (embedding, output):
        weight = layer.weight if len(layer.weight) < layer.weight.shape[1] else layer.weight.T
        np.testing.assert_allclose((weight @ weight.T).detach(), np.eye(len(weight)), atol=1e-5)
    for layer in (block.layers[1], block.layers[3]):
        assert layer.weight.std().item() == pytest.approx((2 / layer.in_features) ** 0.5, rel=0.05)
    assert all(not layer.bias.any() for layer in (embedding, output, block.layers[1], block.layers[3]))


def test_critics_and_targets() -> None:
    model = simba(policy_kwargs={"n_critics": 2, "net_arch": {"pi": [4], "qf": [8, 8]}, "final_layer_init": 3e-3})
    first, second = model.critic.q_networks
    assert [name for name, _ in model.critic.named_children()] == ["features_extractor", "qf0", "qf1"]
    assert model.critic.qf1 is second
    assert not th.equal(first[0].weight, second[0].weight)
    for online, target in ((model.actor, model.actor_target), (model.critic, model.critic_target)):
        for name, value in online.state_dict().items():
            np.testing.assert_array_equal(target.state_dict()[name], value)
    assert first[-1].weight.abs().max() <= 3e-3
    assert model.actor.net_arch == [4]


def test_the_soft_update_reaches_all_weights_of_the_targets() -> None:
    model = simba(tau=0.5).learn(21)  # one update
    before = copy.deepcopy(model.policy.state_dict())
    model.train(1, 8)
    after = model.policy.state_dict()
    for name, value in after.items():
        if name.startswith(("actor_target", "critic_target")) and name.split(".")[-1] not in STATISTICS:
            expected = 0.5 * (before[name] + after[name.replace("_target", "")])
            np.testing.assert_allclose(value, expected, atol=1e-7)
            assert not th.equal(value, before[name])


# --- In the algorithm ---


def test_the_log_says_that_autograd_computes_it(capsys: pytest.CaptureFixture[str]) -> None:
    simba(verbose=1).learn(25)
    assert "Gradient steps are computed by autograd: SimbaActor is not SB3's" in capsys.readouterr().out
    with pytest.raises(ValueError, match="fused=True is not possible here: SimbaActor is not SB3's"):
        simba(fused=True)


def resumed(model: CustomDDPG, path: Path) -> CustomDDPG:
    model.save_checkpoint(path)
    return CustomDDPG.resume(path, "Pendulum-v1")


def loaded(model: CustomDDPG, path: Path) -> CustomDDPG:
    model.save(path / "model")
    return CustomDDPG.load(path / "model")


@pytest.mark.parametrize("back", [resumed, loaded])
def test_a_model_comes_back(back: Callable[[CustomDDPG, Path], CustomDDPG], tmp_path: Path) -> None:
    model = simba(policy_kwargs={"net_arch": {"pi": [4], "qf": [8, 8]}}).learn(50)
    again = back(model, tmp_path)
    assert type(again.policy) is SimbaPolicy
    for name, value in model.policy.state_dict().items():
        np.testing.assert_array_equal(again.policy.state_dict()[name], value)
    assert statistics(again)[2] == 50
    observation = np.array([0.5, 0.5, 3], np.float32)
    np.testing.assert_array_equal(again.predict(observation)[0], model.predict(observation)[0])


@pytest.mark.parametrize("net_arch", [{"pi": [760, 760], "qf": [4]}, {"pi": [4], "qf": [760, 760]}])
def test_a_large_policy_comes_back(net_arch: dict[str, list[int]], tmp_path: Path) -> None:
    """Reading a file allocates little more than its weights: no other layers, to be replaced later."""
    policy = SimbaPolicy(spaces.Box(-1, 1, (5,)), spaces.Box(-1, 1, (2,)), lambda _: 1e-4, net_arch=net_arch)
    update_statistics(policy, np.ones((3, 5), np.float32))
    policy.save(tmp_path / "policy")
    loaded = SimbaPolicy.load(tmp_path / "policy", device="cpu")
    assert loaded.actor.features_extractor.n_observations == 3
    observation = np.full(5, 0.3, np.float32)
    np.testing.assert_array_equal(loaded.predict(observation)[0], policy.predict(observation)[0])


def test_sb3s_ddpg_takes_it_without_statistics() -> None:
    kwargs = {"net_arch": [8], "n_critics": 1}
    model = DDPG(SimbaPolicy, "Pendulum-v1", policy_kwargs=kwargs, **SMALL).learn(30)
    assert statistics(model)[2] == 0
    assert np.isfinite(model.predict(np.zeros(3, np.float32))[0]).all()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"policy_kwargs": {"net_arch": [8, 4]}}, r"blocks of a network have one width, .*; got \[8, 4\]"),
        ({"policy_kwargs": {"net_arch": []}}, r"net_arch: .*got \[\]"),
        ({"policy_kwargs": {"critic_layer_norm": True}}, "has LayerNorm in its blocks already; leave out"),
        ({"env": BitFlippingEnv(n_bits=4, continuous=True)}, "flat observations, got Dict ones; flatten them with"),
    ],
)
def test_refusals(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        simba(**kwargs)
