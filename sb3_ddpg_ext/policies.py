"""
Stable-Baselines3's TD3 policies with DDPG's default of one critic, saved without pickle. Everything else is the same.

The default belongs to the class, so that a saved policy is rebuilt with one critic even by SB3's own ``DDPG.load``.
"""

from typing import Any

from gymnasium import spaces
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.td3 import policies as td3
from torch import nn

from sb3_ddpg_ext.module_tree import ModuleTree
from sb3_ddpg_ext.safe_files.policy_file import SafelySavedPolicy


class MlpPolicy(SafelySavedPolicy, td3.TD3Policy):
    """
    Actor and critic for flat observations.

    >>> from sb3_ddpg_ext import CustomDDPG
    >>> model = CustomDDPG("MlpPolicy", "Pendulum-v1", policy_kwargs={"net_arch": [64, 64]})
    >>> model.policy.actor.mu
    Sequential(
      (0): Linear(in_features=3, out_features=64, bias=True)
      (1): ReLU()
      (2): Linear(in_features=64, out_features=64, bias=True)
      (3): ReLU()
      (4): Linear(in_features=64, out_features=1, bias=True)
      (5): Tanh()
    )

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
        self._overrides_modes = False

    def set_training_mode(self, mode: bool) -> None:
        """
        Put the policy in either training or evaluation mode.

        The result is the same as with SB3's method. That one traverses all modules at every rollout, prediction and
        update, which for small networks takes a third of the time of a step.

        :param mode: If true, set to training mode, else set to evaluation mode
        """
        if self._tree is None or not self._tree.is_current():
            networks = ModuleTree([*self.actor.modules(), *self.critic.modules()])  # targets stay in evaluation mode
            self._overrides_modes = networks.overrides("train", nn.Module.train) or networks.overrides(
                "set_training_mode", BaseModel.set_training_mode
            )
            self._tree = ModuleTree([self, *networks.modules])
        if self._overrides_modes:
            super().set_training_mode(mode)
        else:
            self._tree.set_training_mode(mode)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_tree": None}


class CnnPolicy(MlpPolicy, td3.CnnPolicy):
    """
    Actor and critic for images, with SB3's ``NatureCNN``. The parameters are those of :class:`MlpPolicy`.

    >>> import numpy as np
    >>> from gymnasium import spaces
    >>> images, actions = spaces.Box(0, 255, (3, 64, 64), np.uint8), spaces.Box(-1, 1, (2,))
    >>> policy = CnnPolicy(images, actions, lr_schedule=lambda progress_remaining: 1e-3, net_arch=[32])
    >>> policy.predict(images.sample())[0].shape
    (2,)
    """


class MultiInputPolicy(MlpPolicy, td3.MultiInputPolicy):
    """
    Actor and critic for Dict observations. The parameters are those of :class:`MlpPolicy`.

    >>> from gymnasium import spaces
    >>> observations = spaces.Dict({"position": spaces.Box(-1, 1, (2,)), "goal": spaces.Box(-1, 1, (2,))})
    >>> actions = spaces.Box(-1, 1, (2,))
    >>> policy = MultiInputPolicy(observations, actions, lr_schedule=lambda progress_remaining: 1e-3, net_arch=[32])
    >>> policy.predict(observations.sample())[0].shape
    (2,)
    """
