"""Exploration in parameter space: actions of an actor whose weights are perturbed. ``ParameterNoise`` says how."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

Observations = np.ndarray | dict[str, np.ndarray]
Act = Callable[[Any], tuple[np.ndarray, np.ndarray]]
"""From observations to actions, between the bounds of the action space and scaled to [-1, 1]"""
_BATCH_SIZE = 64  # observations over which the distance between two actors is measured, as in the authors' code


class PerturbedActor:
    """
    An actor with another perturbation in each environment. It keeps their directions, which are not part of a model's
    state, since they can be drawn again from their seeds.
    """

    def __init__(self) -> None:
        self._directions: dict[int, tuple[int, list[th.Tensor]]] = {}  # for each environment, with the seed

    def explore(
        self, act: Act, last_obs: Observations, weights: list[th.Tensor], seeds: list[int], sigma: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """
        Choose the actions of one step.

        :param act: Computes the actor's actions, with the weights that it has when it is called
        :param last_obs: The observations, ``[n_envs, *observation_shape]``, or a dict of them
        :param weights: The actor's weights that are perturbed. Afterwards they are what they were, to the bit
        :param seeds: For each environment the seed of its perturbation's direction
        :param sigma: The standard deviation of the perturbations
        :return: The actions and the scaled actions, both ``[n_envs, *action_shape]``
        """
        of_each_env = []
        for i, seed in enumerate(seeds):
            with perturbed(weights, self._direction(i, seed, weights), sigma):
                of_each_env.append(act(_only(last_obs, i)))
        actions, scaled_actions = zip(*of_each_env, strict=True)
        return np.concatenate(actions), np.concatenate(scaled_actions)

    def _direction(self, env_index: int, seed: int, weights: list[th.Tensor]) -> list[th.Tensor]:
        seed_before, direction = self._directions.get(env_index, (None, []))
        if seed != seed_before or list(map(_kind, direction)) != list(map(_kind, weights)):
            direction = draw_direction(weights, np.random.default_rng(seed))
            self._directions[env_index] = seed, direction
        return direction


def perturbable_weights(actor: nn.Module) -> list[th.Tensor]:
    """
    >>> actor = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2), nn.Linear(2, 1))
    >>> [tuple(weights.shape) for weights in perturbable_weights(actor)]
    [(2, 3), (2,), (1, 2), (1,)]

    :param actor: A network
    :return: Its weights but for those of LayerNorm and frozen ones; each once, also if modules share it
    """
    modules = (module for module in actor.modules() if not isinstance(module, nn.LayerNorm))
    weights = dict.fromkeys(param for module in modules for param in module.parameters(recurse=False))
    return [param for param in weights if param.requires_grad]


def draw_direction(weights: list[th.Tensor], rng: np.random.Generator) -> list[th.Tensor]:
    """
    :param weights: Weights
    :param rng: What is drawn from
    :return: Independent standard normal numbers, one for each weight, in the weights' shapes
    """
    sizes = [param.numel() for param in weights]
    numbers = th.from_numpy(rng.standard_normal(sum(sizes), dtype=np.float32))
    return [part.view(param.shape).to(param) for part, param in zip(numbers.split(sizes), weights, strict=True)]


@contextlib.contextmanager
def perturbed(weights: list[th.Tensor], direction: list[th.Tensor], sigma: float) -> Iterator[None]:
    """
    Add a perturbation to weights, in a ``with`` statement. They are changed in place, so that whatever computes actions
    from them, such as the closed form or a user's ``predict``, acts with the perturbed ones.

    :param weights: The weights, which get back what they were, to the bit
    :param direction: Of the perturbation, in the weights' shapes
    :param sigma: What it is multiplied by
    """
    if not weights:  # all are frozen
        yield
        return
    with th.no_grad():
        before = [param.clone() for param in weights]
    try:
        with th.no_grad():
            th._foreach_add_(weights, direction, alpha=sigma)
        yield
    finally:
        with th.no_grad():
            th._foreach_copy_(weights, before)


def action_distance(
    act: Act, observations: Observations, weights: list[th.Tensor], direction: list[th.Tensor], sigma: float
) -> float:
    """
    Measure how far a perturbed actor's actions are from the unperturbed one's, as in the paper for DDPG.

    :param act: Computes the actor's actions, with the weights that it has when it is called
    :param observations: A minibatch
    :param weights: The actor's weights that are perturbed
    :param direction: Of the perturbation
    :param sigma: Its standard deviation
    :return: The root of the mean squared difference of the scaled actions, over the minibatch and all actions
    """
    _, unperturbed = act(observations)
    with perturbed(weights, direction, sigma):
        _, scaled_actions = act(observations)
    return float(np.sqrt(np.mean((scaled_actions - unperturbed) ** 2)))


def draw_observations(
    replay_buffer: ReplayBuffer, rng: np.random.Generator, normalize: VecNormalize | None
) -> Observations:
    """
    Draw a minibatch of observations, without the global generator that a buffer's ``sample`` draws from.

    :param replay_buffer: A replay buffer that is not empty
    :param rng: What is drawn from
    :param normalize: Normalises them
    :return: Observations, ``[batch, *observation_shape]``, or a dict of them
    """
    positions = rng.integers(replay_buffer.size(), size=_BATCH_SIZE)
    env_indices = rng.integers(replay_buffer.n_envs, size=_BATCH_SIZE)

    def take(stored: np.ndarray, space: spaces.Space[Any]) -> np.ndarray:
        return stored[positions, env_indices].reshape(_BATCH_SIZE, *(space.shape or ()))

    stored: Any = replay_buffer.observations
    space = replay_buffer.observation_space
    observations: Observations
    if isinstance(space, spaces.Dict):
        observations = {key: take(stored[key], subspace) for key, subspace in space.spaces.items()}
    else:
        observations = take(stored, space)
    return observations if normalize is None else normalize.normalize_obs(observations)


def _only(observations: Observations, env_index: int) -> Observations:
    if isinstance(observations, dict):
        return {key: value[env_index : env_index + 1] for key, value in observations.items()}
    return observations[env_index : env_index + 1]


def _kind(tensor: th.Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.dtype, tensor.device
