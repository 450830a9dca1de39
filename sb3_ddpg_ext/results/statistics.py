"""
Statistics of few runs, after Agarwal et al. 2021, "Deep RL at the Edge of the Statistical Precipice"
(https://arxiv.org/abs/2108.13264). Pure functions of arrays.

Scores are given as *strata*: one array ``[..., runs]`` for each environment. Functions reduce the last axis and keep
the others, which are resamples, points of a curve or thresholds.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import integrate, stats

Array = npt.NDArray[np.float64]
Strata = Sequence[Array]

RESAMPLES = 10_000
EXACT = 50
"""
p-values are exact if one of the algorithms has no more runs than this. For 1,000 runs of each, SciPy needs a minute for
an exact p-value and returns NaN.
"""
MAX_SCORES = 2**20
"""Resampled scores that a statistic is given at once, which limits the memory that it needs."""


@dataclass(frozen=True)
class Estimate:
    """
    A number and its 95% interval.

    :param value: The point estimate
    :param low: Lower end; NaN where the interval is not defined
    :param high: Upper end; NaN where the interval is not defined
    """

    value: float
    low: float = math.nan
    high: float = math.nan


def iqm(strata: Strata) -> Array:
    """
    Interquartile mean: the mean of the middle half of all runs of all environments. Of n runs, floor(n / 4) are left
    out at either end, as in ``scipy.stats.trim_mean(scores, 0.25)`` and in the paper's own code. If environments have
    different numbers of runs, runs are weighted so that each environment has the same weight.

    :param strata: Scores, one array ``[..., runs]`` for each environment
    :return: ``[...]``
    """
    runs = [s.shape[-1] for s in strata]
    scores = np.concatenate(strata, axis=-1)
    if len(set(runs)) > 1:
        return _weighted_iqm(scores, runs)
    n, cut = scores.shape[-1], scores.shape[-1] // 4
    scores.sort(axis=-1)
    scores[..., :cut] = scores[..., n - cut :] = 0  # trimmed
    result: Array = scores.sum(axis=-1) / (n - 2 * cut)
    return result


def _weighted_iqm(scores: Array, runs: Sequence[int]) -> Array:
    common = math.lcm(*runs)
    total: float = common * len(runs)
    if total < 2**53:
        weights = np.concatenate([np.full(n, common // n) for n in runs])
        cut = total // 4
    else:  # with many different numbers of runs, the common multiple is too large for exact arithmetic
        weights = np.concatenate([np.full(n, 1 / n) for n in runs])
        total, cut = len(runs), len(runs) / 4
    order = np.argsort(scores, axis=-1)
    # A run of weight w counts as w equal runs. `kept` is how many of these lie between the two cuts
    ends = np.cumsum(weights[order], axis=-1)
    kept = np.clip(ends, cut, total - cut) - np.clip(ends - weights[order], cut, total - cut)
    # Trimmed scores are replaced, since zero times an infinite score would be NaN
    middle = np.where(kept > 0, np.take_along_axis(scores, order, axis=-1), 0)
    result: Array = (kept * middle).sum(axis=-1) / (total - 2 * cut)
    return result


def mean(strata: Strata) -> Array:
    """
    Mean over environments of the mean over runs.

    :param strata: Scores, one array ``[..., runs]`` for each environment
    :return: ``[...]``
    """
    result: Array = np.mean([s.mean(axis=-1) for s in strata], axis=0)
    return result


def median(strata: Strata) -> Array:
    """
    For one environment, the median of its runs; for several, the median of their means, as in the paper.

    :param strata: Scores, one array ``[..., runs]`` for each environment
    :return: ``[...]``
    """
    if len(strata) == 1:
        return np.asarray(np.median(strata[0], axis=-1))
    return np.asarray(np.median([s.mean(axis=-1) for s in strata], axis=0))


def optimality_gap(strata: Strata, gamma: float = 1.0) -> Array:
    """
    How far scores are below ``gamma`` on average; scores above ``gamma`` count as ``gamma``. Lower is better.

    :param strata: Normalised scores, one array ``[..., runs]`` for each environment
    :param gamma: The score to reach
    :return: ``[...]``
    """
    return gamma - mean([np.minimum(s, gamma) for s in strata])


METRICS: dict[str, Callable[[Strata], Array]] = {
    "IQM": iqm,
    "mean": mean,
    "median": median,
    "optimality gap": optimality_gap,
}
"""The aggregates of the report. The optimality gap is for normalised scores only."""


def probability_of_improvement(strata: Strata) -> Array:
    """
    P(X > Y): the probability that a run of X scores higher than a run of Y, with ties counted half, averaged over
    environments (section 4.3 of the paper).

    :param strata: Scores of X, one array ``[..., runs]`` for each environment, then those of Y in the same order
    :return: ``[...]``, from 0 to 1
    """
    result: Array = np.mean([_above(x, y) for x, y in _pairs(strata)], axis=0)
    return result


def _above(x: Array, y: Array) -> Array:
    """The fraction of pairs with X above Y, computed from ranks: 1,000 runs of each would be a million pairs."""
    n, m = x.shape[-1], y.shape[-1]
    ranks = stats.rankdata(np.concatenate([x, y], axis=-1), axis=-1)[..., :n]
    result: Array = (ranks.sum(axis=-1) - n * (n + 1) / 2) / (n * m)
    return result


def ratio(strata: Strata) -> Array:
    """
    The ratio of X's IQM to Y's, as the geometric mean over environments.

    :param strata: Positive values of X, one array ``[..., runs]`` for each environment, then those of Y
    :return: ``[...]``
    """
    result: Array = np.exp(np.mean([np.log(iqm([x]) / iqm([y])) for x, y in _pairs(strata)], axis=0))
    return result


def _pairs(strata: Strata) -> Iterator[tuple[Array, Array]]:
    half = len(strata) // 2
    return zip(strata[:half], strata[half:], strict=True)


def performance_profile(strata: Strata, taus: Array) -> Array:
    """
    The fraction of runs with a score above each tau, averaged over environments (the score distribution of section 4.2
    of the paper).

    :param strata: Normalised scores, one array ``[..., runs]`` for each environment
    :param taus: The values of tau, ``[taus]``, ascending
    :return: ``[taus, ...]``, from 1 to 0
    """
    result: Array = np.mean([_fractions_above(s, taus) for s in strata], axis=0)
    return result


def _fractions_above(scores: Array, taus: Array) -> Array:
    """Those of one environment. Comparing each score with each tau would take a hundred times the memory."""
    rows, size = scores.size // scores.shape[-1], len(taus) + 1
    below = np.searchsorted(taus, scores.reshape(rows, -1))  # for each score, how many taus are below it
    counts = np.bincount((below + size * np.arange(rows)[:, None]).ravel(), minlength=rows * size)
    above = counts.reshape(rows, size)[:, :0:-1].cumsum(axis=-1)[:, ::-1]
    fractions: Array = (above / scores.shape[-1]).T.reshape(-1, *scores.shape[:-1])
    return fractions


def bootstrap(
    statistic: Callable[[list[Array]], Array], strata: Strata, rng: np.random.Generator, resamples: int = RESAMPLES
) -> tuple[Array, Array]:
    """
    95% percentile interval by the stratified bootstrap: runs are resampled with replacement within each environment.
    With few runs it is too narrow: for the mean of 5 normally distributed scores it contains the true mean in 83 to 84
    of 100 cases, for 10 scores in about 90.

    :param statistic: From strata ``[..., runs]`` to ``[...]``
    :param strata: One array ``[..., runs]`` for each environment (and each algorithm, if two are compared)
    :param rng: Random generator
    :param resamples: Number of resamples
    :return: Lower and upper end, ``[...]``; NaN if any array has a single run
    """
    if min(s.shape[-1] for s in strata) < 2:
        undefined = np.full_like(statistic(list(strata)), np.nan)
        return undefined, undefined
    draws = [rng.integers(s.shape[-1], size=(resamples, s.shape[-1])) for s in strata]
    size = max(1, MAX_SCORES // sum(s.size for s in strata))
    values = [
        statistic([np.take(s, d[start : start + size], axis=-1) for s, d in zip(strata, draws, strict=True)])
        for start in range(0, resamples, size)
    ]
    # Without interpolation, which would give NaN between infinite values: times of runs that missed a threshold
    low, high = np.quantile(np.concatenate(values, axis=-1), [0.025, 0.975], axis=-1, method="inverted_cdf")
    return low, high


def estimate(statistic: Callable[[list[Array]], Array], strata: Strata, rng: np.random.Generator) -> Estimate:
    """
    A statistic with its interval.

    :param statistic: From strata ``[..., runs]`` to ``[...]``
    :param strata: One array ``[runs]`` for each environment (and each algorithm, if two are compared)
    :param rng: Random generator of the bootstrap
    :return: The estimate
    """
    low, high = bootstrap(statistic, strata, rng)
    return Estimate(float(statistic(list(strata))), float(low), float(high))


def mann_whitney(x: Array, y: Array, rng: np.random.Generator) -> float:
    """
    Two-sided Mann-Whitney U test of the hypothesis that X and Y have the same distribution.

    The p-value is exact if there are no ties. With ties it is that of a permutation test of U, with all permutations
    or, if there are more than 100,000, with that many random ones. If X and Y both have more than :data:`EXACT` runs,
    it is that of the normal approximation with correction for ties. If one of them has a single run, it is 1.

    :param x: Scores of X, ``[runs]``
    :param y: Scores of Y, ``[runs]``
    :param rng: Random generator of the permutations
    :return: The p-value
    """
    if min(len(x), len(y)) < 2:
        return 1.0
    method: Any = "exact"
    if min(len(x), len(y)) > EXACT:
        method = "asymptotic"
    elif len(np.unique(np.concatenate([x, y]))) < len(x) + len(y):
        method = stats.PermutationMethod(n_resamples=100_000, batch=1_000, rng=rng)
    return float(stats.mannwhitneyu(x, y, alternative="two-sided", method=method).pvalue)


def smallest_p(n: int, m: int) -> float:
    """
    The smallest p-value that :func:`mann_whitney` can return: that of data in which all of X are above all of Y.

    :param n: Runs of X
    :param m: Runs of Y
    :return: ``2 / binomial(n + m, n)``: 0.0079 for 5 and 5; 1 where there is one run
    """
    if min(n, m) > EXACT:
        x, y = np.arange(n, dtype=np.float64), np.arange(n, n + m, dtype=np.float64)
        return mann_whitney(x, y, np.random.default_rng(0))  # the generator is not used
    return 2 / math.comb(n + m, n) if min(n, m) > 1 else 1.0


def holm(p: Sequence[float]) -> list[float]:
    """
    Adjust p-values for the number of tests (Holm 1979, "A simple sequentially rejective multiple test procedure").

    :param p: The p-values of one family of tests
    :return: Adjusted p-values, in the same order
    """
    adjusted = [0.0] * len(p)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        largest = max(largest, min(1.0, (len(p) - rank) * p[index]))
        adjusted[index] = largest
    return adjusted


def area(x: Array, y: Array, low: float, high: float) -> float:
    """
    The area under a curve (trapezoidal rule), divided by its width: the mean of the curve. Before its first point the
    curve has the value of that point, and likewise after its last.

    :param x: Positions of its points, ``[points]``, ascending
    :param y: Values of its points, ``[points]``
    :param low: Left end of the area
    :param high: Right end, greater than ``low``
    :return: The mean
    """
    grid = np.concatenate([[low], x[(x > low) & (x < high)], [high]])
    return float(integrate.trapezoid(np.interp(grid, x, y), grid) / (high - low))


def first_at(x: Array, y: Array, threshold: float) -> float:
    """
    The first point of a curve that reaches a threshold.

    :param x: Positions of its points, ``[points]``, ascending
    :param y: Values of its points, ``[points]``
    :param threshold: The value to reach
    :return: The first x with ``y >= threshold``; infinity if there is none
    """
    reached = np.flatnonzero(y >= threshold)
    return float(x[reached[0]]) if reached.size else math.inf
