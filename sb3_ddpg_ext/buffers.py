"""SB3's replay buffer with each transition in one row, so that a minibatch is one gather instead of five."""

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize


class RowReplayBuffer(ReplayBuffer):
    """
    The same transitions, the same samples for the same seed and the same memory as :class:`ReplayBuffer`, whose arrays
    (``observations``, ``actions``, ...) are views of the rows here. For flat float32 observations and actions.

    :param args: As for :class:`ReplayBuffer`
    :param kwargs: As for :class:`ReplayBuffer`; without ``optimize_memory_usage``
    :raises ValueError: For other observations or actions, see :meth:`supports`
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not self.supports(self.observation_space, self.action_space) or self.optimize_memory_usage:
            raise ValueError(
                "RowReplayBuffer needs float observations and actions (Box), and no optimize_memory_usage; "
                "take stable_baselines3's ReplayBuffer"
            )
        n_observations, n_actions = self.observations[0, 0].size, self.action_dim
        # observation, next observation, action, reward, done, timeout
        self._splits = np.cumsum([n_observations, n_observations, n_actions, 1, 1]).tolist()
        self._rows = np.zeros((self.buffer_size, self.n_envs, self._splits[-1] + 1), dtype=np.float32)
        self._make_views()

    @staticmethod
    def supports(observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> bool:
        """
        :param observation_space: Observation space
        :param action_space: Action space
        :return: Whether transitions of these spaces are float32, as SB3 stores them
        """
        return (
            isinstance(observation_space, spaces.Box)
            and observation_space.dtype == np.float32
            and isinstance(action_space, spaces.Box)
            and action_space.dtype in (np.float32, np.float64)
        )

    def _make_views(self) -> None:
        observations, next_observations, self.actions, rewards, dones, timeouts = np.split(
            self._rows, self._splits, axis=2
        )
        shape = (self.buffer_size, self.n_envs, *self.obs_shape)
        self.observations, self.next_observations = observations.reshape(shape), next_observations.reshape(shape)
        self.rewards, self.dones, self.timeouts = rewards[..., 0], dones[..., 0], timeouts[..., 0]

    def __getstate__(self) -> dict[str, Any]:
        views = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
        return {name: value for name, value in vars(self).items() if name not in views}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._make_views()

    def _get_samples(self, batch_inds: np.ndarray, env: VecNormalize | None = None) -> ReplayBufferSamples:
        if env is not None:
            return super()._get_samples(batch_inds, env)
        env_indices = np.random.randint(0, high=self.n_envs, size=(len(batch_inds),))  # noqa: NPY002 (SB3's generator)
        rows = self._rows.reshape(-1, self._rows.shape[2]).take(batch_inds * self.n_envs + env_indices, axis=0)
        observations, next_observations, actions, rewards, dones, timeouts = th.as_tensor(
            rows, device=self.device
        ).tensor_split(self._splits, dim=1)
        shape = (len(rows), *self.obs_shape)
        return ReplayBufferSamples(
            observations.reshape(shape),
            actions,
            next_observations.reshape(shape),
            dones * (1 - timeouts),  # a timeout does not end the task
            rewards,
        )
