"""
How far the critic's values are from the returns that its policy really obtains, as in van Hasselt et al. 2016
(https://arxiv.org/abs/1509.06461, figure 3) and Fujimoto et al. 2018 (https://arxiv.org/abs/1802.09477, figure 1).
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch as th
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.td3.policies import TD3Policy

from sb3_ddpg_ext.diagnostics import leaving_no_trace

_STEPS_BETWEEN_STATES = 10  # states that follow each other hardly differ, and images take memory
_STATES_AT_ONCE = 1_000

Array = npt.NDArray[np.float64]


def discounted_returns(rewards: Sequence[float], gamma: float, last_value: float = 0.0) -> Array:
    """
    The return from each step to the end of an episode, ``G_t = r_t + g G_(t+1)``.

    >>> discounted_returns([1.0, 0.0, 4.0], gamma=0.5, last_value=2.0)
    array([2.25, 2.5 , 5.  ])

    :param rewards: ``[n]``, the rewards of the episode
    :param gamma: The discount
    :param last_value: What is expected after the last reward: 0 after a terminal state, Q of the last state where a
        time limit has cut the episode off
    :return: ``[n]``
    """
    returns, following = np.empty(len(rewards)), last_value
    for step in range(len(rewards) - 1, -1, -1):
        following = returns[step] = rewards[step] + gamma * following
    return returns


def counted_steps(length: int, *, cut_off: bool) -> range:
    """
    The steps at which the critic is compared with the return. Of an episode that was cut off these lie in its first
    half: the nearer the cut, the more of the return is what the critic itself expects after it.

    >>> counted_steps(35, cut_off=False), counted_steps(35, cut_off=True)
    (range(0, 35, 10), range(0, 18, 10))

    :param length: Steps of the episode
    :param cut_off: Whether a time limit has ended it
    :return: The steps
    """
    return range(0, (length + 1) // 2 if cut_off else length, _STEPS_BETWEEN_STATES)


@dataclass
class _Episode:
    """
    An episode, as far as it was played.

    :param rewards: Its rewards
    :param observations: At every tenth step
    :param last_observation: The last one, if a time limit has cut the episode off
    """

    rewards: list[float] = field(default_factory=list)
    observations: list[Any] = field(default_factory=list)
    last_observation: Any = None


class CriticBias:
    """
    Compares Q(s, mu(s)), the smallest of the critic's networks, with the discounted return that follows s, in the
    episodes of an evaluation. With VecNormalize both are in terms of normalised rewards, which the critic predicts.

    :param model: A model with SB3's ``TD3Policy``: CustomDDPG, or SB3's DDPG or TD3
    """

    def __init__(self, model: OffPolicyAlgorithm) -> None:
        self._model = model
        self._running: defaultdict[int, _Episode] = defaultdict(_Episode)
        self._ended: list[_Episode] = []

    @staticmethod
    def is_defined_for(model: Any) -> bool:
        """:return: Whether the critic predicts discounted returns, and not also the policy's entropy, as SAC's does"""
        return isinstance(model.policy, TD3Policy)

    def see(self, locals_: dict[str, Any]) -> None:
        """
        Take one step of one environment.

        :param locals_: The local variables of SB3's ``evaluate_policy``
        """
        env, info = locals_["i"], locals_["info"]
        episode = self._running[env]
        if len(episode.rewards) % _STEPS_BETWEEN_STATES == 0:
            episode.observations.append(_of_one(locals_["observations"], env))
        episode.rewards.append(locals_["reward"])
        if locals_["done"]:
            if info.get("TimeLimit.truncated", False):
                episode.last_observation = info["terminal_observation"]
            self._ended.append(self._running.pop(env))

    def means(self) -> tuple[float, float]:
        """:return: Means of Q(s, mu(s)) and of the discounted returns, over the states of all episodes so far"""
        cut_off = [episode for episode in self._ended if episode.last_observation is not None]
        after_the_cut = iter(self._q_values([episode.last_observation for episode in cut_off]))
        states, returns = [], []
        normalize = self._model.get_vec_normalize_env()
        for episode in self._ended:
            rewards = np.array(episode.rewards)
            if normalize is not None:
                rewards = normalize.normalize_reward(rewards)
            is_cut_off = episode.last_observation is not None
            last_value = next(after_the_cut) if is_cut_off else 0.0
            steps = counted_steps(len(rewards), cut_off=is_cut_off)
            returns.append(discounted_returns(rewards.tolist(), self._model.gamma, last_value)[steps])
            states += episode.observations[: len(steps)]
        return float(np.mean(self._q_values(states))), float(np.concatenate(returns).mean())

    def _q_values(self, observations: Sequence[Any]) -> list[float]:
        """:return: Q(s, mu(s)) of each"""
        policy: Any = self._model.policy
        q_values: list[float] = []
        with leaving_no_trace(policy):
            for start in range(0, len(observations), _STATES_AT_ONCE):
                states = obs_as_tensor(_stacked(observations[start : start + _STATES_AT_ONCE]), policy.device)
                q_values += th.cat(policy.critic(states, policy.actor(states)), dim=1).amin(dim=1).tolist()
        return q_values


def _of_one(observations: Any, env: int) -> Any:
    if isinstance(observations, dict):
        return {key: array[env] for key, array in observations.items()}
    return observations[env]


def _stacked(observations: Sequence[Any]) -> Any:
    if isinstance(observations[0], dict):
        return {key: np.stack([each[key] for each in observations]) for key in observations[0]}
    return np.stack(observations)
