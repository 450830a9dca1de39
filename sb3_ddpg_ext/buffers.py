"""
SB3's replay buffers with each transition in one row of memory. Sampling a minibatch then needs one gather operation
instead of five to eight.
"""

from operator import is_, itemgetter
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

_ARRAYS = ("observations", "actions", "next_observations", "rewards", "dones", "timeouts")
_arrays_of = itemgetter(*_ARRAYS)


class RowReplayBuffer(ReplayBuffer):
    """
    A :class:`ReplayBuffer` that stores each transition in one row. For the same seed it returns the same samples. Its
    arrays (``observations``, ``actions``, ...) are views of the rows.

    It stores float32 only, which is what networks are given in any case. float64 observations are therefore rounded
    when they are stored, and not when they are sampled, and take half of the memory.

    If other arrays are assigned (``buffer.rewards = ...``), samples are taken from these, without the speed of rows.

    >>> import numpy as np
    >>> from gymnasium import spaces
    >>> observation_space, action_space = spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (2,))
    >>> buffer = RowReplayBuffer(100, observation_space, action_space, device="cpu")
    >>> observation, action = observation_space.sample()[None], action_space.sample()[None]
    >>> buffer.add(observation, observation, action, np.array([1.5]), np.array([False]), [{}])
    >>> buffer.sample(4).rewards.T
    tensor([[1.5000, 1.5000, 1.5000, 1.5000]])

    :param buffer_size: Number of transitions
    :param observation_space: Observation space, a ``Box`` of floats
    :param action_space: Action space, a ``Box`` of floats
    :param args: As for :class:`ReplayBuffer`
    :param kwargs: As for :class:`ReplayBuffer`; ``optimize_memory_usage`` is not supported
    :raises ValueError: For other observation or action spaces, or ``optimize_memory_usage=True``
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        *args: Any,
        **kwargs: Any,
    ) -> None:
        if (reason := self.why_not(observation_space, action_space)) is not None:
            raise ValueError(f"RowReplayBuffer cannot store this: {reason}; use stable_baselines3's ReplayBuffer")
        stored_space = spaces.Box(-np.inf, np.inf, observation_space.shape, np.float32)
        super().__init__(buffer_size, stored_space, action_space, *args, **kwargs)
        if self.optimize_memory_usage:
            raise ValueError("RowReplayBuffer has no optimize_memory_usage; use stable_baselines3's ReplayBuffer")
        self.observation_space = observation_space
        n_observations, n_actions = self.observations[0, 0].size, self.action_dim
        self._widths = [n_observations, n_actions, n_observations, 1, 1, 1]  # of _ARRAYS
        self._rows = np.zeros((self.buffer_size, self.n_envs, sum(self._widths)), dtype=np.float32)
        # Of what `add` can store at once
        self._shapes = [(self.n_envs, n) for n in self._widths[:3]] + 2 * [(self.n_envs,)]
        self._views = self._make_views()
        vars(self).update(self._views)

    @staticmethod
    def why_not(observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> str | None:
        """
        :param observation_space: Observation space
        :param action_space: Action space
        :return: None if transitions of these spaces can be stored in rows, else the reason why not
        """
        for what, space in (("observations", observation_space), ("actions", action_space)):
            if not (isinstance(space, spaces.Box) and space.dtype in (np.float32, np.float64)):
                return f"the {what} are {space}, not a Box of floats"
        return None

    def _make_views(self) -> dict[str, np.ndarray]:
        columns = np.split(self._rows, np.cumsum(self._widths[:-1]), axis=2)
        views = dict(zip(_ARRAYS, columns, strict=True))
        for name in ("observations", "next_observations"):
            views[name] = views[name].reshape(self.buffer_size, self.n_envs, *self.obs_shape)
        for name in ("rewards", "dones", "timeouts"):
            views[name] = views[name][..., 0]
        return views

    def arrays_are_views(self) -> bool:
        """:return: Whether all arrays are still views of the rows. A user may have assigned others"""
        return all(map(is_, _arrays_of(vars(self)), self._views.values()))

    def add(
        self,
        obs: np.ndarray,
        next_obs: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """
        Store one transition of each environment.

        :param obs: ``[n_envs, *observation_shape]``
        :param next_obs: ``[n_envs, *observation_shape]``: the last one of the episode where it has ended
        :param action: ``[n_envs, *action_shape]``, in [-1, 1]
        :param reward: ``[n_envs]``
        :param done: ``[n_envs]``
        :param infos: One for each environment, with ``TimeLimit.truncated``
        """
        shapes = [array.shape for array in (obs, action, next_obs, reward, done)]
        if shapes != self._shapes or not self.arrays_are_views():
            super().add(obs, next_obs, action, reward, done, infos)
            return
        row = self._rows[self.pos]
        columns = (obs, action, next_obs, reward[:, None], done[:, None])
        np.concatenate(columns, axis=1, out=row[:, :-1], casting="unsafe")
        if self.handle_timeout_termination:
            row[:, -1] = [info.get("TimeLimit.truncated", False) for info in infos]
        self.pos += 1
        if self.pos == self.buffer_size:
            self.full, self.pos = True, 0

    def __getstate__(self) -> dict[str, Any]:
        # Views need not be saved. Arrays that a user has assigned are saved
        views = {"_views": self._views, **self._views}
        return {name: value for name, value in vars(self).items() if views.get(name) is not value}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._views = self._make_views()
        vars(self).update({name: view for name, view in self._views.items() if name not in state})

    def _get_samples(self, batch_inds: np.ndarray, env: VecNormalize | None = None) -> ReplayBufferSamples:
        if env is not None or not self.arrays_are_views():
            return super()._get_samples(batch_inds, env)
        rows = np.empty((len(batch_inds), self._rows.shape[2]), dtype=np.float32)
        discounts = self._gather(batch_inds, rows)
        split: Any = th.split_with_sizes_copy  # which PyTorch declares to return nothing
        observations, actions, next_observations, rewards, terminals, _ = split(
            th.as_tensor(rows, device=self.device), self._widths, 1
        )
        if len(self.obs_shape) > 1:
            observations, next_observations = (x.view(-1, *self.obs_shape) for x in (observations, next_observations))
        samples = ReplayBufferSamples(observations, actions, next_observations, terminals, rewards)
        if discounts is None:
            return samples
        return samples._replace(discounts=th.as_tensor(discounts, device=self.device))

    def sample_rows(self, rows: np.ndarray) -> np.ndarray | None:
        """
        Draw a minibatch like :meth:`sample`, without splitting its rows. Only if :meth:`arrays_are_views` is true.

        :param rows: Output, ``[batch, n]``, float32: observation, action, next observation, reward, done (0 after a
            timeout) and timeout of each transition
        :return: The discounts of n-step returns, ``[batch, 1]``, or None
        """
        batch_inds = np.random.randint(0, self._n_positions(), size=len(rows))  # noqa: NPY002 (SB3's generator)
        return self._gather(batch_inds, rows)

    def rows_to_draw(self) -> tuple[np.ndarray, int] | None:
        """
        What :meth:`sample` draws minibatches from. Only if :meth:`arrays_are_views` is true.

        :return: All rows, ``[buffer_size, n_envs, n]``, float32, as in :meth:`sample_rows`, and how many positions have
            been filled; None if there are none yet
        """
        return (self._rows, n) if (n := self._n_positions()) else None

    def _n_positions(self) -> int:
        return self.buffer_size if self.full else self.pos

    def _gather(self, batch_inds: np.ndarray, rows: np.ndarray) -> np.ndarray | None:
        indices = batch_inds * self.n_envs + self._draw_env_indices(len(batch_inds))
        all_rows = self._rows.reshape(-1, self._rows.shape[2])
        all_rows.take(indices, axis=0, out=rows, mode="clip")  # other modes make another copy
        self._ignore_timeouts(rows)
        return None

    def _draw_env_indices(self, n: int) -> np.ndarray | int:
        if self.n_envs == 1:
            return 0  # SB3 draws, but from one number only, which does not change the generator's state
        return np.random.randint(0, self.n_envs, size=n)  # noqa: NPY002 (SB3's generator)

    @staticmethod
    def _ignore_timeouts(rows: np.ndarray) -> None:
        """Set done to 0 after a timeout: the episode was cut off, but has not terminated."""
        rows[:, -2] *= 1 - rows[:, -1]


class RowNStepReplayBuffer(RowReplayBuffer, NStepReplayBuffer):
    """
    A :class:`NStepReplayBuffer` that stores each transition in one row, see :class:`RowReplayBuffer`. Its samples have
    n-step returns, which end with the episode.

    >>> import numpy as np
    >>> from gymnasium import spaces
    >>> observation_space, action_space = spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (2,))
    >>> buffer = RowNStepReplayBuffer(100, observation_space, action_space, device="cpu", n_steps=2, gamma=0.5)
    >>> observation, action = observation_space.sample()[None], action_space.sample()[None]
    >>> for done in (False, True):
    ...     buffer.add(observation, observation, action, np.array([1.0]), np.array([done]), [{}])
    >>> samples = buffer._get_samples(np.array([0, 1]))  # both transitions; `sample` draws them at random
    >>> samples.rewards.T, samples.discounts.T
    (tensor([[1.5000, 1.0000]]), tensor([[0.2500, 0.5000]]))

    :param args: As for :class:`ReplayBuffer`
    :param kwargs: As for :class:`NStepReplayBuffer`
    :raises ValueError: As for :class:`RowReplayBuffer`
    """

    def rows_to_draw(self) -> None:
        """:return: None, since n-step returns are sums over several rows"""

    def _gather(self, batch_inds: np.ndarray, rows: np.ndarray) -> np.ndarray | None:
        n = len(batch_inds)
        steps = np.arange(self.n_steps)
        positions = (batch_inds[:, None] + steps) % self.buffer_size
        env_indices = np.broadcast_to(self._draw_env_indices(n), n)
        sequences = self._rows[positions, env_indices[:, None]]  # [batch, n_steps, sum(widths)]
        rewards, dones, timeouts = np.moveaxis(sequences[:, :, -3:], 2, 0)
        # The return ends with the episode, with the newest transition, or after n steps
        ends = (dones + timeouts > 0) | (positions == (self.pos - 1) % self.buffer_size)
        ends[:, -1] = True
        last = ends.argmax(axis=1)
        discounts = self.gamma ** steps.astype(np.float32)
        # Observation and action from the first transition, everything else from the last one
        rows[:] = sequences[np.arange(n), last]
        n_first = sum(self._widths[:2])
        rows[:, :n_first] = sequences[:, 0, :n_first]
        rows[:, -3] = (rewards * discounts * (steps <= last[:, None])).sum(axis=1)
        self._ignore_timeouts(rows)
        discounts_at_end: np.ndarray = self.gamma ** (last[:, None] + 1).astype(np.float32)
        return discounts_at_end
