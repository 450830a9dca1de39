"""
Noise processes. They know numpy only.

A process is specified by its *stationary* standard deviation in the scaled action space [-1, 1], so that two noises of
equal ``std`` are equally strong whatever their correlation, from the first step of an episode to the last.
It can be changed while a process is in use: all of them keep noise of unit variance and scale it as it is sampled, so
that it has its new strength at once and is stationary still.

It draws from one generator for each environment, all spawned from one seed; the global generator is never touched.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

import numpy as np

_DRAWS = 128  # steps for which random numbers are drawn ahead: a call of a generator costs more than its numbers
_DEFAULT_HORIZON = 1000  # steps


class NoiseProcess(ABC):
    """
    Zero-mean stationary noise for a number of environments.

    :param std: Stationary standard deviation in the scaled action space [-1, 1]: one number, or one for each action
    :raises ValueError: Where ``std`` is negative or not finite
    """

    def __init__(self, std: float | Sequence[float]) -> None:
        self._generators: list[np.random.Generator] = []
        self._seed: int | None = None
        self._bound: tuple[int, tuple[int, ...]] | None = None
        self.std = std

    @property
    def std(self) -> np.ndarray:
        """
        Stationary standard deviation in the scaled action space [-1, 1], float64: of no dimension, or one for each
        action. Another one, or a change in place such as ``std[0] = 0.3`` (which nothing checks), counts from the next
        sample on.

        :raises ValueError: Where it is set to what is negative, not finite or of another shape than an action
        """
        return self._std

    @std.setter
    def std(self, std: float | Sequence[float] | np.ndarray) -> None:
        new = np.array(std, dtype=np.float64)  # a copy, which nobody else changes
        if not np.all(np.isfinite(new) & (new >= 0)):
            raise ValueError(f"std must be finite and not negative, got {new.tolist()}")
        if self._bound is not None:
            _check_shape(new, self._bound[1])
        self._std = new

    @property
    def is_bound(self) -> bool:
        """Whether it knows its shapes and has its generators."""
        return self._bound is not None

    def bind(self, n_envs: int, action_shape: tuple[int, ...], seed: int | None) -> None:
        """
        Fix shapes and generators. Binding again with the same seed keeps the generators there are and only adds or
        drops some, so that a loaded model goes on with its streams even with another number of environments.

        :param n_envs: Number of environments
        :param action_shape: Shape of one action
        :param seed: Where the generators are spawned from; None draws one from the operating system
        :raises ValueError: Where ``std`` has another shape than an action
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
        Begin anew as if bound for the first time, with this seed. Binding again with the seed of the last time keeps
        these streams. Before it is bound, which brings a seed of its own, a process has nothing to begin anew, and this
        does nothing.

        :param seed: Where the generators are spawned from
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
        """Make room for the environments of the generators, of which the first ``_n_kept`` were there before."""

    @abstractmethod
    def reset(self, env_indices: Iterable[int]) -> None:
        """
        Begin anew where an episode ended.

        :param env_indices: The environments of these episodes
        """

    @abstractmethod
    def sample(self) -> np.ndarray:
        """:return: The noise of the next step, ``[n_envs, *action_shape]``; to be read only"""


def _check_shape(std: np.ndarray, action_shape: tuple[int, ...]) -> None:
    if std.ndim and std.shape != action_shape:
        raise ValueError(f"std has the shape {std.shape}, but actions have the shape {action_shape}")


class _StepwiseNoise(NoiseProcess):
    """Noise that takes one independent draw of zero mean and unit variance for each step."""

    def _allocate(self) -> None:
        if self._n_kept == 0:
            self._draws, self._n_used = np.empty((_DRAWS, 0, *self._action_shape)), 0
        new = [
            self._draw(generator, (_DRAWS, 1, *self._action_shape)) for generator in self._generators[self._n_kept :]
        ]
        self._draws = np.concatenate([self._draws[:, : self._n_kept], *new], axis=1)

    @staticmethod
    def _draw(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return generator.standard_normal(shape)

    def _next_draws(self) -> np.ndarray:
        """:return: The draws of the next step, ``[n_envs, *action_shape]``; to be read only"""
        if self._n_used == _DRAWS:
            for i, generator in enumerate(self._generators):
                self._draws[:, i] = self._draw(generator, (_DRAWS, *self._action_shape))
            self._n_used = 0
        self._n_used += 1
        draws: np.ndarray = self._draws[self._n_used - 1]
        return draws


class _WhiteNoise(_StepwiseNoise):
    """These draws, and nothing else."""

    def __init__(self, std: float | Sequence[float] = 0.1) -> None:
        super().__init__(std)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(std={self.std})"

    def reset(self, env_indices: Iterable[int]) -> None:
        """
        White noise has no memory: nothing to do.

        :param env_indices: The environments of these episodes
        """

    def sample(self) -> np.ndarray:
        """:return: The noise of the next step, ``[n_envs, *action_shape]``; to be read only"""
        noise: np.ndarray = self._std * self._next_draws()
        return noise


class GaussianNoise(_WhiteNoise):
    """
    White noise: independent normal draws at every step (the choice of the TD3 paper, https://arxiv.org/abs/1802.09477).

    :param std: Standard deviation in the scaled action space [-1, 1]: one number, or one for each action
    :raises ValueError: Where ``std`` is negative or not finite
    """


class UniformNoise(_WhiteNoise):
    """
    White noise: independent draws at every step, uniform between -std sqrt(3) and std sqrt(3).

    :param std: Standard deviation in the scaled action space [-1, 1]: one number, or one for each action
    :raises ValueError: Where ``std`` is negative or not finite
    """

    @staticmethod
    def _draw(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return generator.uniform(-(3**0.5), 3**0.5, shape)


class OrnsteinUhlenbeckNoise(_StepwiseNoise):
    """
    Ornstein-Uhlenbeck process, discretised exactly: ``x' = rho x + sqrt(1 - rho^2) n`` with
    ``rho = exp(-1 / correlation_time)`` and n standard normal; the noise is ``std x``. It starts from its stationary
    distribution.

    The defaults are the process of the DDPG paper, ``dx = -theta x dt + sigma dW`` with theta = 0.15 and sigma = 0.2:
    its correlation time is ``1 / theta`` steps, its stationary standard deviation ``sigma / sqrt(2 theta)``.

    :param std: Stationary standard deviation in the scaled action space [-1, 1]: one number, or one for each action
    :param correlation_time: Steps after which the autocorrelation has fallen to 1/e
    :raises ValueError: Where ``std`` is negative or not finite, or ``correlation_time`` is not positive
    """

    def __init__(self, std: float | Sequence[float] = 0.2 / 0.3**0.5, correlation_time: float = 1 / 0.15) -> None:
        super().__init__(std)
        self.correlation_time = correlation_time

    @property
    def correlation_time(self) -> float:
        """
        Steps after which the autocorrelation has fallen to 1/e. Another one counts once the next step, which is drawn
        already, is taken.

        :raises ValueError: Where it is set to what is not positive
        """
        return self._correlation_time

    @correlation_time.setter
    def correlation_time(self, correlation_time: float) -> None:
        if not correlation_time > 0:
            raise ValueError(f"correlation_time must be positive, in steps, got {correlation_time}")
        self._correlation_time = correlation_time
        # Arrays of no dimension, by which numpy multiplies faster than by numbers
        self._rho = np.array(np.exp(-1 / correlation_time))
        self._gain = np.array((1 - self._rho**2) ** 0.5)

    @classmethod
    def from_sde(cls, sigma: float | Sequence[float], theta: float = 0.15, dt: float = 1.0) -> "OrnsteinUhlenbeckNoise":
        """
        From the parameters of ``dx = -theta x dt + sigma dW``, observed every ``dt``.

        The DDPG paper's are theta = 0.15, sigma = 0.2, dt = 1. With dt = 0.01 it is the process of SB3's
        ``OrnsteinUhlenbeckActionNoise``, which has that default and starts at 0 instead.

        :param sigma: Diffusion: one number, or one for each action
        :param theta: Rate of the return to 0
        :param dt: Time of one step
        :return: The process; its stationary standard deviation is ``sigma / sqrt(2 theta)``, whatever ``dt`` is
        :raises ValueError: Where ``sigma`` is negative or not finite, or ``theta`` or ``dt`` is not positive
        """
        if not (theta > 0 and dt > 0):
            raise ValueError(f"theta and dt must be positive, got {theta} and {dt}")
        return cls((np.asarray(sigma, dtype=np.float64) / (2 * theta) ** 0.5).tolist(), 1 / (theta * dt))

    def __repr__(self) -> str:
        return f"OrnsteinUhlenbeckNoise(std={self.std}, correlation_time={self.correlation_time})"

    def _allocate(self) -> None:
        super()._allocate()
        self._state = np.zeros((len(self._generators), *self._action_shape))  # of unit variance

    def reset(self, env_indices: Iterable[int]) -> None:
        """
        Draw the state from the stationary distribution where an episode ended.

        :param env_indices: The environments of these episodes
        """
        for i in env_indices:
            self._state[i] = self._generators[i].standard_normal(self._action_shape)

    def sample(self) -> np.ndarray:
        """:return: The noise of the next step, ``[n_envs, *action_shape]``; to be read only"""
        state = self._state
        self._state = self._rho * state + self._gain * self._next_draws()
        noise: np.ndarray = self._std * state
        return noise


class ColoredNoise(NoiseProcess):
    """
    Gaussian noise with the power spectral density ``f^-beta``: white for 0, pink for 1, red (as of a random walk) for
    2. The larger beta, the more slowly it changes. From Eberhard et al. 2023, Pink Noise Is All You Need
    (https://openreview.net/forum?id=hQ9V5QN27eS), by the method of Timmer and Koenig 1995: random Fourier coefficients
    over the horizon. The lowest frequency is that of one period in the horizon; the constant has as much power as that.

    :param beta: Exponent of the spectrum, from 0 on
    :param std: Stationary standard deviation in the scaled action space [-1, 1]: one number, or one for each action
    :param horizon: Steps that are generated at a time: the length of an episode. 1000 if not given; ``CustomDDPG``
        takes the time limit of its environment. Longer episodes go on with a new series into which the old one fades.
    :raises ValueError: Where ``std`` or ``beta`` is negative or not finite, or ``horizon`` is less than 2
    """

    def __init__(self, beta: float, std: float | Sequence[float] = 0.3, horizon: int | None = None) -> None:
        super().__init__(std)
        if not 0 <= beta < float("inf"):
            raise ValueError(f"beta must be finite and not negative, got {beta}")
        if horizon is not None and not horizon >= 2:
            raise ValueError(f"horizon must be 2 steps or more, got {horizon}")
        self.beta = beta
        self.horizon = horizon

    def __repr__(self) -> str:
        return f"ColoredNoise(beta={self.beta}, std={self.std})"

    def _allocate(self) -> None:
        length = self._length = self.horizon or _DEFAULT_HORIZON
        n_envs = len(self._generators)
        # Of unit variance. A ring: a step's noise of all environments is one row, wherever their series began
        self._series = np.empty((length, n_envs, *self._action_shape))
        self._step, self._ends = 0, np.zeros(n_envs, dtype=np.intp)  # a series is used up at the step of its end

        amplitudes = np.maximum(np.arange(length // 2 + 1), 1) ** (-self.beta / 2)
        # All coefficients stand for two conjugate ones but the constant, and the last one of an even length, which are
        # real: these get the power of two
        powers = 4 * amplitudes**2
        real = [0, -1] if length % 2 == 0 else [0]
        amplitudes[real] *= 2**0.5
        powers[real] = amplitudes[real] ** 2
        amplitudes *= length / powers.sum() ** 0.5  # unit variance, after the inverse transform's 1 / length
        self._amplitudes = amplitudes.reshape(-1, *(1 for _ in self._action_shape))
        # Old and new series are independent, and these are cosine and sine: the variance stays what it is
        angles = np.linspace(0, np.pi / 2, -(-length // 10) + 1)[1:].reshape(-1, *(1 for _ in self._action_shape))
        self._fade_out, self._fade_in = np.cos(angles), np.sin(angles)
        self._beginnings = np.empty((n_envs, len(angles), *self._action_shape))

    def _generate(self, i: int, goes_on: bool) -> None:
        """A new series of one environment; a periodic one. Where it goes on, the old one fades into it."""
        shape = (2, len(self._amplitudes), *self._action_shape)
        real, imaginary = self._generators[i].standard_normal(shape)
        series = np.fft.irfft(self._amplitudes * (real + 1j * imaginary), self._length, axis=0)
        beginning = series[: len(self._fade_in)].copy()
        if goes_on:  # the beginning of the old series continues its end, since it is periodic
            series[: len(beginning)] = self._fade_out * self._beginnings[i] + self._fade_in * beginning
        self._beginnings[i] = beginning
        self._series[:, i] = np.roll(series, self._step, axis=0)
        self._ends[i] = self._step + self._length

    def reset(self, env_indices: Iterable[int]) -> None:
        """
        Generate a new series where an episode ended.

        :param env_indices: The environments of these episodes
        """
        for i in env_indices:
            self._generate(i, goes_on=False)
        self._next_end = int(self._ends.min())

    def sample(self) -> np.ndarray:
        """:return: The noise of the next step, ``[n_envs, *action_shape]``; to be read only"""
        if self._step == self._next_end:
            for i in np.flatnonzero(self._ends == self._step).tolist():
                self._generate(i, goes_on=True)
            self._next_end = int(self._ends.min())
        noise: np.ndarray = self._std * self._series[self._step % self._length]
        self._step += 1
        return noise


class PinkNoise(ColoredNoise):
    """
    Pink noise: :class:`ColoredNoise` with ``beta`` = 1, between white noise and a random walk. Eberhard et al. 2023
    found it the best choice over many tasks.

    :param std: Stationary standard deviation in the scaled action space [-1, 1]: one number, or one for each action
    :param horizon: See :class:`ColoredNoise`
    :raises ValueError: Where ``std`` is negative or not finite, or ``horizon`` is less than 2
    """

    def __init__(self, std: float | Sequence[float] = 0.3, horizon: int | None = None) -> None:
        super().__init__(1, std, horizon)

    def __repr__(self) -> str:
        return f"PinkNoise(std={self.std})"
