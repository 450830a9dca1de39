"""
The four equations of DDPG as pure functions (Lillicrap et al. 2016, https://arxiv.org/abs/1509.02971, algorithm 1).

``mu`` is the actor, ``Q`` the critic, a prime marks a target network; networks are passed as callables.
A critic is a callable ``(s, a) -> (Q_1, ..., Q_n)`` as in Stable-Baselines3: a tuple with one ``[batch, 1]`` tensor for
each of its networks. DDPG has one network; with more of them, the target is their minimum, as in TD3.
"""

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch as th
from torch.nn import functional as F  # noqa: N812 (torch's own convention)

Observations = TypeVar("Observations")
"""The networks' input: a tensor ``[batch, ...]``, or a dict with one such tensor for each key of a Dict space."""


@th.no_grad()
def td_target(
    rewards: th.Tensor,
    dones: th.Tensor,
    discounts: th.Tensor | float,
    next_observations: Observations,
    actor_target: Callable[[Observations], th.Tensor],
    critic_target: Callable[[Observations, th.Tensor], tuple[th.Tensor, ...]],
    noise: th.Tensor | float = 0.0,
) -> th.Tensor:
    """
    Temporal-difference target ``y = r + g (1 - d) Q'(s', mu'(s'))`` (equation 5 of the paper).

    >>> rewards, dones = th.tensor([[1.0], [2.0]]), th.tensor([[0.0], [1.0]])
    >>> td_target(
    ...     rewards, dones, 0.5, th.zeros(2, 3), actor_target=lambda s: s[:, :1], critic_target=lambda s, a: (a + 10,)
    ... )
    tensor([[6.],
            [2.]])

    :param rewards: ``[batch, 1]``: rewards, or n-step returns
    :param dones: ``[batch, 1]``: 1 only if the episode *terminated*; after a truncation the target still bootstraps
    :param discounts: gamma, or for n-step returns ``[batch, 1]`` with gamma^n
    :param next_observations: s'
    :param actor_target: mu', its actions in [-1, 1]
    :param critic_target: Q'
    :param noise: ``[batch, n_actions]``: is added to the actions, see :func:`smoothing_noise`
    :return: ``[batch, 1]``, without a gradient
    """
    # Without noise this changes nothing, unless an actor's output is not squashed
    next_actions = (actor_target(next_observations) + noise).clamp(-1, 1)
    next_q_values = th.cat(critic_target(next_observations, next_actions), dim=1).amin(dim=1, keepdim=True)
    return rewards + (1 - dones) * discounts * next_q_values


def smoothing_noise(actions: th.Tensor, std: float, clip: float) -> th.Tensor:
    """
    Noise for the target's actions, ``clip(N(0, std), -clip, clip)``, so that similar actions get similar values
    (target policy smoothing of TD3, Fujimoto et al. 2018, https://arxiv.org/abs/1802.09477, equation 14). It is drawn
    with PyTorch's generator, as in Stable-Baselines3's ``TD3``.

    >>> bool((smoothing_noise(th.zeros(100, 2), std=0.2, clip=0.3).abs() <= 0.3).all())
    True

    :param actions: ``[batch, n_actions]``: noise is drawn for as many
    :param std: Standard deviation before clipping, where actions are in [-1, 1]
    :param clip: Largest absolute value
    :return: ``[batch, n_actions]``
    """
    return th.empty_like(actions).normal_(0, std).clamp_(-clip, clip)


def critic_loss(
    q_values: tuple[th.Tensor, ...],
    target_q_values: th.Tensor,
    huber_delta: float | None = None,
    weights: th.Tensor | None = None,
) -> th.Tensor:
    """
    Mean squared error ``L(Q) = mean (Q(s, a) - y)^2``, summed over the critic's networks (algorithm 1, line "L =").
    With importance weights w, ``L(Q) = mean w (Q(s, a) - y)^2`` (Schaul et al. 2016,
    https://arxiv.org/abs/1511.05952, section 3.4).

    >>> critic_loss((th.tensor([[1.0], [3.0]]),), target_q_values=th.tensor([[1.0], [1.0]]))
    tensor(2.)
    >>> weights = th.tensor([[1.0], [0.5]])
    >>> critic_loss((th.tensor([[1.0], [3.0]]),), target_q_values=th.tensor([[1.0], [1.0]]), weights=weights)
    tensor(1.)

    :param q_values: Q(s, a), one ``[batch, 1]`` tensor for each network of the critic
    :param target_q_values: y, ``[batch, 1]``
    :param huber_delta: Errors e above delta count as ``delta (2 |e| - delta)`` instead of ``e^2``. That is twice the
        Huber loss, so that small errors count as without it
    :param weights: w, ``[batch, 1]``, of the transitions; None for 1
    :return: scalar, to be minimised
    """
    reduction = "mean" if weights is None else "none"
    if huber_delta is None:
        losses = [F.mse_loss(q, target_q_values, reduction=reduction) for q in q_values]
    else:
        losses = [2 * F.huber_loss(q, target_q_values, reduction=reduction, delta=huber_delta) for q in q_values]
    if weights is not None:
        losses = [(weights * loss).mean() for loss in losses]
    return th.stack(losses).sum()


@th.no_grad()
def td_errors(q_values: tuple[th.Tensor, ...], target_q_values: th.Tensor) -> th.Tensor:
    """
    Absolute TD errors ``|Q(s, a) - y|``, averaged over the critic's networks.

    >>> td_errors((th.tensor([[1.0]]), th.tensor([[4.0]])), target_q_values=th.tensor([[2.0]]))
    tensor([[1.5000]])

    :param q_values: Q(s, a), one ``[batch, 1]`` tensor for each network of the critic
    :param target_q_values: y, ``[batch, 1]``
    :return: ``[batch, 1]``, without a gradient
    """
    return (th.stack(q_values) - target_q_values).abs().mean(dim=0)


def actor_loss(
    observations: Observations,
    actor: Callable[[Observations], th.Tensor],
    critic: Callable[[Observations, th.Tensor], th.Tensor],
) -> th.Tensor:
    """
    ``L(mu) = -mean Q(s, mu(s))``, whose gradient is the deterministic policy gradient (equation 6 of the paper):
    ``grad_a Q(s, a) grad_theta mu(s)`` at ``a = mu(s)``, by the chain rule.

    >>> actor_loss(th.tensor([[1.0], [3.0]]), actor=lambda s: 2 * s, critic=lambda s, a: s + a)
    tensor(-6.)

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

    >>> target = th.tensor([0.0, 4.0])
    >>> soft_update([th.tensor([1.0, 0.0])], [target], tau=0.25)
    >>> target
    tensor([0.2500, 3.0000])

    :param params: theta
    :param target_params: theta', tensors of the same shapes
    :param tau: From 0 (theta' stays as it is) to 1 (theta is copied)
    :raises ValueError: If there are more tensors in one than in the other
    """
    for param, target_param in zip(params, target_params, strict=True):
        target_param.mul_(1 - tau).add_(param, alpha=tau)
