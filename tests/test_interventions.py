"""
What users do to a model counts at the next step, whichever way that is computed: each row of the table is something
that people do in a callback, or before `learn()`. `fused="auto"` ends where `fused=False` does (within rounding), and
`fused=False` where SB3's DDPG does (to the bit).
"""

import copy
import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from numpy.random import mtrand
from stable_baselines3 import DDPG
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.type_aliases import ReplayBufferSamples, TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.utils import FloatSchedule
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from torch.optim.lr_scheduler import StepLR
from torch.optim.optimizer import register_optimizer_step_pre_hook

from sb3_ddpg_ext import CustomDDPG, LayerNormPolicy, PrioritizedReplayBuffer

Model = Any
"""SB3's DDPG or ours"""
Calls = list[str]
"""What was called, in order: hooks of users write here"""
STEPS, AT = 60, 40
BITWISE, ROUNDING = 0.0, 2e-4


class Row(NamedTuple):
    """
    :param act: Does it to a model, and tells which of its functions are called
    :param why_autograd: Part of the reason for which the closed form is left; None where it goes on
    :param matters: Whether the model ends elsewhere than without it
    :param kwargs: Of the model
    """

    act: Callable[[Model, Calls], Any]
    why_autograd: str | None = None
    matters: bool = True
    kwargs: dict[str, Any] = {}  # noqa: RUF012


def noise(std: float = 0.1) -> NormalActionNoise:
    return NormalActionNoise(np.zeros(1), std * np.ones(1))


def first(model: Model) -> nn.Linear:
    return model.actor.mu[0]


def q(model: Model) -> nn.Sequential:
    return model.critic.q_networks[0]


def networks(model: Model) -> list[Any]:
    return [model.actor, model.actor_target, model.critic, model.critic_target]


def replaced(instance: Any, name: str, wrap: Callable[[Any], Any]) -> None:
    setattr(instance, name, wrap(getattr(instance, name)))


# --- Weights and modules ---


def freeze_one_layer(model: Model, _: Calls) -> None:
    first(model).weight.requires_grad_(False)


def freeze_the_actor(model: Model, _: Calls) -> None:
    model.actor.requires_grad_(False)


def freeze_and_thaw(model: Model, _: Calls) -> None:
    first(model).weight.requires_grad_(False)
    model.train(3, 8)
    first(model).weight.requires_grad_(True)


def edit_in_place(model: Model, _: Calls) -> None:
    with th.no_grad():
        first(model).weight.mul_(0.5)


def assign_data(model: Model, _: Calls) -> None:
    first(model).weight.data = th.linspace(-1, 1, 48).view(16, 3)


def assign_data_that_somebody_else_edits(model: Model, _: Calls) -> None:
    data = th.linspace(-1, 1, 48).view(16, 3)
    first(model).weight.data = data
    model.train(3, 8)
    data += 0.5


def assign_transposed_data(model: Model, _: Calls) -> None:
    layer = model.actor.mu[2]
    layer.weight.data = layer.weight.data.clone().t()


def assign_a_parameter(model: Model, _: Calls) -> None:
    first(model).bias = nn.Parameter(th.ones(16))  # the optimizer still has the one before


def load_state_dict(model: Model, _: Calls) -> None:
    model.policy.load_state_dict({name: 0.9 * value for name, value in model.policy.state_dict().items()})


def load_state_dict_by_assignment(model: Model, _: Calls) -> None:
    state = {name: 0.9 * value for name, value in model.actor_target.state_dict().items()}
    model.actor_target.load_state_dict(state, assign=True)


def load_from_vector(model: Model, _: Calls) -> None:
    model.policy.load_from_vector(0.9 * model.policy.parameters_to_vector())


def set_parameters(model: Model, _: Calls) -> None:
    parameters = copy.deepcopy(model.get_parameters())
    model.train(5, 8)
    model.set_parameters(parameters)


def share_memory(model: Model, _: Calls) -> None:
    model.policy.share_memory()


def to_and_back(model: Model, _: Calls) -> None:
    model.policy.double().float()


def replace_a_layer(model: Model, _: Calls) -> None:
    model.actor.mu[0] = copy.deepcopy(first(model))  # the optimizer still has the one before


def replace_a_layer_and_the_optimizer(model: Model, _: Calls) -> None:
    model.actor.mu[0] = copy.deepcopy(first(model))
    with th.no_grad():
        first(model).weight.mul_(0.5)
    model.actor.optimizer = th.optim.Adam(model.actor.parameters())


def replace_the_actor_network(model: Model, _: Calls) -> None:
    for name in ("actor", "actor_target"):
        net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1), nn.Tanh())
        with th.no_grad():
            for param in net.parameters():
                param.copy_(th.linspace(-0.5, 0.5, param.numel()).view(param.shape))
        getattr(model, name).mu = net
    model.actor.optimizer = th.optim.Adam(model.actor.parameters())


def replace_a_target(model: Model, _: Calls) -> None:
    model.policy.critic_target = model.critic_target = copy.deepcopy(model.critic)


def replace_the_alias_only(model: Model, _: Calls) -> None:
    model.critic_target = copy.deepcopy(model.critic)  # which SB3 trains; the policy's is something else from now on


def let_target_and_critic_be_one(model: Model, _: Calls) -> None:
    model.policy.critic_target = model.critic_target = model.critic


def replace_in_q_networks(model: Model, _: Calls) -> None:
    model.critic.q_networks[0] = copy.deepcopy(q(model))  # not the registered module, so nothing trains it


def assign_q_networks(model: Model, _: Calls) -> None:
    model.critic.q_networks = [copy.deepcopy(q(model))]  # nothing trains it, either


def two_outputs(model: Model, _: Calls) -> None:
    th.manual_seed(0)
    for critic in networks(model)[2:]:
        critic.qf0[4] = nn.Linear(16, 2)
    model.critic.optimizer = th.optim.Adam(model.critic.parameters())


def add_what_only_follows(model: Model, _: Calls) -> None:
    """A layer that is not used. But its target follows it."""
    th.manual_seed(0)
    for actor in networks(model)[:2]:
        actor.unused = nn.Linear(2, 2)
    model.actor.optimizer = th.optim.Adam(model.actor.parameters())


def use_a_layer_twice(model: Model, _: Calls) -> None:
    for actor in networks(model)[:2]:
        actor.mu.insert(4, actor.mu[2])
    model.actor.optimizer = th.optim.Adam(model.actor.parameters())


def one_bias_for_all(model: Model, _: Calls) -> None:
    for actor in networks(model)[:2]:
        actor.mu[0].bias = nn.Parameter(th.zeros(1))  # PyTorch broadcasts it
    model.actor.optimizer = th.optim.Adam(model.actor.parameters())


def exchange_an_activation(model: Model, _: Calls) -> None:
    for network in networks(model)[:2]:
        network.mu[1] = nn.Tanh()


def exchange_an_activation_of_one_network(model: Model, _: Calls) -> None:
    model.actor.mu[1] = nn.Tanh()


def change_the_class_of_a_layer(model: Model, calls: Calls) -> None:
    class Doubled(type(model.actor)):  # type: ignore[misc]
        def forward(self, obs: Any) -> Any:
            calls.append("forward")
            return 0.5 * super().forward(obs)

    model.actor.__class__ = Doubled


def insert_batch_norm(model: Model, _: Calls) -> None:
    for network in networks(model)[:2]:
        network.mu.insert(1, nn.BatchNorm1d(16))


# --- Two critics ---


def second(critic: Any) -> nn.Sequential:
    return critic.q_networks[1]


def edit_the_second_critic(model: Model, _: Calls) -> None:
    with th.no_grad():
        second(model.critic)[0].weight.mul_(0.5)


def freeze_the_second_critic(model: Model, _: Calls) -> None:
    second(model.critic).requires_grad_(False)


def replace_the_second_critic(model: Model, _: Calls) -> None:
    for critic in networks(model)[2:]:
        critic.qf1 = critic.q_networks[1] = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        with th.no_grad():
            for param in critic.qf1.parameters():
                param.copy_(th.linspace(-0.5, 0.5, param.numel()).view(param.shape))
    model.critic.optimizer = th.optim.Adam(model.critic.parameters())


def replace_the_second_critic_alone(model: Model, _: Calls) -> None:
    model.critic.qf1 = model.critic.q_networks[1] = copy.deepcopy(second(model.critic))  # nothing trains it


def remove_the_second_critic(model: Model, _: Calls) -> None:
    for critic in networks(model)[2:]:
        del critic.q_networks[1], critic.qf1
    model.critic.optimizer = th.optim.Adam(model.critic.parameters())


def ignore_the_second_critic(model: Model, _: Calls) -> None:
    for critic in networks(model)[2:]:
        critic.q_networks = critic.q_networks[:1]  # the other's target still follows it


def ignore_the_second_target(model: Model, _: Calls) -> None:
    del model.critic_target.q_networks[1]


def exchange_the_critics(model: Model, _: Calls) -> None:
    model.critic.q_networks.reverse()


def let_critics_share_a_layer(model: Model, _: Calls) -> None:
    for critic in networks(model)[2:]:
        second(critic)[0] = critic.q_networks[0][0]
    model.critic.optimizer = th.optim.Adam(model.critic.parameters())


def exchange_the_second_critics_activation(model: Model, _: Calls) -> None:
    for critic in networks(model)[2:]:
        second(critic)[1] = nn.Tanh()


def exchange_the_second_targets_activation(model: Model, _: Calls) -> None:
    second(model.critic_target)[1] = nn.Tanh()


def hook_of_the_second_critic(model: Model, calls: Calls) -> None:
    second(model.critic).register_forward_hook(lambda *_: calls.append("second"))


def assign_q_networks_as_a_tuple(model: Model, _: Calls) -> None:
    for critic in (model.critic, model.critic_target):
        critic.q_networks = tuple(critic.q_networks)


# --- LayerNorm ---


def insert_layer_norm_everywhere(model: Model, _: Calls) -> None:
    for network in networks(model):
        for i in (3, 1):
            (network.mu if hasattr(network, "mu") else network.q_networks[0]).insert(i, nn.LayerNorm(16))
    for network in networks(model)[::2]:
        network.optimizer = th.optim.Adam(network.parameters())


def insert_layer_norm_after_the_activation(model: Model, _: Calls) -> None:
    for network in networks(model)[:2]:
        network.mu.insert(2, nn.LayerNorm(16))
    model.actor.optimizer = th.optim.Adam(model.actor.parameters())


def norms_of(*names: str) -> Callable[[Model], list[nn.LayerNorm]]:
    def norms(model: Model) -> list[nn.LayerNorm]:
        modules = [module for name in names for module in getattr(model, name).modules()]
        return [module for module in modules if isinstance(module, nn.LayerNorm)]

    return norms


def change_eps(norms: Callable[[Model], list[nn.LayerNorm]]) -> Callable[[Model, Calls], None]:
    def change(model: Model, _: Calls) -> None:
        for norm in norms(model):
            norm.eps = 0.5

    return change


def edit_norms(model: Model, _: Calls) -> None:
    with th.no_grad():
        for norm in norms_of("actor", "critic")(model):
            norm.weight.mul_(2)
            norm.bias.data = th.linspace(-1, 1, 16)


def freeze_norms(model: Model, _: Calls) -> None:
    for norm in norms_of("actor", "critic")(model):
        norm.requires_grad_(False)


def remove_weight(model: Model, _: Calls) -> None:
    for norm in norms_of("actor", "actor_target")(model):
        norm.weight = norm.bias = None
    model.actor.optimizer = th.optim.Adam(model.actor.parameters())


def replace_norms(model: Model, _: Calls) -> None:
    for actor in networks(model)[:2]:
        actor.mu[1] = nn.LayerNorm(16, eps=0.1)
    model.actor.optimizer = th.optim.Adam(model.actor.parameters())


def exchange_norms_for_rms_norm(model: Model, _: Calls) -> None:
    for actor in networks(model)[:2]:
        actor.mu[1] = nn.RMSNorm(16)
    model.actor.optimizer = th.optim.Adam(model.actor.parameters())


def remove_norms(model: Model, _: Calls) -> None:
    for actor in networks(model)[:2]:
        del actor.mu[1]
    model.actor.optimizer = th.optim.Adam(model.actor.parameters())


def hook_of_a_norm(model: Model, calls: Calls) -> None:
    norms_of("critic")(model)[0].register_forward_hook(lambda *_: calls.append("norm"))


# --- Optimizers ---


def new_adam(model: Model, _: Calls) -> None:
    model.actor.optimizer = th.optim.Adam(model.actor.parameters())


def new_sgd(model: Model, _: Calls) -> None:
    model.critic.optimizer = th.optim.SGD(model.critic.parameters())


def adam_with_two_groups(model: Model, _: Calls) -> None:
    params = list(model.actor.parameters())
    model.actor.optimizer = th.optim.Adam([{"params": params[:2], "weight_decay": 0.1}, {"params": params[2:]}])


def adam_of_the_last_layer(model: Model, _: Calls) -> None:
    model.actor.optimizer = th.optim.Adam(model.actor.mu[-2].parameters())


def adam_of_other_order(model: Model, _: Calls) -> None:
    model.actor.optimizer = th.optim.Adam(list(model.actor.parameters())[::-1])


def one_adam_for_all(model: Model, _: Calls) -> None:
    model.actor.optimizer = th.optim.Adam([*model.actor.parameters(), *model.critic.parameters()])


def drop_a_parameter(model: Model, _: Calls) -> None:
    del model.critic.optimizer.state[model.critic.optimizer.param_groups[0]["params"].pop()]


def add_a_parameter(model: Model, _: Calls) -> None:
    """The actor's optimizer trains the critic's first layer, too."""
    model.actor.optimizer.param_groups[0]["params"].append(q(model)[0].weight)


def option(name: str, value: Any) -> Callable[[Model, Calls], None]:
    def change(model: Model, _: Calls) -> None:
        model.critic.optimizer.param_groups[0][name] = value

    return change


def amsgrad(model: Model, _: Calls) -> None:
    model.critic.optimizer = th.optim.Adam(model.critic.parameters(), amsgrad=True)


def decouple_weight_decay(model: Model, _: Calls) -> None:
    model.critic.optimizer.param_groups[0].update(weight_decay=0.5, decoupled_weight_decay=True)


def adamw(model: Model, _: Calls) -> None:
    model.actor.optimizer = th.optim.AdamW(model.actor.parameters(), weight_decay=0.5)


def couple_adamw(model: Model, _: Calls) -> None:
    adamw(model, _)
    model.train(3, 8)
    model.actor.optimizer.param_groups[0]["decoupled_weight_decay"] = False


def adamw_with_amsgrad(model: Model, _: Calls) -> None:
    model.critic.optimizer = th.optim.AdamW(model.critic.parameters(), amsgrad=True)


def subclass_of_adamw(model: Model, _: Calls) -> None:
    model.critic.optimizer = overriding(th.optim.AdamW)(model.critic.parameters())


def clear_state(model: Model, _: Calls) -> None:
    model.actor.optimizer.state.clear()


def forget_one_parameter(model: Model, _: Calls) -> None:
    del model.actor.optimizer.state[first(model).weight]


def reset_state_in_place(model: Model, _: Calls) -> None:
    for state in model.actor.optimizer.state.values():
        for value in state.values():
            value.zero_()


def reset_one_step(model: Model, _: Calls) -> None:
    model.actor.optimizer.state[first(model).weight]["step"].zero_()


def replace_state_tensors(model: Model, _: Calls) -> None:
    for state in model.actor.optimizer.state.values():
        state["exp_avg"] = th.full_like(state["exp_avg"], 1e-3)


def load_optimizer_state(model: Model, _: Calls) -> None:
    state = copy.deepcopy(model.critic.optimizer.state_dict())
    model.train(5, 8)
    model.critic.optimizer.load_state_dict(state)


def step_by_hand(model: Model, _: Calls) -> None:
    """An auxiliary loss, as in imitation."""
    observations = th.linspace(-1, 1, 15).view(5, 3)
    model.actor.optimizer.zero_grad()
    (model.actor(observations) - 0.3).pow(2).mean().backward()
    model.actor.optimizer.step()


# --- Hooks, wrapped and replaced methods ---


def clip_gradients_by_hooks(model: Model, calls: Calls) -> None:
    for param in model.policy.parameters():
        param.register_hook(lambda grad: (calls.append("hook"), grad.clamp(-1e-3, 1e-3))[1])


def hook_of_a_critic_parameter(model: Model, calls: Calls) -> None:
    q(model)[0].weight.register_hook(lambda grad: calls.append(f"{grad.shape}"))


def hook_after_accumulation(model: Model, calls: Calls) -> None:
    def halve(param: th.Tensor) -> None:
        calls.append("accumulated")
        param.grad *= 0.5

    for param in model.critic.parameters():
        param.register_post_accumulate_grad_hook(halve)


def hook_that_is_removed(model: Model, _: Calls) -> None:
    handle = first(model).weight.register_hook(lambda grad: 0 * grad)
    model.train(3, 8)
    handle.remove()


def forward_hook(model: Model, calls: Calls) -> None:
    model.actor.register_forward_hook(lambda _module, _input, output: (calls.append("forward"), 0.5 * output)[1])


def forward_hook_that_knows_the_mode(model: Model, _: Calls) -> None:
    model.actor.register_forward_hook(lambda module, _, output: 0.5 * output if module.training else output)


def forward_pre_hook_of_a_layer(model: Model, calls: Calls) -> None:
    q(model)[2].register_forward_pre_hook(lambda _, inputs: (calls.append("pre"), (0.5 * inputs[0],))[1])


def forward_hook_of_a_target(model: Model, calls: Calls) -> None:
    model.critic_target.register_forward_hook(lambda *_: calls.append("target"))


def backward_hook(model: Model, calls: Calls) -> None:
    q(model)[2].register_full_backward_hook(lambda *_: calls.append("backward"))


def hook_of_all_modules(model: Model, calls: Calls) -> Any:
    return register_module_forward_hook(lambda *_: calls.append("any")).remove


def step_pre_hook(model: Model, calls: Calls) -> None:
    def clip(optimizer: Any, *_: Any) -> None:
        calls.append("pre")
        nn.utils.clip_grad_norm_(model.critic.parameters(), 1e-3)

    model.critic.optimizer.register_step_pre_hook(clip)


def step_post_hook(model: Model, calls: Calls) -> None:
    def project(*_: Any) -> None:
        calls.append("post")
        with th.no_grad():
            first(model).weight.clamp_(-0.3, 0.3)

    model.actor.optimizer.register_step_post_hook(project)


def hook_of_all_optimizers(model: Model, calls: Calls) -> Any:
    return register_optimizer_step_pre_hook(lambda *_: calls.append("any")).remove


def wrap_step(model: Model, calls: Calls) -> None:
    def clipped(step: Any) -> Any:
        def wrapped(*args: Any) -> Any:
            calls.append("step")
            nn.utils.clip_grad_norm_(model.critic.parameters(), 1e-3)
            return step(*args)

        return wrapped

    replaced(model.critic.optimizer, "step", clipped)


def wrap_zero_grad(model: Model, calls: Calls) -> None:
    model.critic.optimizer.zero_grad()
    replaced(model.critic.optimizer, "zero_grad", lambda _: lambda *args: calls.append("zero_grad"))  # accumulates


def attach_a_scheduler(model: Model, _: Calls) -> None:
    StepLR(model.actor.optimizer, 1)  # it wraps `step`, to know whether it was called


def replace_actor_forward(model: Model, calls: Calls) -> None:
    replaced(model.actor, "forward", lambda forward: lambda obs: (calls.append("forward"), 0.5 * forward(obs))[1])


def replace_layer_forward(model: Model, calls: Calls) -> None:
    replaced(q(model)[0], "forward", lambda forward: lambda x: (calls.append("forward"), 0.5 * forward(x))[1])


def replace_critic_forward(model: Model, _: Calls) -> None:
    replaced(model.critic_target, "forward", lambda forward: lambda *x: tuple(0.5 * y for y in forward(*x)))


def replace_q1_forward(model: Model, _: Calls) -> None:
    replaced(model.critic, "q1_forward", lambda forward: lambda *x: -forward(*x))


def replace_policy_predict(model: Model, calls: Calls) -> None:
    def constant(predict: Any) -> Any:
        return lambda *args, **kwargs: (calls.append("predict"), (0 * predict(*args, **kwargs)[0] + 0.5, None))[1]

    replaced(model.policy, "predict", constant)


def replace_policy_hidden_predict(model: Model, calls: Calls) -> None:
    def halved(predict: Any) -> Any:
        return lambda *args, **kwargs: (calls.append("_predict"), 0.5 * predict(*args, **kwargs))[1]

    replaced(model.policy, "_predict", halved)


def replace_model_predict(model: Model, calls: Calls) -> None:
    def constant(predict: Any) -> Any:
        return lambda *args, **kwargs: (calls.append("predict"), (0 * predict(*args, **kwargs)[0] + 0.5, None))[1]

    replaced(model, "predict", constant)


def replace_scaling(model: Model, calls: Calls) -> None:
    replaced(model.policy, "unscale_action", lambda unscale: lambda a: (calls.append("unscale"), unscale(0.5 * a))[1])


def patch_the_class(model: Model, calls: Calls) -> Any:
    actor_class = type(model.actor)
    forward = actor_class.forward

    def halved(self: Any, obs: Any) -> Any:
        calls.append("forward")
        return 0.5 * forward(self, obs)

    actor_class.forward = halved
    return lambda: setattr(actor_class, "forward", forward)


def detect_anomalies(_: Model, __: Calls) -> Any:
    th.autograd.set_detect_anomaly(True)
    return lambda: th.autograd.set_detect_anomaly(False)


# --- Replay buffers and samples ---


def relabel_rewards(model: Model, _: Calls) -> None:
    model.replay_buffer.rewards = np.full_like(model.replay_buffer.rewards, 7.0)


def relabel_in_place(model: Model, _: Calls) -> None:
    model.replay_buffer.rewards[:] = 7.0
    model.replay_buffer.observations *= 0.5


def assign_what_is_edited_later(model: Model, _: Calls) -> None:
    rewards = model.replay_buffer.rewards.copy()
    model.replay_buffer.rewards = rewards
    model.train(3, 8)
    rewards += 5


def assign_a_dataset(model: Model, _: Calls) -> None:
    buffer, n = model.replay_buffer, 30
    grid = np.linspace(-1, 1, 3 * n, dtype=np.float32).reshape(n, 1, 3)
    buffer.observations, buffer.next_observations, buffer.actions = grid, grid[::-1].copy(), grid[..., :1].copy()
    buffer.rewards, buffer.dones, buffer.timeouts = (grid[..., i].copy() for i in range(3))
    buffer.buffer_size, buffer.pos, buffer.full = n, 0, True


def another_buffer(model: Model, _: Calls) -> None:
    new = ReplayBuffer(100, model.observation_space, model.action_space, "cpu")
    for _ in range(20):
        obs = np.ones((1, 3), dtype=np.float32)
        new.add(obs, 0.5 * obs, 0.1 * obs[:, :1], obs[:, 0], np.zeros(1), [{}])
    model.replay_buffer = new


def wrap_sample(model: Model, calls: Calls) -> None:
    def relabelled(sample: Any) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            calls.append("sample")
            batch = sample(*args, **kwargs)
            return batch._replace(rewards=batch.rewards + 1)

        return wrapped

    replaced(model.replay_buffer, "sample", relabelled)


def other_samples(change: Callable[[Any], Any]) -> Callable[[Model, Calls], None]:
    """:return: Makes the replay buffer's samples into what the function returns for them"""

    def changed(sample: Any) -> Any:
        return lambda *args, **kwargs: change(sample(*args, **kwargs))

    return lambda model, _: replaced(model.replay_buffer, "sample", changed)


def flat_rewards(batch: Any) -> Any:
    return batch._replace(rewards=batch.rewards.flatten())  # SB3 broadcasts, with a warning of PyTorch


def float64_samples(batch: Any) -> Any:
    return batch._replace(observations=batch.observations.double(), next_observations=batch.next_observations.double())


def samples_of_five(batch: Any) -> Any:
    return ReplayBufferSamples(*batch[:5])


# --- Random numbers and environments ---


def draw_random_numbers(*_: Any) -> None:
    mtrand.random(3)


def another_bit_generator(*_: Any) -> Callable[[], None]:
    before = mtrand.get_bit_generator()
    mtrand.set_bit_generator(np.random.PCG64(3))
    return lambda: mtrand.set_bit_generator(before)


def replace_env_step(model: Model, _: Calls) -> None:
    step = model.env.step
    model.env.step = lambda actions: step(0.5 * actions)


def replace_step_of_one_env(model: Model, _: Calls) -> None:
    env = model.env.envs[0]
    step = env.step
    env.step = lambda action: step(0.5 * action)


def edit_last_observation(model: Model, _: Calls) -> None:
    model._last_obs[:] = 0.25


def edit_bounds(model: Model, _: Calls) -> None:
    model.policy.action_space.low[:] = -0.5


# --- Settings of the algorithm ---


def attribute(name: str, value: Any) -> Callable[[Model, Calls], None]:
    return lambda model, _: setattr(model, name, value)


def two_learning_rates(model: Model, _: Calls) -> None:
    model._update_learning_rate = lambda optimizers: None
    model.actor.optimizer.param_groups[0]["lr"] = 1e-4
    model.critic.optimizer.param_groups[0]["lr"] = th.tensor(1e-2)


def another_default_type(_: Model, __: Calls) -> Any:
    th.set_default_dtype(th.float64)
    return lambda: th.set_default_dtype(th.float32)


def nothing(_: Model, __: Calls) -> None:
    """The row that everything is compared with."""


TABLE: dict[str, Row] = {
    "nothing": Row(nothing, matters=False),
    # Weights and modules
    "one layer frozen": Row(freeze_one_layer, "some weights are frozen"),
    "the actor frozen": Row(freeze_the_actor, "some weights are frozen"),
    "frozen for a while": Row(freeze_and_thaw, "more steps for some weights"),
    "weights edited in place": Row(edit_in_place),
    ".data assigned": Row(assign_data),
    ".data assigned and edited elsewhere": Row(assign_data_that_somebody_else_edits),
    ".data transposed": Row(assign_transposed_data, "not contiguous"),
    "a Parameter assigned": Row(assign_a_parameter, "optimizer does not hold the actor's weights"),
    "load_state_dict": Row(load_state_dict),
    "load_state_dict(assign=True)": Row(load_state_dict_by_assignment),
    "load_from_vector": Row(load_from_vector),
    "set_parameters": Row(set_parameters),
    "share_memory": Row(share_memory, matters=False),
    "to another type and back": Row(to_and_back, matters=False),
    "a layer replaced": Row(replace_a_layer, "optimizer does not hold the actor's weights"),
    "a layer and the optimizer replaced": Row(replace_a_layer_and_the_optimizer),
    "the actor's network replaced": Row(replace_the_actor_network),
    "a target replaced": Row(replace_a_target),
    "the alias replaced": Row(replace_the_alias_only, "model.actor, model.critic or a target is not"),
    "critic and target are one": Row(let_target_and_critic_be_one, "share weights"),
    "q_networks replaced": Row(replace_in_q_networks, "q_networks"),
    "q_networks assigned": Row(assign_q_networks, "q_networks"),
    "q_networks as a tuple": Row(assign_q_networks_as_a_tuple, matters=False),
    "two outputs of a critic": Row(two_outputs, "sizes"),
    "weights beside the layers": Row(add_what_only_follows, "weights that are not in"),
    "a layer used twice": Row(use_a_layer_twice, "share weights"),
    "one bias for all units": Row(one_bias_for_all, "sizes"),
    "an activation exchanged": Row(exchange_an_activation),
    "an activation of one network exchanged": Row(exchange_an_activation_of_one_network, "different layers"),
    "a network's class changed": Row(change_the_class_of_a_layer, "is not SB3's Actor or ContinuousCritic"),
    "batch normalisation inserted": Row(insert_batch_norm, "not a plain MLP"),
    # Two critics
    **{
        f"two critics: {name}": Row(
            act, why_autograd, matters, {"policy_kwargs": {"net_arch": [16, 16], "n_critics": 2}}
        )
        for name, act, why_autograd, matters in (
            ("nothing", nothing, None, False),
            ("load_state_dict", load_state_dict, None, True),
            ("set_parameters", set_parameters, None, True),
            ("a target replaced", replace_a_target, None, True),
            ("the second edited in place", edit_the_second_critic, None, True),
            ("the second frozen", freeze_the_second_critic, "some weights are frozen", True),
            ("the second replaced", replace_the_second_critic, None, True),
            ("the second replaced alone", replace_the_second_critic_alone, "the critic's weights exactly", True),
            ("the second removed", remove_the_second_critic, None, True),
            ("the second ignored", ignore_the_second_critic, "q_networks", True),
            ("the second target ignored", ignore_the_second_target, "q_networks", True),
            ("exchanged", exchange_the_critics, "q_networks", True),
            ("a layer shared", let_critics_share_a_layer, "share weights", True),
            ("the second's activation", exchange_the_second_critics_activation, None, True),
            ("the second target's activation", exchange_the_second_targets_activation, "different layers", True),
            ("a hook of the second", hook_of_the_second_critic, "modules have hooks", False),
            ("q1_forward replaced", replace_q1_forward, "q1_forward was replaced", True),
            ("a parameter dropped", drop_a_parameter, "the critic's weights exactly", True),
            ("one step counter reset", reset_one_step, "more steps for some weights", True),
            ("weight_decay", option("weight_decay", 0.1), None, True),
        )
    },
    # LayerNorm
    "LayerNorm inserted": Row(insert_layer_norm_everywhere),
    "LayerNorm inserted after the activation": Row(insert_layer_norm_after_the_activation, "not a plain MLP"),
    **{
        f"LayerNorm: {name}": Row(
            act,
            why_autograd,
            matters,
            {"policy": LayerNormPolicy, "policy_kwargs": {"net_arch": [16, 16], "actor_layer_norm": True}},
        )
        for name, act, why_autograd, matters in (
            ("nothing", nothing, None, False),
            ("load_state_dict", load_state_dict, None, True),
            ("set_parameters", set_parameters, None, True),
            ("weights edited", edit_norms, None, True),
            ("frozen", freeze_norms, "some weights are frozen", True),
            ("eps", change_eps(norms_of("actor", "actor_target", "critic", "critic_target")), None, True),
            ("the actors' eps", change_eps(norms_of("actor", "actor_target")), None, True),
            ("the critics' eps", change_eps(norms_of("critic", "critic_target")), None, True),
            ("eps of the actor alone", change_eps(norms_of("actor")), "different layers", True),
            ("eps of the target alone", change_eps(norms_of("critic_target")), "different layers", True),
            ("without weight and bias", remove_weight, "LayerNorm with weight and bias", True),
            ("replaced", replace_norms, None, True),
            ("replaced by RMSNorm", exchange_norms_for_rms_norm, "not a plain MLP", True),
            ("removed", remove_norms, None, True),
            ("a hook", hook_of_a_norm, "modules have hooks", False),
            ("a step by hand", step_by_hand, None, True),
        )
    },
    # Optimizers
    "a new Adam": Row(new_adam),
    "SGD": Row(new_sgd, "optimizer is SGD"),
    "Adam with two groups": Row(adam_with_two_groups, "one group"),
    "Adam of one layer": Row(adam_of_the_last_layer, "optimizer does not hold the actor's weights"),
    "Adam of another order": Row(adam_of_other_order, "optimizer does not hold the actor's weights"),
    "one Adam for both": Row(one_adam_for_all, "optimizer does not hold the actor's weights"),
    "a parameter dropped": Row(drop_a_parameter, "optimizer does not hold the critic's weights"),
    "a parameter added": Row(add_a_parameter, "optimizer does not hold the actor's weights"),
    "betas": Row(option("betas", (0.5, 0.9))),
    "weight_decay": Row(option("weight_decay", 0.1)),
    "eps": Row(option("eps", 0.1)),
    "maximize": Row(option("maximize", True), "maximize"),
    "decoupled_weight_decay without weight decay": Row(option("decoupled_weight_decay", True), matters=False),
    "decoupled_weight_decay": Row(decouple_weight_decay),
    "AdamW": Row(adamw),
    "AdamW's weight decay added to the gradient": Row(couple_adamw),
    "AdamW with amsgrad": Row(adamw_with_amsgrad, "amsgrad"),
    "a subclass of AdamW": Row(subclass_of_adamw, "optimizer is Mine, not Adam or AdamW"),
    "amsgrad": Row(amsgrad, "amsgrad"),
    "Adam's state cleared": Row(clear_state),
    "Adam's state of one parameter deleted": Row(forget_one_parameter, "more steps for some weights"),
    "Adam's state reset in place": Row(reset_state_in_place),
    "one step counter reset": Row(reset_one_step, "more steps for some weights"),
    "Adam's tensors replaced": Row(replace_state_tensors),
    "Adam's state loaded": Row(load_optimizer_state),
    "a step by hand": Row(step_by_hand),
    # Hooks, wrapped and replaced methods
    "gradients clipped by hooks": Row(clip_gradients_by_hooks, "weights have hooks"),
    "a hook of a critic's parameter": Row(hook_of_a_critic_parameter, "weights have hooks", matters=False),
    "hooks after accumulation": Row(hook_after_accumulation, "weights have hooks"),
    "a hook for a while": Row(hook_that_is_removed),
    "a forward hook": Row(forward_hook, "modules have hooks"),
    "a forward hook that knows the mode": Row(forward_hook_that_knows_the_mode, "modules have hooks"),
    "a forward pre-hook of a layer": Row(forward_pre_hook_of_a_layer, "modules have hooks"),
    "a forward hook of a target": Row(forward_hook_of_a_target, "modules have hooks", matters=False),
    "a backward hook": Row(backward_hook, "modules have hooks", matters=False),
    "a hook of all modules": Row(hook_of_all_modules, "hooks for all modules", matters=False),
    "a hook before the optimizer's step": Row(step_pre_hook, "an optimizer has hooks"),
    "a hook after the optimizer's step": Row(step_post_hook, "an optimizer has hooks"),
    "a hook of all optimizers": Row(hook_of_all_optimizers, "hooks for all optimizers", matters=False),
    "optimizer.step wrapped": Row(wrap_step, "optimizer.step was replaced"),
    "optimizer.zero_grad replaced": Row(wrap_zero_grad, "optimizer.zero_grad was replaced"),
    "a learning-rate scheduler": Row(attach_a_scheduler, "optimizer.step was replaced", matters=False),
    "actor.forward replaced": Row(replace_actor_forward, "policy.actor.forward was replaced"),
    "a layer's forward replaced": Row(replace_layer_forward, "forward was replaced"),
    "critic_target.forward replaced": Row(replace_critic_forward, "policy.critic_target.forward was replaced"),
    "critic.q1_forward replaced": Row(replace_q1_forward, "policy.critic.q1_forward was replaced"),
    "policy.predict replaced": Row(replace_policy_predict, "policy.predict was replaced"),
    "policy._predict replaced": Row(replace_policy_hidden_predict, "policy._predict was replaced"),
    "model.predict replaced": Row(replace_model_predict),
    "policy.unscale_action replaced": Row(replace_scaling, "policy.unscale_action was replaced"),
    "Actor.forward patched": Row(patch_the_class, "Actor.forward was replaced"),
    "anomaly detection": Row(detect_anomalies, "anomaly detection", matters=False),
    # Replay buffers
    "rewards assigned": Row(relabel_rewards),
    "arrays edited in place": Row(relabel_in_place),
    "rewards assigned and edited elsewhere": Row(assign_what_is_edited_later),
    "a dataset assigned": Row(assign_a_dataset),
    "another buffer": Row(another_buffer),
    "buffer.sample wrapped": Row(wrap_sample),
    "flat rewards": Row(other_samples(flat_rewards)),
    "float64 samples": Row(other_samples(float64_samples), matters=False),
    "samples without discounts": Row(other_samples(samples_of_five), matters=False),
    # Settings of the algorithm
    "tau": Row(attribute("tau", 0.5)),
    "gamma": Row(attribute("gamma", 0.5)),
    "two learning rates": Row(two_learning_rates),
    "another default type": Row(another_default_type, matters=False),
    "lr_schedule": Row(attribute("lr_schedule", FloatSchedule(1e-2))),
    "batch_size": Row(attribute("batch_size", 13)),
    "gradient_steps": Row(attribute("gradient_steps", 3)),
    "train_freq": Row(attribute("train_freq", TrainFreq(3, TrainFrequencyUnit.STEP))),
    "action_noise": Row(attribute("action_noise", noise(0.5))),
    "action_noise removed": Row(attribute("action_noise", None)),
    "the noise's sigma": Row(lambda model, _: setattr(model.action_noise, "_sigma", 0.5 * np.ones(1))),
    "the noise's sigma in place": Row(lambda model, _: model.action_noise._sigma.fill(0.5)),
    # Random numbers
    "seeded again": Row(lambda *_: mtrand.seed(7)),
    "random numbers drawn by somebody else": Row(draw_random_numbers),
    "another bit generator": Row(another_bit_generator),
    # Environments
    "env.step replaced": Row(replace_env_step),
    "an environment's step replaced": Row(replace_step_of_one_env),
    "the last observation edited": Row(edit_last_observation),
    "buf_obs edited": Row(lambda model, _: model.env.buf_obs[None].fill(0.5), matters=False),
    "the action space's bounds edited": Row(edit_bounds),
}


@dataclass
class Result:
    model: Model
    calls: Calls


def make(kind: Any, base: Any = None, **kwargs: Any) -> Model:
    env = gym.make("Pendulum-v1")
    defaults = {
        "policy": "MlpPolicy",
        "policy_kwargs": {"net_arch": [16, 16]},
        "learning_starts": 20,
        "batch_size": 8,
        "buffer_size": 100,
        "action_noise": noise(),
        "seed": 0,
        "device": "cpu",
    }
    if kind == "SB3":
        return (base or DDPG)(env=env, **{**defaults, **kwargs})
    return (base or CustomDDPG)(env=env, fused=kind, **{**defaults, **kwargs})


class AtStep(BaseCallback):
    def __init__(self, act: Callable[[], Any]) -> None:
        super().__init__()
        self.act, self.undo = act, None

    def _on_step(self) -> bool:
        if self.num_timesteps == AT:
            self.undo = self.act()
        return True


def run(kind: Any, act: Callable[[Model, Calls], Any], in_callback: bool = True, **kwargs: Any) -> Result:
    model, calls = make(kind, **kwargs), Calls()
    callback = AtStep(lambda: act(model, calls))
    if not in_callback:
        model.learn(AT)
        callback.undo = act(model, calls)
        callback.act = lambda: None
    try:
        model.learn(STEPS if in_callback else STEPS - AT, callback, reset_num_timesteps=in_callback)
    finally:
        if callback.undo is not None:
            callback.undo()
    return Result(model, calls)


def contents(model: Model) -> dict[str, np.ndarray]:
    """Everything that a run ends with."""
    arrays = {name: value.numpy() for name, value in model.policy.state_dict().items()}
    for name in ("actor", "critic"):
        for i, state in getattr(model, name).optimizer.state_dict()["state"].items():
            arrays |= {
                f"{name}.optimizer.{i}.{key}": value.numpy() for key, value in state.items() if value is not None
            }
    buffer = model.replay_buffer
    return arrays | {key: getattr(buffer, key) for key in ("observations", "actions", "rewards", "dones")}


def difference(ours: Model, theirs: Model) -> float:
    """The largest of all numbers; infinite where they are not even as many."""
    a, b = contents(ours), contents(theirs)
    if a.keys() != b.keys() or any(a[name].shape != b[name].shape for name in a):
        return np.inf
    return max(float(np.max(np.abs(a[name].astype(np.float64) - b[name]))) for name in a)


def saved(model: Model) -> bool:
    """Whether it can be saved: SB3 cannot pickle everything that users put into a model."""
    try:
        model.save(io.BytesIO())
    except (TypeError, AttributeError, pickle.PicklingError, ValueError):
        return False
    return True


@pytest.fixture(scope="module")
def untouched() -> Model:
    return run("auto", nothing).model


IN_CALLBACK = pytest.mark.parametrize("in_callback", [True, False], ids=["in a callback", "between two calls"])


@IN_CALLBACK
@pytest.mark.parametrize("name", TABLE)
@pytest.mark.filterwarnings("ignore:Using a target size")  # of flat rewards
@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.filterwarnings("ignore:action_noise=None")
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_what_users_do_counts(name: str, in_callback: bool, untouched: Model) -> None:
    act, why_autograd, matters, kwargs = TABLE[name]
    if kwargs:
        untouched = run("auto", nothing, **kwargs).model
    sb3, reference, auto = (run(kind, act, in_callback, **kwargs) for kind in ("SB3", False, "auto"))
    assert difference(reference.model, sb3.model) == BITWISE
    assert reference.calls == sb3.calls
    assert difference(auto.model, reference.model) < ROUNDING
    assert auto.calls == reference.calls
    assert saved(auto.model) == saved(sb3.model)
    # The closed form is left where it has to be, and only there
    reason = auto.model._fast_path.why_autograd
    assert (reason is None) == (why_autograd is None), reason
    assert why_autograd is None or why_autograd in reason
    # A row that changes nothing would show nothing
    assert not in_callback or auto.calls or not matters or difference(auto.model, untouched) > 1e-3


def overriding(base: Any, **methods: Any) -> Any:
    return type("Mine", (base,), methods)


def guided(self: Any, observation: Any, *_: Any, **__: Any) -> Any:
    return np.full((len(observation), 1), 0.5, dtype=np.float32), None


def half_the_steps(base: Any) -> Any:
    return lambda self, gradient_steps, batch_size=100: base.train(self, gradient_steps, batch_size // 2)


def without_gradient_steps(self: Any, gradient_steps: int, batch_size: int = 100) -> None:
    self._n_updates += gradient_steps
    with th.no_grad():
        for param in self.actor.parameters():
            param.mul_(0.99)


def two_rates(self: Any, optimizers: Any) -> None:
    """The paper's: 1e-4 for the actor, and here a schedule for the critic."""
    actor, critic = optimizers
    actor.param_groups[0]["lr"] = 1e-4
    critic.param_groups[0]["lr"] = 1e-2 * self._current_progress_remaining


def doubled_actions(base: Any) -> Any:
    def sample(self: Any, *args: Any) -> Any:
        action, buffer_action = base._sample_action(self, *args)
        return 0.5 * action, 0.5 * buffer_action

    return sample


def shaped_rewards(base: Any) -> Any:
    def store(self: Any, buffer: Any, action: Any, new_obs: Any, reward: Any, dones: Any, infos: Any) -> None:
        base._store_transition(self, buffer, action, new_obs, reward - 1, dones, infos)

    return store


SUBCLASSES: dict[str, Callable[[Any], Any]] = {
    "predict": lambda base: overriding(base, predict=guided),
    "train calls SB3's or ours": lambda base: overriding(base, train=half_the_steps(base)),
    "train": lambda base: overriding(base, train=without_gradient_steps),
    "_update_learning_rate": lambda base: overriding(base, _update_learning_rate=two_rates),
    "_sample_action": lambda base: overriding(base, _sample_action=doubled_actions(base)),
    "_store_transition": lambda base: overriding(base, _store_transition=shaped_rewards(base)),
}


@pytest.mark.parametrize("name", SUBCLASSES)
def test_what_a_subclass_overrides_is_called(name: str, untouched: Model) -> None:
    make_class = SUBCLASSES[name]
    sb3 = run("SB3", nothing, base=make_class(DDPG)).model
    reference, auto = (run(kind, nothing, base=make_class(CustomDDPG)).model for kind in (False, "auto"))
    assert difference(reference, sb3) == BITWISE
    assert difference(auto, reference) < ROUNDING
    assert difference(auto, untouched) > 1e-3
    assert auto._fast_path.why_autograd is None


@pytest.mark.parametrize("name", ["actor.forward replaced", "policy.predict replaced", "weights edited in place"])
def test_actions_in_the_middle_of_a_long_rollout(name: str) -> None:
    """What a callback does counts at the very next action, not only after the rollout."""
    kwargs = {"train_freq": 100, "gradient_steps": 5, "learning_starts": 10}
    sb3, reference, auto = (run(kind, TABLE[name].act, **kwargs).model for kind in ("SB3", False, "auto"))
    assert difference(reference, sb3) == BITWISE
    assert difference(auto, reference) < ROUNDING


# --- Parameter noise, which SB3 does not have ---


def replace_the_policy(model: Model, _: Calls) -> None:
    model.policy = copy.deepcopy(model.policy)
    for name in ("actor", "actor_target", "critic", "critic_target"):
        setattr(model, name, getattr(model.policy, name))
    edit_in_place(model, _)


PARAMETER_NOISE: dict[str, Callable[[Model, Calls], Any]] = {
    **{
        name: TABLE[name].act
        for name in (
            "weights edited in place",
            ".data assigned",
            ".data assigned and edited elsewhere",
            "load_state_dict",
            "set_parameters",
            "one layer frozen",
            "the actor frozen",
            "a layer and the optimizer replaced",
            "the actor's network replaced",
            "one bias for all units",
            "batch normalisation inserted",
            "LayerNorm inserted",
            "a forward hook",
            "actor.forward replaced",
            "policy.predict replaced",
            "model.predict replaced",
            "another buffer",
            "arrays edited in place",
            "action_noise",
            "the last observation edited",
            "the action space's bounds edited",
        )
    },
    "the policy replaced": replace_the_policy,
    "std": lambda model, _: setattr(model.action_noise.process, "std", 0.8),
    "std in place": lambda model, _: model.action_noise.process.std.fill(0.8),
    "adaptation_interval": lambda model, _: setattr(model.action_noise.process, "adaptation_interval", 1),
    "seeded again": lambda model, _: model.set_random_seed(7),
    "a reset": lambda model, _: model.action_noise.reset(),
    "replaced by its name": attribute("action_noise", {"type": "parameter", "std": 0.8}),
    "scheduled": attribute("action_noise", {"type": "parameter", "schedule": 3.0}),
}


def compared_with_autograd(act: Callable[[Model, Calls], Any], kwargs: dict[str, Any]) -> tuple[Result, Result]:
    """:return: The run in closed form with what users do, and the one without; where SB3 has no run to compare with"""
    untouched, reference, auto = (
        run(kind, do, **kwargs) for kind, do in (("auto", nothing), (False, act), ("auto", act))
    )
    assert difference(auto.model, reference.model) < ROUNDING
    assert auto.calls == reference.calls
    assert auto.calls or difference(auto.model, untouched.model) > 1e-3
    return auto, untouched


@pytest.mark.parametrize("name", PARAMETER_NOISE)
def test_what_users_do_counts_with_parameter_noise(name: str) -> None:
    """Also at the very next action, in the middle of a rollout and of an episode."""
    kwargs = {"action_noise": {"type": "parameter", "std": 0.2, "adaptation_interval": 4}, "train_freq": 10}
    results = compared_with_autograd(PARAMETER_NOISE[name], kwargs)
    if name in ("weights edited in place", "the policy replaced", "std", "std in place", "a reset"):
        actions, without = (result.model.replay_buffer.actions[:, 0, 0] for result in results)
        assert np.array_equal(actions[:AT], without[:AT])
        assert actions[AT] != without[AT]


# --- Prioritized replay, which SB3 does not have, either ---


def set_priorities(model: Model, _: Calls) -> None:
    buffer = model.replay_buffer
    buffer.update_priorities(np.arange(buffer.size()), th.linspace(0, 100, buffer.size()))


def wrap_update_priorities(model: Model, calls: Calls) -> None:
    def half(update: Any) -> Any:
        def wrapped(indices: Any, td_errors: Any) -> None:
            calls.append("update_priorities")
            update(indices, 0.5 * td_errors)

        return wrapped

    replaced(model.replay_buffer, "update_priorities", half)


def equal_weights(batch: Any) -> Any:
    return batch._replace(weights=th.ones_like(batch.weights))


def flat_weights(batch: Any) -> Any:
    return batch._replace(weights=batch.weights.flatten())  # PyTorch broadcasts them


def of_the_buffer(name: str, value: Any) -> Callable[[Model, Calls], None]:
    return lambda model, _: setattr(model.replay_buffer, name, value)


PRIORITIZED: dict[str, Callable[[Model, Calls], Any]] = {
    **{
        name: TABLE[name].act
        for name in (
            "one layer frozen",
            "weights edited in place",
            ".data assigned and edited elsewhere",
            "set_parameters",
            "the actor's network replaced",
            "LayerNorm inserted",
            "batch normalisation inserted",
            "a new Adam",
            "SGD",
            "gradients clipped by hooks",
            "optimizer.step wrapped",
            "critic.q1_forward replaced",
            "arrays edited in place",
            "another buffer",
            "buffer.sample wrapped",
            "samples without discounts",  # and without weights
            "gamma",
            "batch_size",
            "gradient_steps",
        )
    },
    "priorities set": set_priorities,
    "update_priorities wrapped": wrap_update_priorities,
    "equal weights": other_samples(equal_weights),
    "flat weights": other_samples(flat_weights),
    "alpha": of_the_buffer("alpha", 0.0),
    "beta_schedule": of_the_buffer("beta_schedule", lambda _: 0.0),
    "eps": of_the_buffer("eps", 10.0),
    "max_priority": of_the_buffer("max_priority", 100.0),
}


@pytest.mark.parametrize("n_critics", [1, 2])
@pytest.mark.parametrize("name", PRIORITIZED)
def test_what_users_do_counts_with_prioritized_replay(name: str, n_critics: int) -> None:
    policy_kwargs = {"net_arch": [16, 16], "n_critics": n_critics}
    kwargs = {"replay_buffer_class": PrioritizedReplayBuffer, "policy_kwargs": policy_kwargs}
    auto, untouched = compared_with_autograd(PRIORITIZED[name], kwargs)
    assert untouched.model._fast_path.why_autograd is None
    reason, expected = auto.model._fast_path.why_autograd, TABLE[name].why_autograd if name in TABLE else None
    assert (reason is None) == (expected is None), reason
    assert expected is None or expected in reason


def test_what_computes_is_logged(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sb3_ddpg_ext.fused.update.library", lambda: None)
    make("auto", verbose=1).learn(20)
    assert "closed form by PyTorch: the kernel needs a processor with AVX2, and a C" in capsys.readouterr().out


def test_the_reason_is_logged(capsys: pytest.CaptureFixture[str]) -> None:
    make("auto", verbose=1).learn(30)
    assert "Gradient steps are computed in closed form by the compiled kernel-" in capsys.readouterr().out
    model = make("auto", verbose=1)
    model.learn(40, AtStep(lambda: None))
    capsys.readouterr()
    first(model).weight.register_hook(lambda grad: grad)
    model.learn(30, reset_num_timesteps=False)
    lines = [line for line in capsys.readouterr().out.splitlines() if "Gradient steps" in line]
    assert lines == ["Gradient steps are computed by autograd: weights have hooks"]  # once, not at each step
    make("auto", verbose=0).learn(30)
    assert capsys.readouterr().out == ""


def test_fused_true_refuses_what_it_cannot_do() -> None:
    model = make(True)
    model.learn(30)
    first(model).weight.register_hook(lambda grad: grad)
    with pytest.raises(ValueError, match="fused=True is not possible here: weights have hooks"):
        model.learn(10, reset_num_timesteps=False)
