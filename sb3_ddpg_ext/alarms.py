"""Warnings, once each, of what lets training fail though no number is NaN: each says what is seen, and a remedy."""

import warnings
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ddpg_ext.errors import doubtful_action_space

_LARGE_OBSERVATION = 1e4
LARGE_SQUARES = _LARGE_OBSERVATION**2
"""Where a sum of squares is below this, no number is larger than it may be."""
# An actor at a bound: noise moves about half of its actions away from there, but hardly any to the other side
_SHARE_AT_BOUND, _SHARE_ON_OTHER_SIDE, _STEPS_AT_BOUND = 0.4, 0.02, 1_000
_IMPOSSIBLE_VALUE = 10.0  # times the largest that the rewards allow


class Alarms:
    """What was warned of, and what has been seen since the last look."""

    def __init__(self) -> None:
        self.mean_value = 0.0
        """The critic's, of the actor's actions in the last minibatches"""
        self._warned: set[str] = set()
        self._steps = 0
        self._seen: Any = (
            0  # [4, *action_shape]: how many actions were at the low, at the high bound; negative; positive
        )
        self._bound = 1.0  # of the critic's values, as far as it is known

    def _warn(self, kind: str, message: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            warnings.warn(message, stacklevel=2)

    def check_bounds(self, space: spaces.Box) -> None:
        """:param space: Action space"""
        if (doubt := doubtful_action_space(space)) is not None:
            self._warn("bounds", doubt)

    def check_observations(self, observations: np.ndarray, step: int) -> None:
        """
        :param observations: New observations, ``[n_envs, *observation_shape]``, as the policy sees them
        :param step: Number of environment steps up to now
        """
        if "observations" not in self._warned:
            largest = float(np.abs(observations).max())
            if largest > _LARGE_OBSERVATION:
                self._warn(
                    "observations",
                    f"An observation has a component of size {largest:.3g} at step {step}, and networks learn badly "
                    "from numbers far from 1. Scale it in the environment, or use VecNormalize (normalize: true).",
                )

    def count_actions(self, actions: np.ndarray) -> None:
        """:param actions: Scaled actions with noise, ``[n, *action_shape]``"""
        self._steps += len(actions)
        kinds = (actions <= -0.99, actions >= 0.99, actions < 0, actions > 0)
        self._seen = self._seen + np.stack([np.count_nonzero(kind, axis=0) for kind in kinds])

    def check_actions(self, step: int) -> None:
        """
        Look at the actions of the last log intervals. A policy may well go from one bound to the other, as the best
        ones of some environments do; one that stays at the same bound does not react to what it observes.

        :param step: Number of environment steps up to now
        """
        if self._steps < _STEPS_AT_BOUND:
            return
        at_low, at_high, negative, positive = self._seen / self._steps
        stuck = (at_low > _SHARE_AT_BOUND) & (positive < _SHARE_ON_OTHER_SIDE)
        stuck |= (at_high > _SHARE_AT_BOUND) & (negative < _SHARE_ON_OTHER_SIDE)
        if 2 * np.count_nonzero(stuck) > np.size(stuck):
            self._warn(
                "actions",
                f"{np.count_nonzero(stuck)} of {np.size(stuck)} components of the action have been at one bound, but "
                f"for the noise, in {self._steps} steps up to step {step}: the actor is saturated and hardly learns. "
                "Try a lower learning_rate, smaller observations and rewards (normalize: true), or more steps before "
                "learning (learning_starts).",
            )
        self._steps, self._seen = 0, 0

    def check_critic(self, buffer: ReplayBuffer, gamma: float, normalize: VecNormalize | None, step: int) -> None:
        """
        No discounted sum of rewards is larger than the largest reward / (1 - gamma): a critic that says so diverges.

        :param buffer: All rewards that were received
        :param gamma: The discount
        :param normalize: The VecNormalize wrapper of the environments, or None
        :param step: Number of environment steps up to now
        """
        value = self.mean_value
        if gamma >= 1 or abs(value) <= _IMPOSSIBLE_VALUE * self._bound or "critic" in self._warned:
            return
        # All rewards are looked at only where the values are above what was known to be possible
        if normalize is not None and normalize.norm_reward:
            largest = float(normalize.clip_reward)
        else:
            largest = float(np.abs(buffer.rewards[: buffer.size()]).max())
        bound = largest / (1 - gamma)
        self._bound = max(bound, self._bound)
        if abs(value) > _IMPOSSIBLE_VALUE * self._bound:
            self._warn(
                "critic",
                f"The critic's values are {value:.3g} on average at step {step}, but rewards of at most {largest:.3g} "
                f"allow no more than {bound:.3g}: it diverges. Try a lower learning_rate, tau or gamma, or "
                "normalize: true.",
            )
