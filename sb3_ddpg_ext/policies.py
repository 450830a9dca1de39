"""
Stable-Baselines3's TD3 policies with DDPG's default of one critic. Everything else about them is the same.

The default belongs to the class, so that whoever builds the policy from what was saved (SB3's ``DDPG.load``, say)
builds the same one.
"""

from typing import Any

from gymnasium import spaces
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.torch_layers import FlattenExtractor, NatureCNN
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.td3 import policies as td3
from torch import nn


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
        self._has_modes = any(type(module) not in _WITHOUT_MODES for module in self.modules())

    def set_training_mode(self, mode: bool) -> None:
        """
        Put the policy in either training or evaluation mode, without the walk over all modules where none of them
        depends on it (SB3 walks at every rollout, every prediction and every update).

        :param mode: If true, set to training mode, else set to evaluation mode
        """
        if self._has_modes:
            super().set_training_mode(mode)
        elif self.training != mode:
            self.training = mode


class CnnPolicy(MlpPolicy, td3.CnnPolicy):
    """Actor and critic for images; parameters as for :class:`MlpPolicy`."""


class MultiInputPolicy(MlpPolicy, td3.MultiInputPolicy):
    """Actor and critic for Dict observations; parameters as for :class:`MlpPolicy`."""


# Modules that do the same in training and in evaluation; of any other one that is not known
_WITHOUT_MODES = frozenset(
    {
        *(nn.Sequential, nn.Flatten, nn.Linear, nn.Conv2d),
        *(nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh),
        *(FlattenExtractor, NatureCNN, td3.Actor, ContinuousCritic, MlpPolicy, CnnPolicy),
    }
)
