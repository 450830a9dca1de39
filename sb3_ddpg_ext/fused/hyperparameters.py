"""The numbers that a gradient step in closed form depends on, besides those of the optimizers."""

import math
from numbers import Real
from typing import NamedTuple


class Hyperparameters(NamedTuple):
    """
    The parameters of :class:`~sb3_ddpg_ext.CustomDDPG` with these names. By default, the options are off.

    :param gamma: The discount
    :param tau: The soft update coefficient
    :param huber_delta: Of the critic's loss; None for the squared error
    :param max_grad_norm: Of each optimizer's gradient; None for any
    :param pre_activation_coef: Of the penalty on the actor's outputs before tanh
    :param target_policy_noise: Standard deviation of the noise on the target's actions
    :param target_noise_clip: Largest absolute value of that noise
    """

    gamma: float
    tau: float
    huber_delta: float | None = None
    max_grad_norm: float | None = None
    pre_activation_coef: float = 0.0
    target_policy_noise: float = 0.0
    target_noise_clip: float = 0.5

    def check(self) -> None:
        """:raises ValueError: If an option is out of range"""
        for name in ("huber_delta", "max_grad_norm"):
            value = getattr(self, name)
            if not (value is None or (isinstance(value, Real) and 0 < float(value) < math.inf)):
                raise ValueError(f"{name}={value}: expected a number above 0, or None")
        for name in ("pre_activation_coef", "target_policy_noise", "target_noise_clip"):
            value = getattr(self, name)
            if not (isinstance(value, Real) and 0 <= float(value) < math.inf):
                raise ValueError(f"{name}={value}: expected a number, 0 or more")
