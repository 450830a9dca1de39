"""The networks of SimBa (Lee et al. 2024, https://arxiv.org/abs/2410.09754) as SB3's actor, critic and extractor."""

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy, ContinuousCritic
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.td3.policies import Actor
from torch import nn


class RunningNormExtractor(FlattenExtractor):
    """
    Flattens observations, and normalises each component by its mean and variance over all observations so far (the
    paper's RSNorm): ``(o - mean) / sqrt(var + eps)``.

    Only :func:`update_statistics` changes the statistics. ``CustomDDPG`` calls it once for each step in the
    environments; predictions and gradient steps leave them as they are.

    >>> extractor = RunningNormExtractor(spaces.Box(-10, 10, (1,)))
    >>> extractor.update(th.tensor([[1.0], [3.0]]))
    >>> extractor(th.tensor([[2.0], [4.0]]))
    tensor([[0.],
            [2.]])

    :param observation_space: Observation space, of vectors or arrays
    :param eps: Added to the variance
    """

    running_mean: th.Tensor
    running_var: th.Tensor
    n_observations: th.Tensor

    def __init__(self, observation_space: spaces.Space[Any], eps: float = 1e-8) -> None:
        super().__init__(observation_space)
        self.eps = eps
        # CustomDDPG copies to the targets what has "running_" in its name, as SB3 does it
        self.register_buffer("running_mean", th.zeros(self.features_dim))
        self.register_buffer("running_var", th.ones(self.features_dim))
        self.register_buffer("n_observations", th.zeros((), dtype=th.int64))

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """
        :param observations: ``[batch, *observation_shape]``
        :return: ``[batch, n]``
        """
        return (super().forward(observations) - self.running_mean) / th.sqrt(self.running_var + self.eps)

    @th.no_grad()
    def update(self, observations: th.Tensor) -> None:
        """
        Take new observations into the mean and the variance, exactly, in one step for all of them.

        :param observations: ``[n, *observation_shape]``, each of them new
        """
        new = super().forward(observations)
        mean, var = new.mean(dim=0), new.var(dim=0, correction=0)
        share = len(new) / (self.n_observations + len(new))  # of the new ones
        self.running_var.lerp_(var + (1 - share) * (mean - self.running_mean).square(), share)
        self.running_mean.lerp_(mean, share)
        self.n_observations.add_(len(new))


def update_statistics(policy: BasePolicy, observations: np.ndarray) -> None:
    """
    Take new observations into the statistics of all networks of a policy: actor, critic and targets stay equal.

    :param policy: A policy whose features extractors are :class:`RunningNormExtractor`
    :param observations: ``[n_envs, *observation_shape]``
    """
    tensor, _ = policy.obs_to_tensor(observations)
    preprocessed: Any = preprocess_obs(tensor, policy.observation_space, normalize_images=policy.normalize_images)
    for module in policy.modules():
        if isinstance(module, RunningNormExtractor):
            module.update(preprocessed)


class ResidualBlock(nn.Module):
    """
    ``x + W2 f(W1 norm(x) + b1) + b2``, with four times as many units in between.

    :param width: Units of input and output
    :param activation_fn: f
    """

    def __init__(self, width: int, activation_fn: type[nn.Module]) -> None:
        super().__init__()
        first, second = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        for layer in (first, second):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        self.layers = nn.Sequential(nn.LayerNorm(width), first, activation_fn(), second)

    def forward(self, x: th.Tensor) -> th.Tensor:
        """
        :param x: ``[batch, width]``
        :return: ``[batch, width]``
        """
        change: th.Tensor = self.layers(x)
        return x + change


def residual_network(
    n_inputs: int, n_outputs: int, net_arch: list[int], activation_fn: type[nn.Module]
) -> list[nn.Module]:
    """
    A linear embedding, residual blocks, LayerNorm, and a linear output.

    :param n_inputs: Number of inputs
    :param n_outputs: Number of outputs
    :param net_arch: The width of each block, the same for all
    :param activation_fn: The activation function of the blocks
    :return: The layers
    :raises ValueError: If there is no block, or if their widths differ
    """
    if len({*net_arch}) != 1:
        raise ValueError(
            "net_arch: a block of SimBa adds its input to its output, so all blocks of a network have one width, such "
            f"as dict(pi=[128], qf=[512, 512]); got {net_arch}"
        )
    width = net_arch[0]
    embedding, output = nn.Linear(n_inputs, width), nn.Linear(width, n_outputs)
    for layer in (embedding, output):
        nn.init.orthogonal_(layer.weight)
        nn.init.zeros_(layer.bias)
    return [embedding, *[ResidualBlock(n, activation_fn) for n in net_arch], nn.LayerNorm(width), output]


class SimbaActor(Actor):
    """
    SB3's actor with a residual network.

    :param net_arch: The width of each residual block
    :param kwargs: The other parameters of SB3's ``Actor``
    """

    def __init__(self, *, net_arch: list[int], **kwargs: Any) -> None:
        super().__init__(net_arch=[], **kwargs)
        self.net_arch = net_arch
        n_actions = spaces.flatdim(self.action_space)
        self.mu = nn.Sequential(
            *residual_network(self.features_dim, n_actions, net_arch, self.activation_fn), nn.Tanh()
        )


class SimbaCritic(ContinuousCritic):
    """
    SB3's critic with residual networks, whose inputs are the normalised observation and the action.

    :param net_arch: The width of each residual block
    :param features_dim: Number of features of an observation
    :param activation_fn: The activation function of the blocks
    :param kwargs: The other parameters of SB3's ``ContinuousCritic``
    """

    def __init__(
        self, *, net_arch: list[int], features_dim: int, activation_fn: type[nn.Module] = nn.ReLU, **kwargs: Any
    ) -> None:
        super().__init__(net_arch=[], features_dim=features_dim, activation_fn=activation_fn, **kwargs)
        n_inputs = features_dim + spaces.flatdim(self.action_space)
        for i in range(self.n_critics):
            self.q_networks[i] = nn.Sequential(*residual_network(n_inputs, 1, net_arch, activation_fn))
            self.add_module(f"qf{i}", self.q_networks[i])
