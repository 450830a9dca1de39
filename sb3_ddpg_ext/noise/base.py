"""
What all noise processes have in common: their standard deviation, one random generator for each environment, and how
they are seeded, resized and reset.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

import numpy as np


class NoiseProcess(ABC):
    """
    Zero-mean stationary noise for a number of environments.

    A process is specified by its *stationary* standard deviation, so that two noises with the same ``std`` are equally
    strong whatever their correlation over time, from the first step of an episode to the last.

    It draws from one generator for each environment, all of them spawned from one seed, and never from NumPy's global
    generator.

    :param std: Stationary standard deviation in the scaled action space [-1, 1]: one number, or one for each action
    :raises ValueError: If ``std`` is negative or not finite
    """

    def __init__(self, std: float | Sequence[float]) -> None:
        self._generators: list[np.random.Generator] = []
        self._seed: int | None = None
        self._bound: tuple[int, tuple[int, ...]] | None = None  # n_envs and action_shape
        self.std = std

    @property
    def std(self) -> np.ndarray:
        """
        Stationary standard deviation in the scaled action space [-1, 1]: a float64 array, either 0-dimensional or with
        the shape of an action. It can be set at any time and counts from the next sample on. Changes in place, such as
        ``std[0] = 0.3``, are not checked.

        :raises ValueError: If it is set to something negative, not finite or of another shape than an action
        """
        return self._std

    @std.setter
    def std(self, std: float | Sequence[float] | np.ndarray) -> None:
        new = np.array(std, dtype=np.float64)  # a copy, so that the caller's array stays independent
        self._check_std(new)
        self._std = new

    def _check_std(self, std: np.ndarray) -> None:
        if not np.all(np.isfinite(std) & (std >= 0)):
            raise ValueError(f"std must be finite and not negative, got {std.tolist()}")
        if self._bound is not None:
            _check_shape(std, self._bound[1])

    @property
    def is_bound(self) -> bool:
        """Whether :meth:`bind` has been called: only then the process has generators and can be sampled."""
        return self._bound is not None

    def bind(self, n_envs: int, action_shape: tuple[int, ...], seed: int | None) -> None:
        """
        Set the shape of the noise and create the generators.

        Calling it again with the same seed keeps the existing generators and only adds or drops some. A loaded model
        therefore continues its random streams even with another number of environments.

        :param n_envs: Number of environments
        :param action_shape: Shape of one action
        :param seed: Seed from which the generators are spawned; None takes one from the operating system
        :raises ValueError: If ``std`` has another shape than an action
        """
        _check_shape(self._std, action_shape)
        bound = n_envs, action_shape
        if self._bound is None or seed != self._seed or action_shape != self._bound[1]:
            self._seed_sequence, self._seed, self._generators = np.random.SeedSequence(seed), seed, []
        elif bound == self._bound:
            return
        self._bound = bound
        self._begin(n_envs, action_shape)

    def reseed(self, seed: int) -> None:
        """
        Start again with new generators. Before :meth:`bind`, which sets a seed itself, this does nothing.

        A later call of :meth:`bind` keeps the new generators as long as its own seed stays the same.

        :param seed: Seed from which the generators are spawned
        """
        if self._bound is not None:
            self._seed_sequence, self._generators = np.random.SeedSequence(seed), []
            self._begin(*self._bound)

    def _begin(self, n_envs: int, action_shape: tuple[int, ...]) -> None:
        kept = self._generators[:n_envs]
        new = [np.random.default_rng(child) for child in self._seed_sequence.spawn(n_envs - len(kept))]
        self._generators, self._n_kept, self._action_shape = kept + new, len(kept), action_shape
        self._allocate()
        self.reset(range(n_envs))

    @abstractmethod
    def _allocate(self) -> None:
        """Allocate arrays for all environments. The first ``_n_kept`` generators have been in use before."""

    @abstractmethod
    def reset(self, env_indices: Iterable[int]) -> None:
        """
        Start anew in environments whose episode has ended.

        :param env_indices: Indices of these environments
        """

    @abstractmethod
    def sample(self) -> np.ndarray:
        """:return: The noise of the next step, ``[n_envs, *action_shape]``; do not modify it"""


def _check_shape(std: np.ndarray, action_shape: tuple[int, ...]) -> None:
    if std.ndim and std.shape != action_shape:
        raise ValueError(f"std has the shape {std.shape}, but actions have the shape {action_shape}")
