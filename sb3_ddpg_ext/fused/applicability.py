"""
Decides whether the closed form computes the same as autograd, whatever a user has done to the policy.

:func:`why_not` checks everything and returns the reason if it does not. :class:`Snapshot` finds out quickly whether
anything has changed since that check, so that the closed form can be checked before every use.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, pairwise
from operator import attrgetter, is_
from typing import Any, cast

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.td3.policies import Actor, TD3Policy
from torch import nn
from torch.nn.modules import module as global_hooks
from torch.optim import optimizer as global_optimizer_hooks
from torch.utils.hooks import RemovableHandle

from sb3_ddpg_ext.fused.adam import STATE_KEYS
from sb3_ddpg_ext.fused.identity import Watch
from sb3_ddpg_ext.fused.layers import OPTIONS, Layer, layers
from sb3_ddpg_ext.fused.memory import online_and_target

# Methods that the closed form replaces, as Stable-Baselines3 defines them
_POLICY_METHODS = {
    name: getattr(TD3Policy, name)
    for name in ("forward", "_predict", "predict", "obs_to_tensor", "scale_action", "unscale_action")
}
_ACTOR_METHODS = {name: getattr(Actor, name) for name in ("forward", "extract_features")}
_CRITIC_METHODS = {name: getattr(ContinuousCritic, name) for name in ("forward", "q1_forward", "extract_features")}
_ADAM_OPTIONS = ("amsgrad", "maximize", "differentiable")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def why_not(policy: TD3Policy) -> str | None:
    """
    :param policy: Actor, critic, their targets and optimizers
    :return: None if the closed form computes the same as autograd, else the reason why not
    """
    reasons = chain(_spaces(policy), _methods(policy), _networks(policy), _weights(policy), _hooks(policy))
    return next(chain(reasons, _optimizers(policy)), None)


def _spaces(policy: TD3Policy) -> Iterator[str]:
    space = policy.observation_space
    if not isinstance(space, spaces.Box) or is_image_space(space) or space.dtype not in ("float32", "float64"):
        yield f"the observations are {space}, not a Box of floats"


def _methods(policy: TD3Policy) -> Iterator[str]:
    for network in (policy.actor, policy.actor_target, policy.critic, policy.critic_target):
        if type(network) not in (Actor, ContinuousCritic):
            yield f"{type(network).__name__} is not SB3's Actor or ContinuousCritic"
    overridden = [name for name, method in _POLICY_METHODS.items() if getattr(type(policy), name) is not method]
    if overridden:
        yield f"{type(policy).__name__} overrides {overridden[0]}"
    for cls, methods in ((Actor, _ACTOR_METHODS), (ContinuousCritic, _CRITIC_METHODS)):
        for name, method in methods.items():
            if getattr(cls, name) is not method:
                yield f"{cls.__name__}.{name} was replaced"
    for path, module in policy.named_modules():
        callables = {"forward", *(_POLICY_METHODS if module is policy else ()), *_ACTOR_METHODS, "q1_forward"}
        if replaced := sorted(callables & vars(module).keys()):
            yield f"{'.'.join(filter(None, ('policy', path)))}.{replaced[0]} was replaced"
    if not policy.squash_output:
        yield "the policy's actions are not in [-1, 1]"


def _networks(policy: TD3Policy) -> Iterator[str]:
    for network in (policy.actor, policy.actor_target, policy.critic, policy.critic_target):
        if type(network.features_extractor) is not FlattenExtractor:
            yield f"the features extractor is {type(network.features_extractor).__name__}, not FlattenExtractor"
    for critic in (policy.critic, policy.critic_target):
        registered = [module for name, module in critic.named_children() if name != "features_extractor"]
        if registered != list(critic.q_networks):
            yield "the critic's q_networks are not its modules qf0, qf1 and so on, whose weights are optimized"
    if len(policy.critic.q_networks) != len(policy.critic_target.q_networks):
        yield "the critic and its target have different numbers of q_networks"
    for online, target in online_and_target(policy):
        for net in (online, target):
            if layers(net) is None:
                yield (
                    "not a plain MLP of linear layers, LayerNorm with weight and bias and known activations: "
                    + " ".join(str(net).split())
                )
        if str(online) != str(target) or _options(online) != _options(target):
            yield "a network and its target have different layers"
    n_observations, n_actions = map(spaces.flatdim, (policy.observation_space, policy.action_space))
    for n_inputs, n_outputs, nets in (
        (n_observations, n_actions, (policy.actor.mu, policy.actor_target.mu)),
        (n_observations + n_actions, 1, (*policy.critic.q_networks, *policy.critic_target.q_networks)),
    ):
        if not all(_sizes_fit(layers(net) or [], n_inputs, n_outputs) for net in nets):
            yield "the sizes of layers do not fit together"
    if type(policy.actor.mu[-1]) is not nn.Tanh:
        yield "the actor does not end in Tanh, so that its target's actions would have to be clipped"


def _weights(policy: TD3Policy) -> Iterator[str]:
    online = [*policy.actor.parameters(), *policy.critic.parameters()]
    params = [*online, *policy.actor_target.parameters(), *policy.critic_target.parameters()]
    if not all(param.requires_grad for param in online):
        yield "some weights are frozen"
    # Not `net.parameters()`, which has each parameter once
    layers = [layer for nets in online_and_target(policy) for net in nets for layer in cast(nn.Sequential, net)]
    of_layers = [param for layer in layers for param in layer.parameters()]
    if set(of_layers) != set(params):
        yield "there are weights that are not in actor.mu or the critic's q_networks"
    if {param.dtype for param in params} != {th.float32}:
        yield "some weights are not float32"
    if len({param.device for param in params}) > 1 or params[0].device.type not in ("cpu", "cuda"):
        yield f"the device is {params[0].device}, not the CPU or a CUDA device"
    if not all(param.is_contiguous() for param in params):
        yield "some weights are not contiguous"
    if len({param.data_ptr() for param in of_layers}) != len(of_layers):
        yield "layers share weights"


def _hooks(policy: TD3Policy) -> Iterator[str]:
    if any(getattr(module, hooks) for module in policy.modules() for hooks in _HOOKS):
        yield "modules have hooks"
    if any(param._backward_hooks or param._post_accumulate_grad_hooks for param in policy.parameters()):
        yield "weights have hooks"
    if any(getattr(global_hooks, f"_global{hooks}") for hooks in _HOOKS):
        yield "there are hooks for all modules"
    if th.is_anomaly_enabled():
        yield "autograd's anomaly detection is on"
    if th.is_autocast_enabled(policy.device.type):
        yield "autocast is on"


def _optimizers(policy: TD3Policy) -> Iterator[str]:
    if global_optimizer_hooks._global_optimizer_pre_hooks or global_optimizer_hooks._global_optimizer_post_hooks:
        yield "there are hooks for all optimizers"
    for name, network in (("actor", policy.actor), ("critic", policy.critic)):
        optimizer, params = network.optimizer, list(network.parameters())
        if type(optimizer) not in (th.optim.Adam, th.optim.AdamW) or len(optimizer.param_groups) != 1:
            yield f"the optimizer is {type(optimizer).__name__}, not Adam or AdamW with one group of parameters"
        group = optimizer.param_groups[0]
        if len(group["params"]) != len(params) or not all(map(is_, group["params"], params)):
            yield f"the {name}'s optimizer does not hold the {name}'s weights exactly"
        if any(group.get(option) for option in _ADAM_OPTIONS):
            yield "Adam with amsgrad, maximize or differentiable"
        if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
            yield "an optimizer has hooks"
        if replaced := sorted({"step", "zero_grad"} & vars(optimizer).keys()):
            yield f"the {name}'s optimizer.{replaced[0]} was replaced"
        states = [optimizer.state.get(param) or {} for param in params]
        if any(state and set(state) != set(STATE_KEYS) for state in states):
            yield f"the state of the {name}'s optimizer is not that of Adam"
        if len({float(state.get("step", 0.0)) for state in states}) > 1:
            yield f"the {name}'s optimizer has done more steps for some weights than for others"


def _sizes_fit(of_net: list[Layer], n_inputs: int, n_outputs: int) -> bool:
    widths = [n_inputs, *[len(linear.weight) for linear, _, _ in of_net]]
    return widths[-1] == n_outputs and all(
        linear.weight.shape == (n_out, n_in)
        and linear.bias.shape == (n_out,)
        and (norm is None or norm.normalized_shape == norm.weight.shape == norm.bias.shape == (n_out,))
        for (linear, norm, _), (n_in, n_out) in zip(of_net, pairwise(widths), strict=True)
    )


def _options(net: nn.Module) -> list[Any]:
    return [getattr(module, OPTIONS[type(module)]) for module in net.modules() if type(module) in OPTIONS]


class Snapshot:
    """
    Remembers everything that :func:`why_not` checks, to find out quickly whether any of it has changed.

    What actions depend on is kept apart from the rest, because it is checked at every environment step.

    :param policy: A policy for which :func:`why_not` returns None
    """

    def __init__(self, policy: TD3Policy) -> None:
        self._policy = policy
        self._trained = [*policy.actor.parameters(), *policy.critic.parameters()]
        actor, critic, critic_target = policy.actor, policy.critic, policy.critic_target
        self._attributes = vars(actor), vars(critic), vars(critic_target)
        self._groups = [optimizer.param_groups[0] for optimizer in (actor.optimizer, critic.optimizer)]
        self._acting_modules = _watch(policy, *actor.modules())
        self._everything = _watch(
            *policy.modules(),
            lists=[critic.q_networks, critic_target.q_networks, *[group["params"] for group in self._groups]],
            optimizers=[actor.optimizer, critic.optimizer],
        )
        self._options = [
            (vars(module), OPTIONS[type(module)]) for module in policy.modules() if type(module) in OPTIONS
        ]
        self._old_acting_values, self._old_values = self._acting_values(), self._values()

    def acting_is_current(self) -> bool:
        """:return: Whether nothing that actions depend on has changed"""
        return bool(self._acting_modules.is_current()) and self._acting_values() == self._old_acting_values

    def is_current(self) -> bool:
        """:return: Whether nothing has changed"""
        return (
            bool(self._everything.is_current())
            and self._acting_values() == self._old_acting_values
            and self._values() == self._old_values
        )

    def _acting_values(self) -> list[Any]:
        policy = type(self._policy)
        return [
            RemovableHandle.next_id,  # a new hook on any module, parameter or optimizer increases it
            self._policy.squash_output,
            *[attributes[name] for attributes, name in self._options],
            policy,
            *map(type, self._policy._modules.values()),
            policy.predict,
            policy._predict,
            policy.forward,
            Actor.forward,
            self._policy.action_space,
        ]

    def _values(self) -> list[Any]:
        actor, critic, critic_target = self._attributes
        return [
            *map(_requires_grad, self._trained),
            *(actor["optimizer"], critic["optimizer"], critic["q_networks"], critic_target["q_networks"]),
            *[id(group["params"]) for group in self._groups],
            *[group.get(option) for group in self._groups for option in _ADAM_OPTIONS],
            ContinuousCritic.forward,
            ContinuousCritic.q1_forward,
            th.is_anomaly_enabled(),
            th.is_autocast_enabled("cpu"),
        ]


def _watch(
    *modules: nn.Module, lists: Iterable[Sequence[Any]] = (), optimizers: Sequence[th.optim.Optimizer] = ()
) -> Watch:
    return Watch(
        [*lists, *[optimizer.param_groups for optimizer in optimizers]],
        dicts=[
            *[contents for module in modules for contents in (module._parameters, module._modules)],
            *map(vars, optimizers),
        ],
        sized=map(vars, modules),  # a method that is replaced on the object itself is one more attribute
    )


_requires_grad = attrgetter("requires_grad")
