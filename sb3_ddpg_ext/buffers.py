"""SB3's replay buffers with each transition in one row, so that a minibatch is one gather instead of five to eight."""

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
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
        # observation, action, next observation, reward, done, timeout
        self._widths = [n_observations, n_actions, n_observations, 1, 1, 1]
        self._rows = np.zeros((self.buffer_size, self.n_envs, sum(self._widths)), dtype=np.float32)
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
        observations, self.actions, next_observations, rewards, dones, timeouts = np.split(
            self._rows, np.cumsum(self._widths[:-1]), axis=2
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
        rows = self._rows.reshape(-1, self._rows.shape[2])
        return self._samples(rows.take(batch_inds * self.n_envs + self._draw_env_indices(len(batch_inds)), axis=0))

    def _draw_env_indices(self, n: int) -> np.ndarray | int:
        if self.n_envs == 1:
            return 0  # there is nothing to draw, and SB3's draw leaves the generator as it is
        return np.random.randint(0, self.n_envs, size=n)  # noqa: NPY002 (SB3's generator)

    def _samples(self, rows: np.ndarray) -> ReplayBufferSamples:
        """``[batch, sum(widths)]``, a copy -> its columns."""
        dones, timeouts = rows[:, -2:].T
        dones *= 1 - timeouts  # a timeout does not end the task
        columns = th.as_tensor(rows, device=self.device).split(self._widths, dim=1)
        observations, actions, next_observations, rewards, terminals, _ = columns
        if len(self.obs_shape) > 1:
            observations, next_observations = (
                x.reshape(-1, *self.obs_shape) for x in (observations, next_observations)
            )
        return ReplayBufferSamples(observations, actions, next_observations, terminals, rewards)


class RowNStepReplayBuffer(RowReplayBuffer, NStepReplayBuffer):
    """
    The same for :class:`NStepReplayBuffer`: n-step returns, up to where the episode ends.

    :param args: As for :class:`ReplayBuffer`
    :param kwargs: As for :class:`NStepReplayBuffer`
    :raises ValueError: As for :class:`RowReplayBuffer`
    """

    def _get_samples(self, batch_inds: np.ndarray, env: VecNormalize | None = None) -> ReplayBufferSamples:
        if env is not None:
            return super()._get_samples(batch_inds, env)
        n = len(batch_inds)
        steps = np.arange(self.n_steps)
        places = (batch_inds[:, None] + steps) % self.buffer_size
        env_indices = np.broadcast_to(self._draw_env_indices(n), n)
        rows = self._rows[places, env_indices[:, None]]  # [batch, n_steps, sum(widths)]
        rewards, dones, timeouts = np.moveaxis(rows[:, :, -3:], 2, 0)
        # Where the sum ends: with the episode, with the newest transition, or after n steps
        ends = (dones + timeouts > 0) | (places == (self.pos - 1) % self.buffer_size)
        ends[:, -1] = True
        last = ends.argmax(axis=1)
        discounts = self.gamma ** steps.astype(np.float32)
        returns = (rewards * discounts * (steps <= last[:, None])).sum(axis=1)
        # Observation and action of the first transition, everything else of the last one
        merged = rows[np.arange(n), last]
        n_first = sum(self._widths[:2])
        merged[:, :n_first] = rows[:, 0, :n_first]
        merged[:, -3] = returns
        discounts_at_end = self.gamma ** (last[:, None] + 1).astype(np.float32)
        return self._samples(merged)._replace(discounts=th.as_tensor(discounts_at_end, device=self.device))
