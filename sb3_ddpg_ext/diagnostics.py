"""
What the log says of the networks: their values and errors on a minibatch, the sizes of gradients and weights, units
that are dead, actions at their bounds. Nothing here changes what is trained.
"""

import contextlib
import random
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np
import torch as th
from stable_baselines3.common.policies import BasePolicy, ContinuousCritic
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.td3.policies import Actor
from torch import nn

from sb3_ddpg_ext.equations import td_target

NEAR_BOUND = 0.99
"""A scaled action counts as saturated from this absolute value on, as in ``rollout/action_saturation``."""


class Networks(Protocol):
    """The networks of ``CustomDDPG``."""

    actor: Actor
    actor_target: Actor
    critic: ContinuousCritic
    critic_target: ContinuousCritic


@contextlib.contextmanager
def leaving_no_trace(policy: BasePolicy) -> Iterator[None]:
    """
    In the block networks compute as when they act: in evaluation mode, which leaves the statistics of batch
    normalisation alone, and without gradients. After it, the global generators of Python, NumPy and PyTorch are as they
    were. Forward hooks are called as in any forward pass: modules such as spectral normalisation need theirs.

    :param policy: The policy with the networks
    """
    was_training = policy.training
    python, numpy = random.getstate(), np.random.get_state(legacy=False)  # noqa: NPY002 (SB3's generator)
    try:
        with th.no_grad(), th.random.fork_rng([policy.device] if policy.device.type == "cuda" else []):
            if was_training:
                policy.set_training_mode(False)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        if was_training:
            policy.set_training_mode(True)


def norms(networks: Networks, *, critic_gradient: bool = True) -> dict[str, float]:
    """
    Euclidean norms of all weights of a network, and of their gradients in the last gradient step.

    :param networks: The networks
    :param critic_gradient: False to leave out the critic's gradient, where the actor's step has added to it
    :return: ``actor_weight_norm``, ``critic_weight_norm``, and ``actor_grad_norm``, ``critic_grad_norm`` if there has
        been a gradient step
    """
    found: dict[str, list[th.Tensor]] = {}
    for name, network in (("actor", networks.actor), ("critic", networks.critic)):
        weights: list[th.Tensor] = list(network.parameters())
        found[f"{name}_weight_norm"] = weights
        if name == "actor" or critic_gradient:
            found[f"{name}_grad_norm"] = [weight.grad for weight in weights if weight.grad is not None]
    return _numbers({name: _norm(tensors) for name, tensors in found.items() if tensors})


@th.no_grad()
def minibatch_statistics(networks: Networks, batch: ReplayBufferSamples, gamma: float) -> dict[str, float]:
    """
    What the networks compute for a minibatch. To be called inside of :func:`leaving_no_trace`.

    :param networks: The networks
    :param batch: The minibatch
    :param gamma: The discount, for a minibatch without n-step returns
    :return: Mean and standard deviation of Q(s, a) (``q_value_mean``, ``q_value_std``; over all networks of the critic)
        and of the TD target y (``target_q_value_...``); ``td_error``, the mean distance of Q and y;
        ``actor_saturation``, the share of the components of mu(s) within 1% of a bound; ``actor_spread``, the standard
        deviation of each component of mu(s) over the states, on average; ``actor_dead_units`` and
        ``critic_dead_units``, the share of ReLU units that are 0 for the whole minibatch, if there are ReLUs
    """
    with _activations(networks.actor) as actor_units:
        actions = networks.actor(batch.observations)
    with _activations(networks.critic) as critic_units:
        q_values = th.cat(networks.critic(batch.observations, batch.actions), dim=1)
    target_q_values = td_target(
        batch.rewards,
        batch.dones,
        gamma if batch.discounts is None else batch.discounts,
        batch.next_observations,
        networks.actor_target,
        networks.critic_target,
    )
    found = {
        "q_value_mean": q_values.mean(),
        "q_value_std": q_values.std(correction=0),
        "target_q_value_mean": target_q_values.mean(),
        "target_q_value_std": target_q_values.std(correction=0),
        "td_error": (q_values - target_q_values).abs().mean(),
        "actor_saturation": (actions.abs() >= NEAR_BOUND).float().mean(),
        "actor_spread": actions.std(dim=0, correction=0).mean(),
    }
    for name, activations in (("actor_dead_units", actor_units), ("critic_dead_units", critic_units)):
        if activations:
            found[name] = _dead(activations).float().mean()
    return _numbers(found)


@contextlib.contextmanager
def _activations(network: nn.Module) -> Iterator[list[th.Tensor]]:
    """The outputs of the network's ReLUs in the block, in the order in which they are computed."""
    outputs: list[th.Tensor] = []

    def keep(_: nn.Module, __: Any, output: th.Tensor) -> None:
        outputs.append(output)

    handles = [module.register_forward_hook(keep) for module in network.modules() if isinstance(module, nn.ReLU)]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def _dead(activations: Iterable[th.Tensor]) -> th.Tensor:
    """
    :param activations: ``[batch, units, ...]`` each; a channel of a convolution is one unit
    :return: Which units are 0 everywhere
    """
    return th.cat([(each.transpose(0, 1).flatten(1) <= 0).all(dim=1) for each in activations])


def _norm(tensors: Iterable[th.Tensor]) -> th.Tensor:
    return th.stack([tensor.detach().square().sum() for tensor in tensors]).sum().sqrt()


def _numbers(scalars: dict[str, th.Tensor]) -> dict[str, float]:
    """:return: The same as numbers, which are waited for once"""
    return dict(zip(scalars, th.stack(list(scalars.values())).tolist(), strict=True)) if scalars else {}
