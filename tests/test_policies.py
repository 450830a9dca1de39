"""Policies by name and their options: LayerNorm, a small last layer, an optimizer of the critic's own."""

import copy
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import DDPG
from stable_baselines3.common.envs import BitFlippingEnv, FakeImageEnv
from stable_baselines3.td3 import policies as td3
from torch import nn

from sb3_ddpg_ext import CnnPolicy, CustomDDPG, LayerNormPolicy, MlpPolicy, MultiInputPolicy
from sb3_ddpg_ext.settings import parse_settings

OBSERVATIONS, ACTIONS = spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (2,))
SMALL: dict[str, Any] = {"learning_starts": 20, "batch_size": 8, "buffer_size": 500, "seed": 0, "device": "cpu"}


def policy(policy_class: type[Any] = MlpPolicy, observations: spaces.Space[Any] = OBSERVATIONS, **kwargs: Any) -> Any:
    th.manual_seed(0)
    return policy_class(observations, ACTIONS, lambda _: 1e-3, **{"net_arch": [8, 6], **kwargs})


def model(policy_class: Any = "MlpPolicy", env: Any = "Pendulum-v1", **policy_kwargs: Any) -> CustomDDPG:
    return CustomDDPG(policy_class, env, policy_kwargs={"net_arch": [8], **policy_kwargs}, **SMALL)


def kinds(net: Any) -> list[type[nn.Module]]:
    return [type(module) for module in net]


def assert_targets_equal(of: Any) -> None:
    for online, target in ((of.actor, of.actor_target), (of.critic, of.critic_target)):
        values, expected = target.state_dict(), online.state_dict()
        assert values.keys() == expected.keys()
        assert all(th.equal(values[name], expected[name]) for name in expected)


# --- LayerNorm ---

PLAIN = [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
NORMALIZED = [nn.Linear, nn.LayerNorm, nn.ReLU, nn.Linear, nn.LayerNorm, nn.ReLU, nn.Linear]
IMAGES = spaces.Box(0, 255, (3, 36, 36), np.uint8)
DICT = spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Discrete(3)})


@pytest.mark.parametrize(
    ("policy_class", "observations"), [(MlpPolicy, OBSERVATIONS), (CnnPolicy, IMAGES), (MultiInputPolicy, DICT)]
)
@pytest.mark.parametrize("actor", [False, True])
@pytest.mark.parametrize("critic", [False, True])
def test_each_policy_takes_layer_norm(
    policy_class: type[Any], observations: spaces.Space[Any], actor: bool, critic: bool
) -> None:
    made = policy(policy_class, observations, actor_layer_norm=actor, critic_layer_norm=critic, n_critics=2)
    for net in (made.actor.mu, made.actor_target.mu):
        assert kinds(net) == [*(NORMALIZED if actor else PLAIN), nn.Tanh]
    for net in (*made.critic.q_networks, *made.critic_target.q_networks):
        assert kinds(net) == (NORMALIZED if critic else PLAIN)
    assert_targets_equal(made)
    for network in (made.actor, made.critic):
        held = [param for group in network.optimizer.param_groups for param in group["params"]]
        assert list(map(id, held)) == list(map(id, network.parameters()))


def test_the_name_is_mlp_policy_with_layer_norm_in_the_critic() -> None:
    by_name = model("LayerNormPolicy").learn(60)
    by_option = model(critic_layer_norm=True).learn(60)
    assert kinds(by_name.actor.mu) == [nn.Linear, nn.ReLU, nn.Linear, nn.Tanh]
    assert kinds(by_name.critic.q_networks[0]) == [nn.Linear, nn.LayerNorm, nn.ReLU, nn.Linear]
    for name, value in by_option.policy.state_dict().items():
        np.testing.assert_array_equal(by_name.policy.state_dict()[name], value)


def test_layer_norm_changes_no_other_weight() -> None:
    plain, normalized = policy().critic.state_dict(), policy(LayerNormPolicy).critic.state_dict()
    linear = {name: value for name, value in normalized.items() if name.split(".")[1] not in ("1", "4")}
    assert len(linear) == len(plain)
    for ours, theirs in zip(linear.values(), plain.values(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_value_worked_out_by_hand() -> None:
    """The first layer gives (1, 3, 0, 0), with mean 1 and variance 1.5; LayerNorm 1 + 2 (0, 2, -1, -1) / sqrt(1.5)."""
    made = policy(LayerNormPolicy, net_arch=[4])
    (net,) = made.critic.q_networks
    with th.no_grad():
        net[0].weight.zero_()
        net[0].bias.copy_(th.tensor([1.0, 3.0, 0.0, 0.0]))
        net[1].weight.fill_(2)
        net[1].bias.fill_(1)
        net[3].weight.copy_(th.tensor([[1.0, 10.0, 100.0, 1000.0]]))
        net[3].bias.fill_(0.5)
    expected = 1 + 10 * (1 + 4 / 1.5**0.5) + 0.5  # 1 - 2 / sqrt(1.5) < 0
    (q_values,) = made.critic(th.zeros(1, 3), th.zeros(1, 2))
    assert q_values.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("norms", [{}, {"actor_layer_norm": True}])
def test_the_closed_form_computes_it(norms: dict[str, bool]) -> None:
    def trained(fused: bool) -> CustomDDPG:
        made = CustomDDPG(
            "LayerNormPolicy", "Pendulum-v1", policy_kwargs={"net_arch": [8], **norms}, fused=fused, **SMALL
        )
        return made.learn(60)

    ours, theirs = trained(True), trained(False)
    assert ours._fast_path.why_autograd is None
    for name, value in theirs.policy.state_dict().items():
        np.testing.assert_allclose(ours.policy.state_dict()[name], value, atol=5e-5)


def test_dict_observations_and_images_learn() -> None:
    goals = model("MultiInputPolicy", BitFlippingEnv(n_bits=4, continuous=True), critic_layer_norm=True).learn(40)
    assert kinds(goals.critic.q_networks[0])[1] is nn.LayerNorm
    images = FakeImageEnv(screen_height=36, screen_width=36, discrete=False)
    extractor = {"features_extractor_kwargs": {"features_dim": 4}}
    assert model("CnnPolicy", images, critic_layer_norm=True, actor_layer_norm=True, **extractor).learn(25)._n_updates


def test_dict_observations_are_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"Dict ones; use MultiInputPolicy with .*critic_layer_norm=True"):
        model("LayerNormPolicy", BitFlippingEnv(n_bits=4, continuous=True))


def test_sb3s_ddpg_takes_the_policies() -> None:
    kwargs = {"net_arch": [8], "final_layer_init": 3e-3, "n_critics": 1}
    trained = DDPG(LayerNormPolicy, "Pendulum-v1", policy_kwargs=kwargs, **SMALL).learn(40)
    assert kinds(trained.critic.q_networks[0])[1] is nn.LayerNorm


# --- A small last layer ---


@pytest.mark.parametrize("policy_class", [MlpPolicy, LayerNormPolicy])
def test_the_last_layers_begin_small(policy_class: type[Any]) -> None:
    made, plain = policy(policy_class, final_layer_init=3e-3, n_critics=2), policy(policy_class, n_critics=2)
    nets = [made.actor.mu[:-1], *made.critic.q_networks]
    plain_nets = [plain.actor.mu[:-1], *plain.critic.q_networks]
    for net, plain_net in zip(nets, plain_nets, strict=True):
        weight, bias = net[-1].weight, net[-1].bias
        assert 1e-3 < weight.abs().max() <= 3e-3
        assert 0 < bias.abs().max() <= 3e-3
        assert weight.min() < 0 < weight.max()
        assert net[0].weight.abs().max() > 0.1
        assert plain_net[-1].weight.abs().max() > 3e-2
    assert_targets_equal(made)
    assert abs(made.predict(OBSERVATIONS.sample())[0]).max() < 0.02
    assert not th.equal(made.critic.q_networks[0][-1].weight, made.critic.q_networks[1][-1].weight)


def test_without_it_no_random_number_is_drawn() -> None:
    ours, our_state = policy(), th.get_rng_state()
    theirs, their_state = policy(td3.MlpPolicy, n_critics=1), th.get_rng_state()
    assert th.equal(our_state, their_state)
    for name, value in theirs.state_dict().items():
        np.testing.assert_array_equal(ours.state_dict()[name], value)


@pytest.mark.parametrize("value", [0, -1e-3, float("inf"), float("nan")])
def test_a_last_layer_of_no_size(value: float) -> None:
    with pytest.raises(ValueError, match="final_layer_init: expected a number above 0, such as 3e-3, got"):
        policy(final_layer_init=value)


# --- The critic's optimizer ---


def test_the_critics_optimizer() -> None:
    decay = {"weight_decay": 0.1}
    for kwargs, critic_class, critic_decay in (
        ({}, th.optim.Adam, 0),
        ({"optimizer_kwargs": decay}, th.optim.Adam, 0.1),
        ({"critic_optimizer_class": th.optim.AdamW}, th.optim.AdamW, 0.01),
        ({"critic_optimizer_class": th.optim.AdamW, "optimizer_kwargs": decay}, th.optim.AdamW, 0.1),
        ({"critic_optimizer_kwargs": decay}, th.optim.Adam, 0.1),
        ({"critic_optimizer_kwargs": {}, "optimizer_kwargs": decay}, th.optim.Adam, 0),
        ({"optimizer_class": th.optim.SGD, "critic_optimizer_class": th.optim.Adam}, th.optim.Adam, 0),
    ):
        made = policy(**kwargs)
        assert type(made.critic.optimizer) is critic_class
        assert type(made.actor.optimizer) is kwargs.get("optimizer_class", th.optim.Adam)
        assert made.critic.optimizer.param_groups[0]["weight_decay"] == critic_decay
        assert made.actor.optimizer.param_groups[0]["weight_decay"] == kwargs.get("optimizer_kwargs", {}).get(
            "weight_decay", 0
        )
        assert made.critic.optimizer.param_groups[0]["lr"] == 1e-3
        assert {*made.critic.optimizer.param_groups[0]["params"]} == {*made.critic.parameters()}


def test_weight_decay_of_the_critic_alone_as_in_the_paper() -> None:
    """With no other gradient, Adam's first step is against each weight's sign. The actor does not move."""
    made = policy(critic_optimizer_kwargs={"weight_decay": 1e-2})
    for network, moves in ((made.actor, False), (made.critic, True)):
        before = copy.deepcopy(network.state_dict())
        for param in network.parameters():
            param.grad = th.zeros_like(param)
        network.optimizer.step()
        for name, value in network.state_dict().items():
            step = 1e-3 * before[name].sign() if moves else th.zeros_like(value)
            np.testing.assert_allclose(before[name] - value, step, atol=1e-5)


OPTIONS = {
    "actor_layer_norm": True,
    "final_layer_init": 3e-3,
    "critic_optimizer_class": th.optim.AdamW,
    "critic_optimizer_kwargs": {"weight_decay": 0.02},
}


def test_options_come_back_with_a_model(tmp_path: Path) -> None:
    trained = model("LayerNormPolicy", **OPTIONS).learn(50)
    trained.save(tmp_path / "model")
    loaded = CustomDDPG.load(tmp_path / "model", env=gym.make("Pendulum-v1"))
    assert loaded.policy_kwargs == {"net_arch": [8], **OPTIONS}
    for name, value in trained.policy.state_dict().items():
        np.testing.assert_array_equal(loaded.policy.state_dict()[name], value)
    ours, theirs = (m.critic.optimizer.state_dict() for m in (loaded, trained))
    assert type(loaded.critic.optimizer) is th.optim.AdamW
    assert str(ours) == str(theirs)
    loaded.learn(10, reset_num_timesteps=False)
    assert loaded._fast_path.why_autograd is None


@pytest.mark.parametrize("kwargs", [{}, {"critic_layer_norm": False}, OPTIONS])
@pytest.mark.parametrize("policy_class", [MlpPolicy, LayerNormPolicy])
def test_options_come_back_with_a_policy(policy_class: type[Any], kwargs: dict[str, Any], tmp_path: Path) -> None:
    made = policy(policy_class, **kwargs)
    made.save(tmp_path / "policy")
    loaded = policy_class.load(tmp_path / "policy", device="cpu")
    for name in ("actor_layer_norm", "critic_layer_norm", "final_layer_init", *OPTIONS):
        assert getattr(loaded, name) == getattr(made, name)
    assert type(loaded.critic.optimizer) is type(made.critic.optimizer)
    observation = OBSERVATIONS.sample()
    np.testing.assert_array_equal(made.predict(observation)[0], loaded.predict(observation)[0])


def test_a_policy_without_options_in_use_is_one_for_sb3() -> None:
    parameters = policy()._get_constructor_parameters()
    assert parameters.keys() == policy(td3.MlpPolicy)._get_constructor_parameters().keys()


def test_options_in_a_hyperparameter_file() -> None:
    raw = {
        "n_timesteps": 30,
        "policy": "LayerNormPolicy",
        "policy_kwargs": {
            "net_arch": [8],
            "final_layer_init": 3e-3,
            "critic_optimizer_class": "torch.optim.AdamW",
            "critic_optimizer_kwargs": {"weight_decay": 0.02},
        },
    }
    settings = parse_settings("custom_ddpg", raw, "here")
    made = CustomDDPG(env="Pendulum-v1", **settings.hyperparams)
    assert type(made.policy) is LayerNormPolicy
    assert type(made.critic.optimizer) is th.optim.AdamW
    assert made.critic.optimizer.param_groups[0]["weight_decay"] == 0.02
