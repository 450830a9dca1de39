"""
Stable-Baselines3's TD3 policies with DDPG's default of one critic. Everything else about them is the same.

The default belongs to the class, so that whoever builds the policy from what was saved (SB3's ``DDPG.load``, say)
builds the same one.
"""

from typing import Any

from gymnasium import spaces
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.td3 import policies as td3


class MlpPolicy(td3.TD3Policy):
    """
    Actor and critic for flat observations.

    :param observation_space: Observation space
    :param action_space: Action space
    :param lr_schedule: Learning rate schedule (could be constant)
    :param n_critics: Number of critic networks
    :param kwargs: The other parameters of :class:`stable_baselines3.td3.policies.TD3Policy`
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        lr_schedule: Schedule,
        *,
        n_critics: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(observation_space, action_space, lr_schedule, n_critics=n_critics, **kwargs)


class CnnPolicy(MlpPolicy, td3.CnnPolicy):
    """Actor and critic for images; parameters as for :class:`MlpPolicy`."""


class MultiInputPolicy(MlpPolicy, td3.MultiInputPolicy):
    """Actor and critic for Dict observations; parameters as for :class:`MlpPolicy`."""
