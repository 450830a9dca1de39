"""
The four equations of DDPG as pure functions (Lillicrap et al. 2016, https://arxiv.org/abs/1509.02971, algorithm 1).

``mu`` is the actor, ``Q`` the critic, a prime marks a target network; networks come in as callables.
A critic is a callable ``(s, a) -> (Q_1, ..., Q_n)`` as in Stable-Baselines3: a tuple with one ``[batch, 1]`` tensor for
each of its networks. DDPG has one of them; with more, the target takes their minimum, as TD3 does.
"""

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch as th
from torch.nn import functional as F  # noqa: N812 (torch's own convention)

Observations = TypeVar("Observations")
"""Whatever the networks take: ``[batch, ...]``, or one such tensor for each key of a Dict space."""


@th.no_grad()
def td_target(
    rewards: th.Tensor,
    dones: th.Tensor,
    discounts: th.Tensor | float,
    next_observations: Observations,
    actor_target: Callable[[Observations], th.Tensor],
    critic_target: Callable[[Observations, th.Tensor], tuple[th.Tensor, ...]],
) -> th.Tensor:
    """
    Temporal-difference target ``y = r + g (1 - d) Q'(s', mu'(s'))`` (equation 5 of the paper).

    :param rewards: ``[batch, 1]``, the n-step return where n-step returns are used
    :param dones: ``[batch, 1]``, 1 only where the episode *terminated*: after a truncation the target bootstraps
    :param discounts: gamma, or ``[batch, 1]`` with gamma^n for n-step returns
    :param next_observations: s'
    :param actor_target: mu', its actions in [-1, 1]
    :param critic_target: Q'
    :return: ``[batch, 1]``, without a gradient
    """
    # The bounds matter only to actors that do not squash their output themselves
    next_actions = actor_target(next_observations).clamp(-1, 1)
    next_q_values = th.cat(critic_target(next_observations, next_actions), dim=1).amin(dim=1, keepdim=True)
    return rewards + (1 - dones) * discounts * next_q_values


def critic_loss(q_values: tuple[th.Tensor, ...], target_q_values: th.Tensor) -> th.Tensor:
    """
    Mean squared error ``L(Q) = mean (Q(s, a) - y)^2``, summed over the critic's networks (algorithm 1, line "L =").

    :param q_values: Q(s, a), one ``[batch, 1]`` tensor for each network of the critic
    :param target_q_values: y, ``[batch, 1]``
    :return: scalar, to be minimised
    """
    return th.stack([F.mse_loss(q, target_q_values) for q in q_values]).sum()


def actor_loss(
    observations: Observations,
    actor: Callable[[Observations], th.Tensor],
    critic: Callable[[Observations, th.Tensor], th.Tensor],
) -> th.Tensor:
    """
    ``L(mu) = -mean Q(s, mu(s))``, whose gradient is the deterministic policy gradient (equation 6 of the paper):
    ``grad_a Q(s, a) grad_theta mu(s)`` at ``a = mu(s)``, by the chain rule.

    :param observations: s
    :param actor: mu
    :param critic: Q, one network: ``(s, a) -> [batch, 1]``
    :return: scalar, to be minimised
    """
    return -critic(observations, actor(observations)).mean()


@th.no_grad()
def soft_update(params: Iterable[th.Tensor], target_params: Iterable[th.Tensor], tau: float) -> None:
    """
    Polyak average ``theta' <- tau theta + (1 - tau) theta'``, in place (algorithm 1, last lines).

    :param params: theta
    :param target_params: theta', as many tensors of the same shapes
    :param tau: 0 leaves the target alone, 1 copies
    :raises ValueError: where one has more tensors than the other
    """
    for param, target_param in zip(params, target_params, strict=True):
        target_param.mul_(1 - tau).add_(param, alpha=tau)
