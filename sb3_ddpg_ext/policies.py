"""
Stable-Baselines3's TD3 policies with DDPG's default of one critic, saved without pickle, and with options of their own,
which are off by default; and policies with other networks.

The default belongs to the class, so that a saved policy is rebuilt with one critic even by SB3's own ``DDPG.load``.
"""

import math
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BaseModel, ContinuousCritic
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.td3 import policies as td3
from torch import nn

from sb3_ddpg_ext.module_tree import ModuleTree
from sb3_ddpg_ext.safe_files.policy_file import SafelySavedPolicy
from sb3_ddpg_ext.simba import RunningNormExtractor, SimbaActor, SimbaCritic


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
    :param actor_layer_norm: Whether the actor has LayerNorm (Ba et al. 2016, https://arxiv.org/abs/1607.06450) between
        each hidden linear layer and its activation
    :param critic_layer_norm: Whether the critic has LayerNorm there
    :param final_layer_init: The weights and biases of the actor's and the critic's last layers begin uniformly
        distributed in [-final_layer_init, final_layer_init], so that the first actions and values are near 0; 3e-3 in
        DDPG's paper. None for PyTorch's initialisation
    :param critic_optimizer_class: The critic's optimizer; None for the same as the actor's, ``optimizer_class``
    :param critic_optimizer_kwargs: Its arguments, without the learning rate; None for ``optimizer_kwargs``
    :param kwargs: The other parameters of :class:`stable_baselines3.td3.policies.TD3Policy`
    :raises ValueError: If ``final_layer_init`` is not a positive number
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        lr_schedule: Schedule,
        *,
        n_critics: int = 1,
        actor_layer_norm: bool = False,
        critic_layer_norm: bool = False,
        final_layer_init: float | None = None,
        critic_optimizer_class: type[th.optim.Optimizer] | None = None,
        critic_optimizer_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if final_layer_init is not None and not 0 < final_layer_init < math.inf:
            raise ValueError(f"final_layer_init: expected a number above 0, such as 3e-3, got {final_layer_init}")
        # SB3's constructor builds the networks and optimizers, with these
        self.actor_layer_norm, self.critic_layer_norm = actor_layer_norm, critic_layer_norm
        self.final_layer_init = final_layer_init
        self.critic_optimizer_class, self.critic_optimizer_kwargs = critic_optimizer_class, critic_optimizer_kwargs
        super().__init__(observation_space, action_space, lr_schedule, n_critics=n_critics, **kwargs)
        self._tree: ModuleTree | None = None
        self._overrides_modes = False

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        if self.critic_optimizer_class is not None or self.critic_optimizer_kwargs is not None:
            optimizer_class: Any = self.critic_optimizer_class or self.optimizer_class
            kwargs = self.optimizer_kwargs if self.critic_optimizer_kwargs is None else self.critic_optimizer_kwargs
            self.critic.optimizer = optimizer_class(self.critic.parameters(), lr=lr_schedule(1), **kwargs)

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> td3.Actor:
        """
        :param features_extractor: A features extractor to be shared; None for a new one
        :return: A new actor
        """
        actor = super().make_actor(features_extractor)
        if self.actor_layer_norm:
            _insert_layer_norm(actor.mu)
        self._init_final_layer(actor.mu)
        return actor

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> ContinuousCritic:
        """
        :param features_extractor: A features extractor to be shared; None for a new one
        :return: A new critic
        """
        critic = super().make_critic(features_extractor)
        for q_network in critic.q_networks:
            if self.critic_layer_norm:
                _insert_layer_norm(q_network)
            self._init_final_layer(q_network)
        return critic

    def _init_final_layer(self, net: nn.Module) -> None:
        if self.final_layer_init is not None:
            *_, final = (module for module in net.modules() if isinstance(module, nn.Linear))
            for param in final.parameters():
                nn.init.uniform_(param, -self.final_layer_init, self.final_layer_init)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        own = {
            "actor_layer_norm": self.actor_layer_norm,
            "critic_layer_norm": self.critic_layer_norm,
            "final_layer_init": self.final_layer_init,
            "critic_optimizer_class": self.critic_optimizer_class,
            "critic_optimizer_kwargs": self.critic_optimizer_kwargs,
        }
        # SB3's classes, which have none of these, can load what has none of them in use
        used = {name: value for name, value in own.items() if value is not None and value is not False}
        return {**super()._get_constructor_parameters(), **used}

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


class LayerNormPolicy(MlpPolicy):
    """
    :class:`MlpPolicy` whose critic has LayerNorm. The initial weights are those of :class:`MlpPolicy`, too.

    >>> from sb3_ddpg_ext import CustomDDPG
    >>> model = CustomDDPG("LayerNormPolicy", "Pendulum-v1", policy_kwargs={"net_arch": [64]})
    >>> [type(layer).__name__ for layer in model.policy.critic.q_networks[0]]
    ['Linear', 'LayerNorm', 'ReLU', 'Linear']

    :param observation_space: Observation space
    :param action_space: Action space
    :param lr_schedule: Learning rate schedule (could be constant)
    :param critic_layer_norm: Whether the critic has LayerNorm
    :param kwargs: The other parameters of :class:`MlpPolicy`
    :raises ValueError: For Dict observations
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        lr_schedule: Schedule,
        *,
        critic_layer_norm: bool = True,
        **kwargs: Any,
    ) -> None:
        if isinstance(observation_space, spaces.Dict):
            raise ValueError(
                "LayerNormPolicy is for flat observations, got Dict ones; use MultiInputPolicy with "
                "policy_kwargs=dict(critic_layer_norm=True)"
            )
        super().__init__(observation_space, action_space, lr_schedule, critic_layer_norm=critic_layer_norm, **kwargs)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "critic_layer_norm": self.critic_layer_norm}


class SimbaPolicy(MlpPolicy):
    """
    Actor and critic of SimBa (Lee et al. 2024, https://arxiv.org/abs/2410.09754) for flat observations: observations
    normalised by running statistics, a linear embedding, residual blocks with LayerNorm, a last LayerNorm, and a linear
    output. The default sizes and AdamW with a weight decay of 0.01 are the paper's. A policy cannot choose the learning
    rate: the paper's is ``learning_rate=1e-4``.

    >>> from sb3_ddpg_ext import CustomDDPG
    >>> model = CustomDDPG("SimbaPolicy", "Pendulum-v1", learning_rate=1e-4).learn(15)
    >>> model.actor.features_extractor.n_observations
    tensor(15)

    :param observation_space: Observation space
    :param action_space: Action space
    :param lr_schedule: Learning rate schedule (could be constant)
    :param net_arch: The width of each residual block, the same for all blocks of a network. By default the actor
        has one of 128 units, and the critic two of 512: ``dict(pi=[128], qf=[512, 512])``
    :param optimizer_class: The optimizer
    :param features_extractor_class: Features extractor, which normalises observations by default
    :param kwargs: The other parameters of :class:`MlpPolicy`. For tasks whose episodes terminate, the paper has
        ``n_critics=2``
    :raises ValueError: For Dict observations, for blocks of different widths, and for ``actor_layer_norm`` or
        ``critic_layer_norm``
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        lr_schedule: Schedule,
        *,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        optimizer_class: type[th.optim.Optimizer] = th.optim.AdamW,  # whose default weight decay is 0.01
        features_extractor_class: type[BaseFeaturesExtractor] = RunningNormExtractor,
        **kwargs: Any,
    ) -> None:
        if isinstance(observation_space, spaces.Dict):
            raise ValueError(
                "SimbaPolicy is for flat observations, got Dict ones; flatten them with "
                "gymnasium.wrappers.FlattenObservation"
            )
        if kwargs.get("actor_layer_norm") or kwargs.get("critic_layer_norm"):
            raise ValueError(
                "SimbaPolicy has LayerNorm in its blocks already; leave out actor_layer_norm and critic_layer_norm"
            )
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            net_arch={"pi": [128], "qf": [512, 512]} if net_arch is None else net_arch,
            optimizer_class=optimizer_class,
            features_extractor_class=features_extractor_class,
            **kwargs,
        )

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> SimbaActor:
        """
        :param features_extractor: A features extractor to be shared; None for a new one
        :return: A new actor
        """
        actor = SimbaActor(**self._update_features_extractor(self.actor_kwargs, features_extractor)).to(self.device)
        self._init_final_layer(actor.mu)
        return actor

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> SimbaCritic:
        """
        :param features_extractor: A features extractor to be shared; None for a new one
        :return: A new critic
        """
        critic = SimbaCritic(**self._update_features_extractor(self.critic_kwargs, features_extractor)).to(self.device)
        for q_network in critic.q_networks:
            self._init_final_layer(q_network)
        return critic


def _insert_layer_norm(net: nn.Module) -> None:
    """Insert LayerNorm behind each linear layer but the last one."""
    assert isinstance(net, nn.Sequential)
    *hidden, _ = (i for i, layer in enumerate(net) if isinstance(layer, nn.Linear))
    for i in reversed(hidden):
        linear: Any = net[i]
        net.insert(i + 1, nn.LayerNorm(linear.out_features, device=linear.weight.device))
