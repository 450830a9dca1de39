"""
Exploration noise: processes that know numpy only, and the adapter that makes one of them SB3's ``ActionNoise``.

A process is specified by its *stationary* standard deviation in the scaled action space [-1, 1], so that two noises of
equal ``std`` are equally strong whatever their correlation, from the first step of an episode to the last.
It draws from one generator for each environment, all spawned from one seed; the global generator is never touched.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches

import numpy as np
from stable_baselines3.common.noise import ActionNoise, VectorizedActionNoise

_DRAWS = 128  # steps for which normal numbers are drawn ahead: a call of a generator costs more than its numbers


class NoiseProcess(ABC):
    """
    Zero-mean stationary noise for a number of environments.

    :param std: Stationary standard deviation in the scaled action space [-1, 1]: one number, or one for each action
    :raises ValueError: Where ``std`` is negative or not finite
    """

    def __init__(self, std: float | Sequence[float]) -> None:
        self.std = np.asarray(std, dtype=np.float64)
        if not np.all(np.isfinite(self.std) & (self.std >= 0)):
            raise ValueError(f"std must be finite and not negative, got {std}")
        self._generators: list[np.random.Generator] = []
        self._seed: int | None = None
        self._action_shape: tuple[int, ...] = ()

    def bind(self, n_envs: int, action_shape: tuple[int, ...], seed: int | None) -> None:
        """
        Fix shapes and generators. Binding again with the same seed keeps the generators there are and only adds or
        drops some, so that a loaded model goes on with its streams even with another number of environments.

        :param n_envs: Number of environments
        :param action_shape: Shape of one action
        :param seed: Where the generators are spawned from; None draws one from the operating system
        :raises ValueError: Where ``std`` has another shape than an action
        """
        if self.std.ndim and self.std.shape != action_shape:
            raise ValueError(f"std has the shape {self.std.shape}, but actions have the shape {action_shape}")
        if not self._generators or seed != self._seed:
            self._seed_sequence, self._seed, self._generators = np.random.SeedSequence(seed), seed, []
            self._draws, self._n_used = np.empty((_DRAWS, 0, *action_shape)), 0
        elif (n_envs, action_shape) == (len(self._generators), self._action_shape):
            return
        new = [
            np.random.default_rng(child) for child in self._seed_sequence.spawn(max(n_envs - len(self._generators), 0))
        ]
        draws = [generator.standard_normal((_DRAWS, 1, *action_shape)) for generator in new]
        self._generators = self._generators[:n_envs] + new
        self._draws = np.concatenate([self._draws[:, :n_envs], *draws], axis=1)
        self._action_shape = action_shape
        self._noise = np.zeros((n_envs, *action_shape))
        self.reset(range(n_envs))

    def _white(self) -> np.ndarray:
        """:return: Standard normal draws, ``[n_envs, *action_shape]``; to be read only"""
        if self._n_used == _DRAWS:
            for i, generator in enumerate(self._generators):
                self._draws[:, i] = generator.standard_normal((_DRAWS, *self._action_shape))
            self._n_used = 0
        self._n_used += 1
        draws: np.ndarray = self._draws[self._n_used - 1]
        return draws

    def reset(self, env_indices: Iterable[int]) -> None:  # noqa: B027 (processes without a memory have nothing to do)
        """
        Begin anew where an episode ended.

        :param env_indices: The environments of these episodes
        """

    @abstractmethod
    def sample(self) -> np.ndarray:
        """:return: The noise of the next step, ``[n_envs, *action_shape]``"""


class GaussianNoise(NoiseProcess):
    """
    White noise: independent normal draws at every step (the choice of the TD3 paper).

    :param std: Standard deviation in the scaled action space [-1, 1]: one number, or one for each action
    :raises ValueError: Where ``std`` is negative or not finite
    """

    def __init__(self, std: float | Sequence[float] = 0.1) -> None:
        super().__init__(std)

    def __repr__(self) -> str:
        return f"GaussianNoise(std={self.std})"

    def sample(self) -> np.ndarray:
        """:return: The noise of the next step, ``[n_envs, *action_shape]``"""
        noise: np.ndarray = self.std * self._white()
        return noise


class OrnsteinUhlenbeckNoise(NoiseProcess):
    """
    Ornstein-Uhlenbeck process, discretised exactly: ``x' = rho x + std sqrt(1 - rho^2) n`` with
    ``rho = exp(-1 / correlation_time)`` and n standard normal. It starts from its stationary distribution.

    The defaults are the process of the DDPG paper, ``dx = -theta x dt + sigma dW`` with theta = 0.15 and sigma = 0.2:
    its correlation time is ``1 / theta`` steps, its stationary standard deviation ``sigma / sqrt(2 theta)``.

    :param std: Stationary standard deviation in the scaled action space [-1, 1]: one number, or one for each action
    :param correlation_time: Steps after which the autocorrelation has fallen to 1/e
    :raises ValueError: Where ``std`` is negative or not finite, or ``correlation_time`` is not positive
    """

    def __init__(self, std: float | Sequence[float] = 0.2 / 0.3**0.5, correlation_time: float = 1 / 0.15) -> None:
        super().__init__(std)
        if not correlation_time > 0:
            raise ValueError(f"correlation_time must be positive, in steps, got {correlation_time}")
        self.correlation_time = correlation_time
        self._rho = float(np.exp(-1 / correlation_time))

    def __repr__(self) -> str:
        return f"OrnsteinUhlenbeckNoise(std={self.std}, correlation_time={self.correlation_time})"

    def reset(self, env_indices: Iterable[int]) -> None:
        """
        Draw the state from the stationary distribution where an episode ended.

        :param env_indices: The environments of these episodes
        """
        for i in env_indices:
            self._noise[i] = self.std * self._generators[i].standard_normal(self._action_shape)

    def sample(self) -> np.ndarray:
        """:return: The noise of the next step, ``[n_envs, *action_shape]``"""
        noise = self._noise
        self._noise = self._rho * noise + (1 - self._rho**2) ** 0.5 * self.std * self._white()
        return noise


NOISES: Mapping[str, Callable[..., NoiseProcess]] = {"normal": GaussianNoise, "ou": OrnsteinUhlenbeckNoise}
"""The names that ``CustomDDPG(action_noise=...)`` and the YAML key ``noise_type`` understand."""


class ProcessActionNoise(VectorizedActionNoise):
    """
    SB3's view of a :class:`NoiseProcess`. SB3 takes a ``VectorizedActionNoise`` as it is, for any number of
    environments, and resets it at the end of an episode.

    :param process: copied, so that one specification can serve several models
    """

    def __init__(self, process: NoiseProcess) -> None:
        self.process = copy.deepcopy(process)

    def __repr__(self) -> str:
        return repr(self.process)

    def __call__(self) -> np.ndarray:
        """:return: The noise of this step, ``[n_envs, *action_shape]``, float32"""
        return self.process.sample().astype(np.float32)

    def bind(self, n_envs: int, action_shape: tuple[int, ...], seed: int | None) -> None:
        """See :meth:`NoiseProcess.bind`."""
        self.n_envs = n_envs
        self.process.bind(n_envs, action_shape, seed)

    def reset(self, indices: Iterable[int] | None = None) -> None:
        """
        Begin anew where an episode ended.

        :param indices: The environments of these episodes, None for all
        """
        self.process.reset(range(self.n_envs) if indices is None else indices)


def setup_action_noise(
    action_noise: ActionNoise | NoiseProcess | str | None,
    n_envs: int,
    action_shape: tuple[int, ...],
    seed: int | None,
) -> ActionNoise | None:
    """
    What ``CustomDDPG(action_noise=...)`` was given -> what SB3's collection loop calls.

    :param action_noise: A name of :data:`NOISES`, a process, any SB3 ``ActionNoise`` (used as it is) or None
    :param n_envs: Number of environments
    :param action_shape: Shape of one action
    :param seed: Where the generators of our own processes are spawned from
    :return: Noise that is ready to be called, or None
    :raises ValueError: For an unknown name
    :raises TypeError: For anything else
    """
    if isinstance(action_noise, str):
        if action_noise not in NOISES:
            nearest = get_close_matches(action_noise, NOISES, n=1)
            hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
            raise ValueError(f"Unknown action_noise {action_noise!r}, expected one of {sorted(NOISES)}{hint}")
        action_noise = NOISES[action_noise]()
    if isinstance(action_noise, NoiseProcess):
        action_noise = ProcessActionNoise(action_noise)
    if isinstance(action_noise, ProcessActionNoise):
        action_noise.bind(n_envs, action_shape, seed)
    elif isinstance(action_noise, VectorizedActionNoise) and action_noise.n_envs != n_envs:
        # Saved with another number of environments (SB3 crashes here); SB3's `_setup_learn` vectorises it again
        action_noise = action_noise.base_noise
    elif not (action_noise is None or isinstance(action_noise, ActionNoise)):
        raise TypeError(f"action_noise must be an ActionNoise, a NoiseProcess, a name or None, got {action_noise!r}")
    return action_noise
