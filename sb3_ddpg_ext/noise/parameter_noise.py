"""Noise in parameter space: how strongly the actor's weights are perturbed, and from which seeds, in NumPy."""

from collections.abc import Iterable

import numpy as np

from sb3_ddpg_ext.noise.base import NoiseProcess


class ParameterNoise(NoiseProcess):
    """
    Adaptive noise on the actor's weights in place of its actions.

    From Plappert et al. 2018, Parameter Space Noise for Exploration (https://arxiv.org/abs/1706.01905). At the start of
    an episode a direction e is drawn from N(0, I) for each environment, and the episode's actions are those of an actor
    with the weights ``theta + sigma e``. The authors' code keeps these weights for an episode; here the direction is
    kept, and theta and sigma are those of each step, so that what the actor learns counts at once.

    The strength is specified in the space of actions, as for other noise. Every ``adaptation_interval`` steps, the
    distance ``d = sqrt(mean((mu_perturbed(s) - mu(s))^2))`` between the actions of a perturbed and the unperturbed
    actor is measured, over a minibatch of stored observations and all actions. Where d is at most ``std``, sigma is
    multiplied by ``adaptation_coefficient``, else divided by it.

    Sigma starts as ``std``, as in the authors' code. It is kept as a multiple of ``std``, so that another ``std``, such
    as a schedule's, counts from the next step on.

    The weights of LayerNorm are not perturbed, nor are frozen ones. The paper has LayerNorm between the actor's layers,
    so that one sigma suits all of them; other actors work as well. Only :class:`CustomDDPG` can use this noise.

    >>> noise = ParameterNoise(std=0.2)
    >>> noise.adapt(distance=0.3, action_std=0.2)  # too far: CustomDDPG measures this
    >>> print(f"{noise.parameter_std(action_std=0.2):.3f}")
    0.198

    :param std: The distance that sigma is adapted to, in the scaled action space [-1, 1]: one number
    :param adaptation_coefficient: The factor by which sigma changes, above 1
    :param adaptation_interval: Steps between two adaptations; a step of all environments counts once
    :raises ValueError: If ``std`` is negative, not finite or more than one number, or another argument is too small
    """

    def __init__(self, std: float = 0.2, adaptation_coefficient: float = 1.01, adaptation_interval: int = 10) -> None:
        super().__init__(std)
        if not 1 < adaptation_coefficient < float("inf"):
            raise ValueError(f"adaptation_coefficient must be above 1, such as 1.01, got {adaptation_coefficient}")
        if not (isinstance(adaptation_interval, int) and adaptation_interval >= 1):
            raise ValueError(f"adaptation_interval must be a whole number of steps above 0, got {adaptation_interval}")
        self.adaptation_coefficient = adaptation_coefficient
        self.adaptation_interval = adaptation_interval
        self._ratio = 1.0  # of sigma to std
        self._n_steps = 0

    def __repr__(self) -> str:
        return f"ParameterNoise(std={self.std})"

    def _check_std(self, std: np.ndarray) -> None:
        super()._check_std(std)
        if std.ndim:
            raise ValueError(f"std of parameter noise is one number, for all actions together; got {std.tolist()}")

    def _allocate(self) -> None:
        # A direction has as many numbers as the actor has weights. Its seed takes less space, and suits any actor
        self._seeds = np.zeros(len(self._generators), dtype=np.uint64)

    def reset(self, env_indices: Iterable[int]) -> None:
        """
        Draw new directions.

        :param env_indices: Indices of environments whose episode has ended
        """
        for i in env_indices:
            self._seeds[i] = self._generators[i].integers(2**63)

    @property
    def seeds(self) -> list[int]:
        """For each environment the seed from which the direction of its episode is drawn"""
        seeds: list[int] = self._seeds.tolist()
        return seeds

    def count_step(self) -> np.random.Generator | None:
        """
        Count a step.

        :return: What the random numbers of an adaptation are to be drawn from, if it is time for one; else None
        """
        is_due = self._n_steps % self.adaptation_interval == 0
        self._n_steps += 1
        return np.random.default_rng(self._generators[0].integers(2**63)) if is_due else None

    def parameter_std(self, action_std: float) -> float:
        """
        :param action_std: ``std``, multiplied by the current value of a schedule if there is one
        :return: Sigma, the standard deviation of the perturbation of a weight
        """
        return self._ratio * action_std

    def adapt(self, distance: float, action_std: float) -> None:
        """
        Adapt sigma.

        :param distance: Between the actions of the unperturbed actor and of one perturbed with the present sigma
        :param action_std: As for :meth:`parameter_std`. If it is 0, nothing happens
        """
        if action_std > 0:
            self._ratio *= self.adaptation_coefficient if distance <= action_std else 1 / self.adaptation_coefficient

    def sample(self) -> np.ndarray:
        """:raises TypeError: Always: there is nothing to be added to actions"""
        raise TypeError(
            "parameter noise cannot be added to actions: it perturbs the weights of CustomDDPG's actor, and serves no "
            "other algorithm"
        )
