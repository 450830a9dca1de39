"""SB3's replay buffers with each transition in one row, so that a minibatch is one gather instead of five to eight."""

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

_ARRAYS = ("observations", "actions", "next_observations", "rewards", "dones", "timeouts")


class RowReplayBuffer(ReplayBuffer):
    """
    The same transitions, and the same samples for the same seed, as :class:`ReplayBuffer`, whose arrays
    (``observations``, ``actions``, ...) are views of the rows here. For flat observations and actions.

    Everything is float32, which is all that networks are given: float64 observations take half of the memory, and are
    rounded here instead of there. Other arrays may be assigned (``buffer.rewards = ...``): from then on they are what
    is sampled, without the advantage of rows.

    :param args: As for :class:`ReplayBuffer`
    :param kwargs: As for :class:`ReplayBuffer`; without ``optimize_memory_usage``
    :raises ValueError: For other observations or actions, see :meth:`why_not`
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
            raise ValueError(f"RowReplayBuffer cannot store it: {reason}; take stable_baselines3's ReplayBuffer")
        as_stored = spaces.Box(-np.inf, np.inf, observation_space.shape, np.float32)
        super().__init__(buffer_size, as_stored, action_space, *args, **kwargs)
        if self.optimize_memory_usage:
            raise ValueError("RowReplayBuffer has no optimize_memory_usage; take stable_baselines3's ReplayBuffer")
        self.observation_space = observation_space
        n_observations, n_actions = self.observations[0, 0].size, self.action_dim
        self._widths = [n_observations, n_actions, n_observations, 1, 1, 1]  # of _ARRAYS
        self._rows = np.zeros((self.buffer_size, self.n_envs, sum(self._widths)), dtype=np.float32)
        self._views = self._make_views()
        vars(self).update(self._views)

    @staticmethod
    def why_not(observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> str | None:
        """
        :param observation_space: Observation space
        :param action_space: Action space
        :return: None where rows hold all that networks are given of such transitions, else the reason why not
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

    def has_its_arrays(self) -> bool:
        """:return: Whether the arrays still are views of the rows: users may have assigned others"""
        arrays = vars(self)
        return all(arrays[name] is view for name, view in self._views.items())

    def __getstate__(self) -> dict[str, Any]:
        # The arrays are in the rows already, but for those that users have assigned
        known = {"_views": self._views, **self._views}
        return {name: value for name, value in vars(self).items() if known.get(name) is not value}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._views = self._make_views()
        vars(self).update({name: view for name, view in self._views.items() if name not in state})

    def _get_samples(self, batch_inds: np.ndarray, env: VecNormalize | None = None) -> ReplayBufferSamples:
        if env is not None or not self.has_its_arrays():
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
        Draw a minibatch as :meth:`sample` does it, without taking its rows apart. Only where the buffer
        :meth:`has_its_arrays`.

        :param rows: ``[batch, n]``, float32, which is filled: observation, action, next observation, reward, done
            (0 after a timeout) and timeout of each transition
        :return: Their discounts, ``[batch, 1]``, where they have any
        """
        upper_bound = self.buffer_size if self.full else self.pos
        return self._gather(np.random.randint(0, upper_bound, size=len(rows)), rows)  # noqa: NPY002 (SB3's generator)

    def _gather(self, batch_inds: np.ndarray, rows: np.ndarray) -> np.ndarray | None:
        everything = self._rows.reshape(-1, self._rows.shape[2])
        places = batch_inds * self.n_envs + self._draw_env_indices(len(batch_inds))
        everything.take(places, axis=0, out=rows, mode="clip")  # another mode would copy once more
        self._end_with_the_task(rows)
        return None

    def _draw_env_indices(self, n: int) -> np.ndarray | int:
        if self.n_envs == 1:
            return 0  # there is nothing to draw, and SB3's draw leaves the generator as it is
        return np.random.randint(0, self.n_envs, size=n)  # noqa: NPY002 (SB3's generator)

    @staticmethod
    def _end_with_the_task(rows: np.ndarray) -> None:
        """A timeout ends the episode, but not the task."""
        rows[:, -2] *= 1 - rows[:, -1]


class RowNStepReplayBuffer(RowReplayBuffer, NStepReplayBuffer):
    """
    The same for :class:`NStepReplayBuffer`: n-step returns, up to where the episode ends.

    :param args: As for :class:`ReplayBuffer`
    :param kwargs: As for :class:`NStepReplayBuffer`
    :raises ValueError: As for :class:`RowReplayBuffer`
    """

    def _gather(self, batch_inds: np.ndarray, rows: np.ndarray) -> np.ndarray | None:
        n = len(batch_inds)
        steps = np.arange(self.n_steps)
        places = (batch_inds[:, None] + steps) % self.buffer_size
        env_indices = np.broadcast_to(self._draw_env_indices(n), n)
        sequences = self._rows[places, env_indices[:, None]]  # [batch, n_steps, sum(widths)]
        rewards, dones, timeouts = np.moveaxis(sequences[:, :, -3:], 2, 0)
        # Where the sum ends: with the episode, with the newest transition, or after n steps
        ends = (dones + timeouts > 0) | (places == (self.pos - 1) % self.buffer_size)
        ends[:, -1] = True
        last = ends.argmax(axis=1)
        discounts = self.gamma ** steps.astype(np.float32)
        # Observation and action of the first transition, everything else of the last one
        rows[:] = sequences[np.arange(n), last]
        n_first = sum(self._widths[:2])
        rows[:, :n_first] = sequences[:, 0, :n_first]
        rows[:, -3] = (rewards * discounts * (steps <= last[:, None])).sum(axis=1)
        self._end_with_the_task(rows)
        discounts_at_end: np.ndarray = self.gamma ** (last[:, None] + 1).astype(np.float32)
        return discounts_at_end
