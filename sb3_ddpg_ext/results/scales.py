"""Scales of the usual environments: returns for normalisation, and thresholds."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_ZOO = "TD3, RL Zoo's benchmark.md (one run)"
_PAPER = "TD3, table 1 of the TD3 paper (mean over 10 runs of the best evaluation)"
REGISTERED = "Gymnasium's reward_threshold"
"""The source of a threshold with which an environment is registered."""


@dataclass(frozen=True)
class Scale:
    """
    The scale of an environment: a normalised score is 0 for random actions and 1 for the reference.

    :param random: Mean return of uniformly random actions; None if it is not known
    :param reference: Published mean return of TD3, or another one that the user gives; None likewise
    :param source: Where the reference is published, with the environment's version if it is another one
    :param threshold: Return at which the environment counts as solved; None if there is none
    :param threshold_source: Where the threshold comes from
    """

    random: float | None = None
    reference: float | None = None
    source: str = ""
    threshold: float | None = None
    threshold_source: str = ""

    @property
    def can_normalise(self) -> bool:
        """Whether both ends of the scale are known"""
        return self.random is not None and self.reference is not None

    def normalise(self, scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """
        :param scores: Returns
        :return: Normalised scores, of the same shape
        """
        assert self.random is not None
        assert self.reference is not None
        return (scores - self.random) / (self.reference - self.random)


# Random actions: measured with Gymnasium 1.4.0 and MuJoCo 4.0.0, 300 episodes, actions sampled from the action space
# with seed 0, episode k reset with seed 3,000,000 + k. Standard errors: Pendulum 16, LunarLander 8, Ant 6,
# HalfCheetah 5, Hopper 1.3, InvertedDoublePendulum 1.0, BipedalWalker 0.8, Walker2d 0.4, the others at most 0.2.
# References: https://github.com/DLR-RM/rl-baselines3-zoo/blob/master/benchmark.md (20k steps for Pendulum, 300k for
# MountainCarContinuous and LunarLander, 1M for BipedalWalker), https://arxiv.org/abs/1802.09477 (1M steps). The rewards
# of older versions of an environment differ from v5 in some details, so 1 is a point of the scale and not a target.
SCALES: Mapping[str, Scale] = {
    "Pendulum-v1": Scale(-1211.8, -151.9, _ZOO, -200, "chosen here: Gymnasium has none"),
    "MountainCarContinuous-v0": Scale(-33.3, 93.5, _ZOO, 90, REGISTERED),
    "LunarLanderContinuous-v3": Scale(-209.6, 207.5, f"{_ZOO}, v2", 200, REGISTERED),
    "BipedalWalker-v3": Scale(-100.1, 306.0, _ZOO, 300, REGISTERED),
    "HalfCheetah-v5": Scale(-289.9, 9637.0, f"{_PAPER}, v1", 4800, REGISTERED),
    "Hopper-v5": Scale(19.5, 3564.1, f"{_PAPER}, v1", 3800, REGISTERED),
    "Walker2d-v5": Scale(2.3, 4682.8, f"{_PAPER}, v1"),
    "Ant-v5": Scale(-58.1, 4372.4, f"{_PAPER}, v1", 6000, REGISTERED),
    "Reacher-v5": Scale(-42.7, -3.6, f"{_PAPER}, v1", -3.75, REGISTERED),
    "InvertedPendulum-v5": Scale(5.2, 1000.0, f"{_PAPER}, v1", 950, REGISTERED),
    "InvertedDoublePendulum-v5": Scale(48.2, 9337.5, f"{_PAPER}, v1", 9100, REGISTERED),
}


def scale_of(env: str, scales: Mapping[str, Scale] = SCALES) -> Scale:
    """
    :param env: Id of an environment, with or without the module to import first: ``module:Env-v0``
    :param scales: Scales by the ids of their environments
    :return: Its scale; one without anything if there is none
    """
    return scales.get(env.split(":")[-1], Scale())
