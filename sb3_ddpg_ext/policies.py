"""
Stable-Baselines3's TD3 policies with DDPG's default of one critic. Everything else about them is the same.

The default belongs to the class, so that whoever builds the policy from what was saved (SB3's ``DDPG.load``, say)
builds the same one.
"""

from typing import Any

from gymnasium import spaces
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.td3 import policies as td3
from torch import nn

from sb3_ddpg_ext.module_tree import ModuleTree


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
        self._tree: ModuleTree | None = None
        self._sets_modes_itself = False
        self._keeps_mode = False

    def set_training_mode(self, mode: bool) -> None:
        """
        Put the policy in either training or evaluation mode. The same as SB3's, which takes a third of the time of a
        step with a small network, since it walks over all modules at every rollout, prediction and update.

        :param mode: If true, set to training mode, else set to evaluation mode
        """
        if self._keeps_mode:
            self._keeps_mode = False
            return
        if self._tree is None or not self._tree.is_current():
            networks = ModuleTree([*self.actor.modules(), *self.critic.modules()])  # targets stay in evaluation mode
            self._sets_modes_itself = networks.overrides("train", nn.Module.train) or networks.overrides(
                "set_training_mode", BaseModel.set_training_mode
            )
            self._tree = ModuleTree([self, *networks.modules])
        if self._sets_modes_itself:
            super().set_training_mode(mode)
        else:
            self._tree.set_training_mode(mode)

    def keep_mode_once(self) -> None:
        """Let the next call of :meth:`set_training_mode` do nothing, since nothing that depends on it is called."""
        self._keeps_mode = True

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_tree": None}


class CnnPolicy(MlpPolicy, td3.CnnPolicy):
    """Actor and critic for images; parameters as for :class:`MlpPolicy`."""


class MultiInputPolicy(MlpPolicy, td3.MultiInputPolicy):
    """Actor and critic for Dict observations; parameters as for :class:`MlpPolicy`."""
