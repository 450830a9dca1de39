"""
White, Ornstein-Uhlenbeck and coloured noise, in NumPy.

Every process keeps noise of unit variance and multiplies it by ``std`` when it is sampled. ``std`` can therefore be
changed at any time: the next sample has the new strength, and the noise stays stationary.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from sb3_ddpg_ext.noise.base import NoiseProcess

_N_DRAWS = 128  # steps for which random numbers are drawn at once: a generator's calls cost more than its numbers
_DEFAULT_HORIZON = 1000  # steps


class _StepwiseNoise(NoiseProcess):
    """Noise that needs one independent random number of zero mean and unit variance per step and action."""

    def _allocate(self) -> None:
        if self._n_kept == 0:
            self._draws, self._n_used = np.empty((_N_DRAWS, 0, *self._action_shape)), 0
        new = [
            self._draw(generator, (_N_DRAWS, 1, *self._action_shape)) for generator in self._generators[self._n_kept :]
        ]
        self._draws = np.concatenate([self._draws[:, : self._n_kept], *new], axis=1)

    @staticmethod
    def _draw(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return generator.standard_normal(shape)

    def _next_draws(self) -> np.ndarray:
        """:return: The random numbers of the next step, ``[n_envs, *action_shape]``; do not modify them"""
        if self._n_used == _N_DRAWS:
            for i, generator in enumerate(self._generators):
                self._draws[:, i] = self._draw(generator, (_N_DRAWS, *self._action_shape))
            self._n_used = 0
        self._n_used += 1
        draws: np.ndarray = self._draws[self._n_used - 1]
        return draws


class _WhiteNoise(_StepwiseNoise):
    """Independent noise at every step."""

    def __init__(self, std: float | Sequence[float] = 0.1) -> None:
        super().__init__(std)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(std={self.std})"

    def reset(self, env_indices: Iterable[int]) -> None:
        """
        Do nothing: white noise has no state.

        :param env_indices: Indices of environments whose episode has ended
        """

    def sample(self) -> np.ndarray:
        """:return: The noise of the next step, ``[n_envs, *action_shape]``; do not modify it"""
        noise: np.ndarray = self._std * self._next_draws()
        return noise


class GaussianNoise(_WhiteNoise):
    """
    White noise with a normal distribution.

    It is that of the TD3 paper (https://arxiv.org/abs/1802.09477).

    >>> noise = GaussianNoise(std=0.2)
    >>> noise.bind(n_envs=2, action_shape=(3,), seed=0)  # CustomDDPG does this
    >>> noise.sample().shape
    (2, 3)

    :param std: Standard deviation in the scaled action space [-1, 1]: one number, or one for each action
    :raises ValueError: If ``std`` is negative or not finite
    """


class UniformNoise(_WhiteNoise):
    """
    White noise with a uniform distribution.

    It is between ``-std * sqrt(3)`` and ``std * sqrt(3)``.

    >>> noise = UniformNoise(std=0.1)
    >>> noise.bind(n_envs=1, action_shape=(2,), seed=0)  # CustomDDPG does this
    >>> bool(abs(noise.sample()).max() < 0.1 * 3**0.5)
    True

    :param std: Standard deviation in the scaled action space [-1, 1]: one number, or one for each action
    :raises ValueError: If ``std`` is negative or not finite
    """

    @staticmethod
    def _draw(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return generator.uniform(-(3**0.5), 3**0.5, shape)


class OrnsteinUhlenbeckNoise(_StepwiseNoise):
    """
    Ornstein-Uhlenbeck process, with a correlation time.

    It is discretised exactly: ``x' = rho x + sqrt(1 - rho^2) n`` with ``rho = exp(-1 / correlation_time)`` and n
    standard normal; the noise is ``std x``. It starts in its stationary distribution.

    The defaults are the process of the DDPG paper, ``dx = -theta x dt + sigma dW`` with theta = 0.15 and sigma = 0.2:
    its correlation time is ``1 / theta`` steps, its stationary standard deviation ``sigma / sqrt(2 theta)``.

    >>> OrnsteinUhlenbeckNoise.from_sde(sigma=0.3, theta=0.5)
    OrnsteinUhlenbeckNoise(std=0.3, correlation_time=2.0)

    :param std: Stationary standard deviation in the scaled action space [-1, 1]: one number, or one for each action
    :param correlation_time: Steps after which the autocorrelation has fallen to 1/e
    :raises ValueError: If ``std`` is negative or not finite, or ``correlation_time`` is not positive
    """

    def __init__(self, std: float | Sequence[float] = 0.2 / 0.3**0.5, correlation_time: float = 1 / 0.15) -> None:
        super().__init__(std)
        self.correlation_time = correlation_time

    @property
    def correlation_time(self) -> float:
        """
        Steps after which the autocorrelation has fallen to 1/e. The next step is computed in advance, so that a new
        value affects the step after it.

        :raises ValueError: If it is set to a number that is not positive
        """
        return self._correlation_time

    @correlation_time.setter
    def correlation_time(self, correlation_time: float) -> None:
        if not correlation_time > 0:
            raise ValueError(f"correlation_time must be positive, in steps, got {correlation_time}")
        self._correlation_time = correlation_time
        # 0-dimensional arrays, because NumPy multiplies by them faster than by Python's numbers
        self._rho = np.array(np.exp(-1 / correlation_time))
        self._gain = np.array((1 - self._rho**2) ** 0.5)

    @classmethod
    def from_sde(cls, sigma: float | Sequence[float], theta: float = 0.15, dt: float = 1.0) -> "OrnsteinUhlenbeckNoise":
        """
        Build the process ``dx = -theta x dt + sigma dW``, observed every ``dt``.

        The DDPG paper has theta = 0.15, sigma = 0.2 and dt = 1. SB3's ``OrnsteinUhlenbeckActionNoise`` has dt = 0.01 by
        default, and starts at 0.

        :param sigma: Diffusion: one number, or one for each action
        :param theta: Rate of the return to 0
        :param dt: Duration of one step
        :return: The process; its stationary standard deviation is ``sigma / sqrt(2 theta)``, whatever ``dt`` is
        :raises ValueError: If ``sigma`` is negative or not finite, or ``theta`` or ``dt`` is not positive
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
        Draw a new state from the stationary distribution.

        :param env_indices: Indices of environments whose episode has ended
        """
        for i in env_indices:
            self._state[i] = self._generators[i].standard_normal(self._action_shape)

    def sample(self) -> np.ndarray:
        """:return: The noise of the next step, ``[n_envs, *action_shape]``; do not modify it"""
        state = self._state
        self._state = self._rho * state + self._gain * self._next_draws()
        noise: np.ndarray = self._std * state
        return noise


class ColoredNoise(NoiseProcess):
    """
    Noise of any colour: white (``beta`` 0), pink (1), red (2).

    It is Gaussian, with the power spectral density ``f^-beta``: the larger beta, the more slowly it changes.

    From Eberhard et al. 2023, Pink Noise Is All You Need (https://openreview.net/forum?id=hQ9V5QN27eS). A series is
    generated from random Fourier coefficients, as proposed by Timmer and Koenig 1995. Its lowest frequency has one
    period in the horizon; its mean gets as much power as that frequency.

    >>> noise = ColoredNoise(beta=0.5, std=0.2)
    >>> noise.bind(n_envs=1, action_shape=(2,), seed=0)  # CustomDDPG does this
    >>> noise.sample().shape
    (1, 2)

    :param beta: Exponent of the spectrum, 0 or more
    :param std: Stationary standard deviation in the scaled action space [-1, 1]: one number, or one for each action
    :param horizon: Length of a series in steps, best the length of an episode. If it is None, ``CustomDDPG`` takes the
        environment's time limit, or 1000. In a longer episode the old series is cross-faded into a new one.
    :raises ValueError: If ``std`` or ``beta`` is negative or not finite, or ``horizon`` is less than 2
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
        # A ring buffer of unit variance. Environments may start their series at different steps, but the noise of all
        # environments at one step is always one row
        self._series = np.empty((length, n_envs, *self._action_shape))
        self._step, self._ends = 0, np.zeros(n_envs, dtype=np.intp)  # the steps at which each series is used up

        amplitudes = np.maximum(np.arange(length // 2 + 1), 1) ** (-self.beta / 2)
        # Each coefficient stands for a conjugate pair, except for the mean and, for an even length, the highest
        # frequency. These two are real; sqrt(2) gives them the power of a pair
        powers = 4 * amplitudes**2
        real = [0, -1] if length % 2 == 0 else [0]
        amplitudes[real] *= 2**0.5
        powers[real] = amplitudes[real] ** 2
        amplitudes *= length / powers.sum() ** 0.5  # unit variance, after the inverse transform's 1 / length
        self._amplitudes = amplitudes.reshape(-1, *(1 for _ in self._action_shape))
        # The cross-fade keeps the variance: the series are independent, and cos^2 + sin^2 = 1
        angles = np.linspace(0, np.pi / 2, -(-length // 10) + 1)[1:].reshape(-1, *(1 for _ in self._action_shape))
        self._fade_out, self._fade_in = np.cos(angles), np.sin(angles)
        self._beginnings = np.empty((n_envs, len(angles), *self._action_shape))

    def _generate(self, i: int, cross_fade: bool) -> None:
        """
        Generate a new, periodic series for one environment.

        :param i: Index of the environment
        :param cross_fade: Whether the old series fades into the new one, in the middle of an episode
        """
        shape = (2, len(self._amplitudes), *self._action_shape)
        real, imaginary = self._generators[i].standard_normal(shape)
        series = np.fft.irfft(self._amplitudes * (real + 1j * imaginary), self._length, axis=0)
        beginning = series[: len(self._fade_in)].copy()
        if cross_fade:  # the old series is periodic, so its end is continued by its beginning
            series[: len(beginning)] = self._fade_out * self._beginnings[i] + self._fade_in * beginning
        self._beginnings[i] = beginning
        self._series[:, i] = np.roll(series, self._step, axis=0)
        self._ends[i] = self._step + self._length

    def reset(self, env_indices: Iterable[int]) -> None:
        """
        Generate a new series.

        :param env_indices: Indices of environments whose episode has ended
        """
        for i in env_indices:
            self._generate(i, cross_fade=False)
        self._next_end = int(self._ends.min())

    def sample(self) -> np.ndarray:
        """:return: The noise of the next step, ``[n_envs, *action_shape]``; do not modify it"""
        if self._step == self._next_end:
            for i in np.flatnonzero(self._ends == self._step).tolist():
                self._generate(i, cross_fade=True)
            self._next_end = int(self._ends.min())
        noise: np.ndarray = self._std * self._series[self._step % self._length]
        self._step += 1
        return noise


class PinkNoise(ColoredNoise):
    """
    Pink noise, between white noise and a random walk.

    It is :class:`ColoredNoise` with ``beta=1``. Eberhard et al. 2023 found it the best choice over many tasks.

    >>> PinkNoise(std=[0.1, 0.4])  # two actions
    PinkNoise(std=[0.1 0.4])

    :param std: Stationary standard deviation in the scaled action space [-1, 1]: one number, or one for each action
    :param horizon: See :class:`ColoredNoise`
    :raises ValueError: If ``std`` is negative or not finite, or ``horizon`` is less than 2
    """

    def __init__(self, std: float | Sequence[float] = 0.3, horizon: int | None = None) -> None:
        super().__init__(1, std, horizon)

    def __repr__(self) -> str:
        return f"PinkNoise(std={self.std})"
