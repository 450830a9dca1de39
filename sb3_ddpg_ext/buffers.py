"""
SB3's replay buffers in other memory: with each transition in one row, so that sampling a minibatch needs one gather
operation instead of five to eight; or with each observation only once. And SB3's n-step returns for Dict observations.
"""

from operator import is_, itemgetter
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import BaseBuffer, DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

_ARRAYS = ("observations", "actions", "next_observations", "rewards", "dones", "timeouts")
_arrays_of = itemgetter(*_ARRAYS)
_SHARED = 0  # in CompactReplayBuffer: no place of its own


def _in_float32(space: spaces.Space[Any]) -> spaces.Box:
    return spaces.Box(-np.inf, np.inf, space.shape, np.float32)


def _store_timeouts_and_advance(buffer: ReplayBuffer, infos: list[dict[str, Any]]) -> None:
    if buffer.handle_timeout_termination:
        buffer.timeouts[buffer.pos] = [info.get("TimeLimit.truncated", False) for info in infos]
    buffer.pos += 1
    if buffer.pos == buffer.buffer_size:
        buffer.full, buffer.pos = True, 0


def _n_step_returns(rewards: np.ndarray, ends: np.ndarray, gamma: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Returns of sequences of transitions. Each ends with the episode, with the newest transition, or after n steps.

    :param rewards: ``[batch, n_steps]``, float32
    :param ends: ``[batch, n_steps]``: True where an episode has ended, and at the newest transition
    :param gamma: The discount of one step
    :return: The step with which each return ends, from 0, ``[batch]``; the returns, ``[batch]``; and the discounts of
        what follows, ``[batch, 1]``
    """
    steps = np.arange(rewards.shape[1])
    last = np.where(ends.any(axis=1), ends.argmax(axis=1), steps[-1])
    discounts = gamma ** steps.astype(np.float32)
    returns = (rewards * discounts * (steps <= last[:, None])).sum(axis=1)
    return last, returns, gamma ** (last[:, None] + 1).astype(np.float32)


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
            name = type(self).__name__
            raise ValueError(f"{name} cannot store this: {reason}; use stable_baselines3's ReplayBuffer")
        super().__init__(buffer_size, _in_float32(observation_space), action_space, *args, **kwargs)
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
        # SB3's method also takes lists and numbers, which have no shape
        shapes = [getattr(array, "shape", None) for array in (obs, action, next_obs, reward, done)]
        if shapes != self._shapes or not self.arrays_are_views():
            super().add(obs, next_obs, action, reward, done, infos)
            return
        columns = (obs, action, next_obs, reward[:, None], done[:, None])
        np.concatenate(columns, axis=1, out=self._rows[self.pos, :, :-1], casting="unsafe")
        _store_timeouts_and_advance(self, infos)

    def __getstate__(self) -> dict[str, Any]:
        # Views need not be saved. Arrays that a user has assigned are saved
        views = {"_views": self._views, **self._views}
        return {name: value for name, value in vars(self).items() if views.get(name) is not value}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._views = self._make_views()
        vars(self).update({name: view for name, view in self._views.items() if name not in state})

    def _get_samples(self, batch_inds: np.ndarray, env: VecNormalize | None = None) -> ReplayBufferSamples:
        if not self.arrays_are_views():
            return super()._get_samples(batch_inds, env)
        return self._samples_at(batch_inds, self._draw_env_indices(len(batch_inds)), env)

    def _samples_at(
        self, batch_inds: np.ndarray, env_indices: np.ndarray | int, env: VecNormalize | None
    ) -> ReplayBufferSamples:
        rows = np.empty((len(batch_inds), self._rows.shape[2]), dtype=np.float32)
        discounts = self._gather(batch_inds, env_indices, rows, env)
        if env is not None:
            columns = np.split(rows, np.cumsum(self._widths[:-1]), axis=1)
            for stored in (columns[0], columns[2]):  # observations and next observations
                normalized: Any = self._normalize_obs(stored.reshape(-1, *self.obs_shape), env)
                stored[:] = normalized.reshape(stored.shape)
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
        batch_inds = np.random.randint(0, self.size(), size=len(rows))  # noqa: NPY002 (SB3's generator)
        return self._gather(batch_inds, self._draw_env_indices(len(rows)), rows)

    def rows_to_draw(self) -> tuple[np.ndarray, int, tuple[int, float, int] | None] | None:
        """
        What :meth:`sample` draws minibatches from. Only if :meth:`arrays_are_views` is true.

        :return: All rows, ``[buffer_size, n_envs, n]``, float32, as in :meth:`sample_rows`; how many positions have
            been filled; and for n-step returns n, gamma, and the newest position, with which returns end. None if there
            are no rows yet
        """
        return (self._rows, n, self._returns()) if (n := self.size()) else None

    def _returns(self) -> tuple[int, float, int] | None:
        return None

    def _gather(
        self, batch_inds: np.ndarray, env_indices: np.ndarray | int, rows: np.ndarray, env: VecNormalize | None = None
    ) -> np.ndarray | None:
        indices = batch_inds * self.n_envs + env_indices
        all_rows = self._rows.reshape(-1, self._rows.shape[2])
        all_rows.take(indices, axis=0, out=rows, mode="clip")  # other modes make another copy
        if env is not None:
            rows[:, -3] = self._normalize_reward(rows[:, -3], env)
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

    def _returns(self) -> tuple[int, float, int]:
        return self.n_steps, self.gamma, self._newest()

    def _newest(self) -> int:
        return (self.pos - 1) % self.buffer_size

    def _gather(
        self, batch_inds: np.ndarray, env_indices: np.ndarray | int, rows: np.ndarray, env: VecNormalize | None = None
    ) -> np.ndarray | None:
        n = len(batch_inds)
        positions = (batch_inds[:, None] + np.arange(self.n_steps)) % self.buffer_size
        env_indices = np.broadcast_to(env_indices, n)
        sequences = self._rows[positions, env_indices[:, None]]  # [batch, n_steps, sum(widths)]
        rewards, dones, timeouts = np.moveaxis(sequences[:, :, -3:], 2, 0)
        ends = (dones + timeouts > 0) | (positions == self._newest())
        last, returns, discounts = _n_step_returns(self._normalize_reward(rewards, env), ends, self.gamma)
        # Observation and action from the first transition, everything else from the last one
        rows[:] = sequences[np.arange(n), last]
        n_first = sum(self._widths[:2])
        rows[:, :n_first] = sequences[:, 0, :n_first]
        rows[:, -3] = returns
        self._ignore_timeouts(rows)
        return discounts


class DictNStepReplayBuffer(DictReplayBuffer):
    """
    A :class:`DictReplayBuffer` whose samples have n-step returns, like those of :class:`NStepReplayBuffer`, which takes
    no Dict observations.

    >>> import numpy as np
    >>> from gymnasium import spaces
    >>> observation_space = spaces.Dict({"position": spaces.Box(-1, 1, (2,)), "speed": spaces.Box(-1, 1, (1,))})
    >>> buffer = DictNStepReplayBuffer(100, observation_space, spaces.Box(-1, 1, (1,)), "cpu", n_steps=2, gamma=0.5)
    >>> observation = {"position": np.zeros((1, 2)), "speed": np.ones((1, 1))}
    >>> for done in (False, True):
    ...     buffer.add(observation, observation, np.zeros((1, 1)), np.array([1.0]), np.array([done]), [{}])
    >>> samples = buffer._get_samples(np.array([0, 1]))  # both transitions; `sample` draws them at random
    >>> samples.rewards.T, samples.discounts.T
    (tensor([[1.5000, 1.0000]]), tensor([[0.2500, 0.5000]]))

    :param args: As for :class:`DictReplayBuffer`
    :param n_steps: Over how many steps rewards are summed, at most: returns end with the episode
    :param gamma: The discount of one step
    :param kwargs: As for :class:`DictReplayBuffer`
    """

    def __init__(self, *args: Any, n_steps: int = 3, gamma: float = 0.99, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.n_steps, self.gamma = n_steps, gamma

    def _get_samples(  # type: ignore[override]  # as in DictReplayBuffer
        self, batch_inds: np.ndarray, env: VecNormalize | None = None
    ) -> DictReplayBufferSamples:
        env_indices = np.random.randint(0, self.n_envs, size=len(batch_inds))  # noqa: NPY002 (SB3's generator)
        positions = (batch_inds[:, None] + np.arange(self.n_steps)) % self.buffer_size
        sequences = (positions, env_indices[:, None])
        rewards = self._normalize_reward(self.rewards[sequences], env)
        ends = (self.dones[sequences] + self.timeouts[sequences] > 0) | (positions == (self.pos - 1) % self.buffer_size)
        last, returns, discounts = _n_step_returns(rewards, ends, self.gamma)
        at_first = (batch_inds, env_indices)
        at_last = ((batch_inds + last) % self.buffer_size, env_indices)
        terminals = self.dones[at_last] * (1 - self.timeouts[at_last])
        return DictReplayBufferSamples(
            observations=self._observations_at(at_first, self.observations, env),
            actions=self.to_torch(self.actions[at_first]),
            next_observations=self._observations_at(at_last, self.next_observations, env),
            dones=self.to_torch(terminals[:, None]),
            rewards=self.to_torch(returns[:, None]),
            discounts=self.to_torch(discounts),
        )

    def _observations_at(
        self, where: tuple[np.ndarray, np.ndarray], arrays: dict[str, np.ndarray], env: VecNormalize | None
    ) -> dict[str, th.Tensor]:
        observations: Any = self._normalize_obs({key: array[where] for key, array in arrays.items()}, env)
        return {key: self.to_torch(array) for key, array in observations.items()}


class CompactReplayBuffer(ReplayBuffer):
    """
    A :class:`ReplayBuffer` that stores each observation once, not also as the next observation of the transition before
    it. With large observations it takes half of the memory. For the same seed it returns the same samples.

    A next observation is kept apart only where the following transition does not begin with it, as after the end of an
    episode. SB3's own ``optimize_memory_usage`` uses the first observation of the next episode there, so that it cannot
    bootstrap after a timeout. Like :class:`RowReplayBuffer`, it rounds float64 observations to float32.

    >>> import numpy as np
    >>> from gymnasium import spaces
    >>> observation_space, action_space = spaces.Box(0, 9, (1,)), spaces.Box(-1, 1, (1,))
    >>> buffer = CompactReplayBuffer(100, observation_space, action_space, device="cpu")
    >>> for obs, next_obs, done in ((1, 2, False), (2, 3, True), (7, 8, False)):
    ...     buffer.add(np.array([[obs]]), np.array([[next_obs]]), np.zeros((1, 1)), np.zeros(1), np.array([done]), [{}])
    >>> buffer._get_samples(np.array([0, 1, 2])).next_observations.T  # all three; `sample` draws them at random
    tensor([[2., 3., 8.]])

    :param buffer_size: Number of transitions
    :param observation_space: Observation space, with one array
    :param action_space: Action space
    :param device: PyTorch device
    :param n_envs: Number of parallel environments
    :param optimize_memory_usage: Has no effect: it does so in any case
    :param handle_timeout_termination: As for :class:`ReplayBuffer`
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: th.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = True,  # noqa: ARG002
        handle_timeout_termination: bool = True,
    ) -> None:
        stored_space = _in_float32(observation_space) if observation_space.dtype == np.float64 else observation_space
        # SB3 refuses the two options together
        super().__init__(buffer_size, stored_space, action_space, device, n_envs, True, False)
        self.observation_space, self.handle_timeout_termination = observation_space, handle_timeout_termination
        # Next observations that are kept, one after the other; first the newest ones, one for each environment
        self._kept = np.zeros(self.n_envs * self._n_observations(), dtype=self.observations.dtype)
        self._free: list[int] = []  # places of others that are not needed any more
        # Where the next observation of the transition before each one is kept, or _SHARED if it begins with it
        self._place = np.zeros((self.buffer_size, self.n_envs), dtype=np.int32)

    def _n_observations(self) -> int:
        return int(np.prod(self.obs_shape))

    def add(
        self,
        obs: np.ndarray,
        next_obs: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """Store one transition of each environment, see :meth:`RowReplayBuffer.add`."""
        position, newest = self.pos, self._places()[: self.n_envs]
        self._free += [place for place in self._place[position].tolist() if place != _SHARED]
        self._place[position] = _SHARED
        self.observations[position] = obs
        if position > 0 or self.full:
            first = self.observations[position].reshape(self.n_envs, -1)
            for env in np.flatnonzero((newest != first).any(axis=1)).tolist():
                self._place[position, env] = self._keep(newest[env])
        self._places()[: self.n_envs] = np.reshape(next_obs, (self.n_envs, -1))
        self.actions[position] = action.reshape(self.n_envs, self.action_dim)
        self.rewards[position], self.dones[position] = reward, done
        _store_timeouts_and_advance(self, infos)

    def _places(self) -> np.ndarray:
        """:return: ``[n_places, n]``, a view"""
        return self._kept.reshape(-1, self._n_observations())

    def _keep(self, observation: np.ndarray) -> int:
        """:return: Where it is kept"""
        if not self._free:
            n = len(self._places())
            self._kept = np.concatenate((self._kept, np.zeros_like(self._kept)))
            self._free += range(n, 2 * n)
        place = self._free.pop()
        self._places()[place] = observation
        return place

    def why_damaged(self) -> str | None:
        """:return: None if what is kept is what the transitions need, as far as can be seen; else what is wrong"""
        n_places, rest = divmod(self._kept.size, self._n_observations())
        if self._kept.ndim != 1 or self._kept.dtype != self.observations.dtype or rest or n_places < self.n_envs:
            return "its kept observations are not those of its spaces"
        if self._kept.dtype.kind == "f" and not np.isfinite(self._kept).all():
            return "a kept observation has a number that is not finite"
        places = np.unique([*self._free, *self._place[self._place != _SHARED].tolist()])
        if places.size and not (places.dtype.kind == "i" and self.n_envs <= places[0] and places[-1] < n_places):
            return "a kept observation is missing"
        return None

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> ReplayBufferSamples:
        """
        Draw a minibatch.

        :param batch_size: Number of transitions
        :param env: VecNormalize, to normalise observations and rewards
        :return: Samples
        """
        samples: ReplayBufferSamples = BaseBuffer.sample(self, batch_size, env)  # ReplayBuffer's leaves one out
        return samples

    def _get_samples(self, batch_inds: np.ndarray, env: VecNormalize | None = None) -> ReplayBufferSamples:
        env_inds = np.random.randint(0, high=self.n_envs, size=len(batch_inds))  # noqa: NPY002 (SB3's generator)
        following = (batch_inds + 1) % self.buffer_size
        next_obs = self.observations[following, env_inds]
        is_newest = following == self.pos
        place = np.where(is_newest, env_inds, self._place[following, env_inds])
        is_kept = is_newest | (place != _SHARED)
        next_obs[is_kept] = self._places()[place[is_kept]].reshape(-1, *self.obs_shape)
        terminals = self.dones[batch_inds, env_inds] * (1 - self.timeouts[batch_inds, env_inds])
        data: Any = (
            self._normalize_obs(self.observations[batch_inds, env_inds], env),
            self.actions[batch_inds, env_inds],
            self._normalize_obs(next_obs, env),
            terminals.reshape(-1, 1),
            self._normalize_reward(self.rewards[batch_inds, env_inds].reshape(-1, 1), env),
        )
        return ReplayBufferSamples(*map(self.to_torch, data))
