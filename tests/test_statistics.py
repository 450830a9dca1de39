"""Statistics against results by hand, those of the paper's own code (rliable) and properties of any numbers."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from sb3_ddpg_ext.results import statistics
from sb3_ddpg_ext.results.statistics import METRICS, Estimate

SCORES = st.floats(-1e6, 1e6)
RUNS = st.integers(1, 12).flatmap(lambda n: arrays(np.float64, n, elements=SCORES))
STRATA = st.lists(RUNS, min_size=1, max_size=4)
# Few different scores, so that there are ties; resamples are on the first axis
RESAMPLED = arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(1, 9)), elements=st.integers(-2, 2).map(float))

# The matrices of rliable's tests (tests/rliable/metrics_test.py), an environment in each array
RLIABLE_X = [np.array([1.0, 2, 1, 2]), np.array([2.0, 2, 1, 1])]
RLIABLE_Y = [np.array([1.0, 2, 3]), np.array([1.0, 2, 3])]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# --- Aggregates ---


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([7], 7),
        ([1, 3], 2),
        ([1, 2, 6], 3),  # nothing to trim
        ([1, 2, 4, 100], 3),
        ([100, -100, 1, 2, 3], 2),  # a quarter of 5 is 1
        ([0, 1, 2, 3, 4, 50], 2.5),
        ([0, 1, 2, 3, 4, 5, 900], 3),  # of 7 as well
        ([-900, -800, 1, 2, 3, 4, 800, 900], 2.5),
        ([5, 5, 5, 5, 5], 5),
        ([math.inf, 1, 2, 3], 2.5),  # one of four runs did not reach the threshold
        ([math.inf, math.inf, 1, 2], math.inf),
    ],
)
def test_iqm_by_hand(scores: list[float], expected: float) -> None:
    assert statistics.iqm([np.array(scores, dtype=float)]) == pytest.approx(expected)


@given(RUNS)
def test_iqm_is_scipys_trimmed_mean(scores: np.ndarray) -> None:
    assert statistics.iqm([scores]) == pytest.approx(stats.trim_mean(scores, 0.25), rel=1e-9, abs=1e-6)


def test_iqm_weighs_environments_alike() -> None:
    few, many = np.zeros(2), np.ones(4)
    assert statistics.iqm([few, many]) == 0.5
    assert stats.trim_mean(np.concatenate([few, many]), 0.25) == 0.75  # what pooling the runs would say


@given(STRATA)
def test_iqm_of_unequal_numbers_is_that_of_repeated_runs(strata: list[np.ndarray]) -> None:
    common = math.lcm(*map(len, strata))
    repeated = np.concatenate([np.repeat(s, common // len(s)) for s in strata])
    assert statistics.iqm(strata) == pytest.approx(stats.trim_mean(repeated, 0.25), rel=1e-9, abs=1e-6)


def test_iqm_of_numbers_without_a_common_multiple_that_fits() -> None:
    squares = [np.linspace(0, 2, n) ** 2 for n in (53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101)]
    for few_or_all in (squares[:3], squares):
        assert statistics.iqm(few_or_all) == pytest.approx(13 / 12, abs=0.01)  # the mean of x^2 from 1/2 to 3/2


@pytest.mark.parametrize("metric", ["IQM", "mean", "median"])
def test_the_numbers_of_rliable(metric: str) -> None:
    assert METRICS[metric](RLIABLE_X) == 1.5
    assert METRICS[metric](RLIABLE_Y) == 2


def test_mean_and_median_by_hand() -> None:
    assert statistics.mean([np.array([0.0, 2]), np.array([4.0, 4, 4, 4, 9])]) == 3  # of 1 and 5
    assert statistics.median([np.array([1.0, 2, 100])]) == 2
    assert statistics.median([np.array([1.0, 2, 3, 100])]) == 2.5
    assert statistics.median([np.array([1.0, 2, 6]), np.array([0.0]), np.array([50.0])]) == 3  # of 3, 0 and 50


def test_optimality_gap_by_hand() -> None:
    assert statistics.optimality_gap([np.array([0.5, 1.5, 1.0])]) == pytest.approx(1 / 6)
    assert statistics.optimality_gap([np.array([2.0, 3.0]), np.array([-1.0])]) == 1  # of 0 and 2
    assert statistics.optimality_gap([np.array([0.5, 1.5])], gamma=2) == 1


@pytest.mark.parametrize("metric", ["IQM", "mean", "median"])
@given(strata=STRATA, shift=st.floats(-100, 100))
def test_averages_lie_between_the_scores_and_move_with_them(
    metric: str, strata: list[np.ndarray], shift: float
) -> None:
    value, scores = METRICS[metric](strata), np.concatenate(strata)
    assert scores.min() - 1e-6 <= value <= scores.max() + 1e-6
    assert METRICS[metric]([s + shift for s in strata]) == pytest.approx(value + shift, abs=1e-5)


@given(STRATA, st.floats(-100, 100))
def test_the_optimality_gap_lies_between_those_of_the_scores(strata: list[np.ndarray], shift: float) -> None:
    value, scores = statistics.optimality_gap(strata), np.concatenate(strata)
    assert 1 - min(scores.max(), 1) - 1e-6 <= value <= 1 - min(scores.min(), 1) + 1e-6
    assert statistics.optimality_gap([s + shift for s in strata], 1 + shift) == pytest.approx(value, abs=1e-5)


@pytest.mark.parametrize("metric", METRICS)
@given(strata=STRATA)
def test_resamples_are_aggregated_one_by_one(metric: str, strata: list[np.ndarray]) -> None:
    stacked = [np.stack([s, -s, 2 * s]) for s in strata]
    alone = [METRICS[metric]([sign * s for s in strata]) for sign in (1, -1, 2)]
    assert METRICS[metric](stacked) == pytest.approx(np.array(alone), rel=1e-9, abs=1e-6)


# --- Probability of improvement, profiles, ratios ---


def test_probability_of_improvement_by_hand() -> None:
    assert statistics.probability_of_improvement([np.array([3.0, 4]), np.array([1.0, 2])]) == 1
    assert statistics.probability_of_improvement([np.array([1.0, 3]), np.array([2.0])]) == 0.5
    assert statistics.probability_of_improvement([np.array([1.0, 2, 3]), np.array([2.0, 4])]) == 1.5 / 6  # a tie: half
    assert statistics.probability_of_improvement([*RLIABLE_X, *RLIABLE_Y]) == pytest.approx(1 / 3)  # as rliable says


@given(RESAMPLED.flatmap(lambda x: st.tuples(st.just(x), arrays(np.float64, (len(x), 7), elements=st.integers(-2, 2)))))
def test_probability_of_improvement_is_that_of_all_pairs(resamples: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = resamples
    pairs = x[..., :, None], y[..., None, :]
    expected = ((pairs[0] > pairs[1]) + 0.5 * (pairs[0] == pairs[1])).mean(axis=(-2, -1))
    assert statistics.probability_of_improvement([x, y]).tolist() == expected.tolist()


@given(RUNS, RUNS)
def test_one_or_the_other_is_better(x: np.ndarray, y: np.ndarray) -> None:
    p = float(statistics.probability_of_improvement([x, y]))
    assert 0 <= p <= 1
    assert p + statistics.probability_of_improvement([y, x]) == pytest.approx(1)
    assert p == pytest.approx(stats.mannwhitneyu(x, y, method="asymptotic").statistic / (len(x) * len(y)))


def test_ratio_by_hand() -> None:
    assert statistics.ratio([np.array([4.0]), np.array([8.0]), np.array([2.0]), np.array([1.0])]) == pytest.approx(4)


def test_profile_by_hand() -> None:
    strata = [np.array([0.0, 0.5, 1.0, 1.0]), np.array([0.5])]
    taus = np.array([-1, 0, 0.5, 1])
    assert statistics.performance_profile(strata, taus).tolist() == [1, 0.875, 0.25, 0]


@given(STRATA, st.lists(SCORES, min_size=2, max_size=9))
def test_profiles_fall_from_one_to_zero(strata: list[np.ndarray], inner: list[float]) -> None:
    profile = statistics.performance_profile(strata, np.array([-1e7, *sorted(inner), 1e7]))
    assert profile[0] == pytest.approx(1)
    assert profile[-1] == 0
    assert (np.diff(profile) <= 1e-12).all()


@given(RESAMPLED, st.lists(st.integers(-3, 3).map(lambda n: n / 2), min_size=1, max_size=9))
def test_profiles_are_fractions_of_runs(scores: np.ndarray, taus: list[float]) -> None:
    ascending = np.sort(taus)
    expected = [(scores > tau).mean(axis=-1).tolist() for tau in ascending]
    assert statistics.performance_profile([scores], ascending).tolist() == expected


# --- Intervals ---


@pytest.mark.parametrize("metric", METRICS)
def test_same_generator_same_interval(metric: str) -> None:
    strata = [rng(1).normal(size=7), rng(2).normal(size=5)]
    first, second, other = (statistics.estimate(METRICS[metric], strata, rng(seed)) for seed in (3, 3, 4))
    assert first == second != other
    assert first.low < first.value < first.high


@pytest.mark.parametrize(
    "statistic",
    [
        *METRICS.values(),
        statistics.ratio,
        statistics.probability_of_improvement,
        lambda strata: statistics.performance_profile(strata, np.linspace(0, 9, 7)),
    ],
)
@pytest.mark.parametrize("sizes", [(9, 9), (7, 5)])
def test_resamples_in_blocks_are_the_same(statistic: Any, sizes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    strata = [rng(n).exponential(size=size) for n, size in enumerate(sizes)]
    at_once = statistics.bootstrap(statistic, strata, rng(3), 100)
    for block in (1, 7 * sum(sizes)):  # one resample, and 7, of which the last block has two
        monkeypatch.setattr(statistics, "MAX_SCORES", block)
        assert np.array_equal(statistics.bootstrap(statistic, strata, rng(3), 100), at_once)


def test_the_interval_is_that_of_scipys_bootstrap() -> None:
    scores = rng(1).normal(size=12)
    expected = stats.bootstrap((scores,), np.mean, method="percentile", n_resamples=20_000, rng=rng(2))
    low, high = statistics.bootstrap(statistics.mean, [scores], rng(3), 20_000)
    assert (low, high) == pytest.approx(tuple(expected.confidence_interval), abs=0.02)


@pytest.mark.parametrize(("runs", "expected"), [(5, 0.835), (20, 0.93)])
def test_coverage_is_what_the_report_says(runs: int, expected: float) -> None:
    """How often the interval of a mean holds the true one. Binomial standard error: 0.012 at most."""
    samples = rng(1).normal(size=(1_000, runs))
    generator = rng(2)
    intervals = np.array([statistics.bootstrap(statistics.mean, [s], generator, 500) for s in samples])
    assert np.mean((intervals[:, 0] <= 0) & (intervals[:, 1] >= 0)) == pytest.approx(expected, abs=0.03)


def test_runs_are_drawn_within_their_environment() -> None:
    """Runs are equal within each environment, so the interval has no width; with pooled runs it would have."""
    estimate = statistics.estimate(statistics.mean, [np.zeros(5), np.ones(5)], rng())
    assert estimate == Estimate(0.5, 0.5, 0.5)


def test_algorithms_are_drawn_independently() -> None:
    scores = np.array([1.0, 2, 3, 4, 5])
    estimate = statistics.estimate(statistics.probability_of_improvement, [scores, scores], rng())
    assert estimate.value == 0.5
    assert estimate.low < 0.3
    assert estimate.high > 0.7


@pytest.mark.parametrize("strata", [[np.array([3.0])], [np.array([1.0]), np.array([3.0, 4, 5, 6])]])
def test_one_run_has_no_interval(strata: list[np.ndarray]) -> None:
    estimate = statistics.estimate(statistics.mean, strata, rng())
    assert estimate.value > 0
    assert math.isnan(estimate.low)
    assert math.isnan(estimate.high)


def test_intervals_of_curves_are_those_of_their_points() -> None:
    scores = rng(1).normal(size=(3, 6))  # [points, runs]
    low, high = statistics.bootstrap(statistics.iqm, [scores], rng(2))
    for point in range(3):
        assert statistics.bootstrap(statistics.iqm, [scores[point]], rng(2)) == (low[point], high[point])


def test_runs_that_miss_a_threshold_count_as_infinitely_late() -> None:
    times = np.array([10.0, 20, 30, math.inf, math.inf])
    estimate = statistics.estimate(statistics.median, [times], rng())
    assert estimate == Estimate(30, 10, math.inf)
    none_reached = statistics.estimate(statistics.median, [np.full(4, math.inf)], rng())
    assert none_reached == Estimate(math.inf, math.inf, math.inf)


# --- Tests ---


def test_mann_whitney_of_scipys_documentation() -> None:
    males, females = np.array([19.0, 22, 16, 29, 24]), np.array([20.0, 11, 17, 12])
    assert statistics.mann_whitney(males, females, rng()) == pytest.approx(0.1111111, abs=1e-6)


def test_mann_whitney_with_ties_by_counting_all_splits() -> None:
    x, y = np.array([0.0, 0, 0, 1]), np.array([0.0, 1, 1, 1, 2])
    pooled = np.concatenate([x, y])

    def u(chosen: Any) -> float:
        a = pooled[list(chosen)]
        b = np.delete(pooled, list(chosen))
        return float(np.sum((a[:, None] > b) + 0.5 * (a[:, None] == b)))

    counts = np.array([u(chosen) for chosen in itertools.combinations(range(9), 4)])
    observed = u(range(4))
    expected = 2 * min(np.mean(counts <= observed), np.mean(counts >= observed))
    assert statistics.mann_whitney(x, y, rng()) == pytest.approx(expected)
    assert statistics.mann_whitney(np.zeros(5), np.zeros(5), rng()) == 1


@pytest.mark.parametrize(
    ("n", "m", "expected"), [(5, 5, 0.0079), (4, 5, 0.0159), (3, 3, 0.1), (10, 10, 1.08e-5), (60, 60, 3.557e-21)]
)
def test_the_smallest_p_is_that_of_runs_that_do_not_overlap(n: int, m: int, expected: float) -> None:
    x, y = np.arange(n, dtype=float), np.arange(m) + 100.0
    assert statistics.smallest_p(n, m) == pytest.approx(statistics.mann_whitney(x, y, rng()), rel=1e-6, abs=0)
    assert statistics.smallest_p(n, m) == pytest.approx(expected, rel=0.01, abs=0)


@pytest.mark.parametrize("ties", [False, True])
def test_of_many_runs_the_normal_approximation_is_as_good(ties: bool) -> None:
    x, y = rng(1).normal(size=51), rng(2).normal(size=53) + 0.4
    if ties:
        x, y = np.round(x, 1), np.round(y, 1)
    method: Any = stats.PermutationMethod(n_resamples=100_000, batch=1_000, rng=rng()) if ties else "exact"
    expected = stats.mannwhitneyu(x, y, method=method).pvalue
    assert 0.001 < expected < 0.1
    assert statistics.mann_whitney(x, y, rng()) == pytest.approx(expected, rel=0.05)


def test_up_to_fifty_runs_the_p_value_is_exact() -> None:
    x, y = rng(1).normal(size=50), rng(2).normal(size=60)
    assert statistics.mann_whitney(x, y, rng()) == stats.mannwhitneyu(x, y, method="exact").pvalue


def test_a_thousand_runs_have_a_p_value() -> None:
    x, y = rng(1).normal(size=1_000), rng(2).normal(size=1_000) + 0.1
    assert 0.001 < statistics.mann_whitney(x, y, rng()) < 0.1
    assert statistics.mann_whitney(x, y + 100, rng()) == statistics.smallest_p(1_000, 1_000) == 0


@pytest.mark.parametrize("others", [[0.0], [0.0, 0.0, 1.0], [1.0] * 99])
def test_one_run_proves_nothing(others: list[float]) -> None:
    for x, y in itertools.permutations([np.zeros(1), np.array(others)]):
        assert statistics.smallest_p(len(x), len(y)) == statistics.mann_whitney(x, y, rng()) == 1


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # the textbook's
        ([0.02], [0.02]),
        ([0.5, 0.6], [1, 1]),
        ([0.01, 0.011], [0.02, 0.02]),  # 1 * 0.011 is not below what came before it
        ([], []),
    ],
)
def test_holm_by_hand(p: list[float], expected: list[float]) -> None:
    assert statistics.holm(p) == pytest.approx(expected)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_holm_keeps_order_and_lies_between_p_and_bonferroni(p: list[float]) -> None:
    adjusted = statistics.holm(p)
    for (a, adjusted_a), (b, adjusted_b) in itertools.product(zip(p, adjusted, strict=True), repeat=2):
        assert a > b or adjusted_a <= adjusted_b
    assert all(a <= b <= min(1, len(p) * a) + 1e-12 for a, b in zip(p, adjusted, strict=True))


# --- Curves ---


def test_area_by_hand() -> None:
    x, y = np.array([0.0, 1, 2]), np.array([0.0, 2, 2])
    assert statistics.area(x, y, 0, 2) == 1.5
    assert statistics.area(x, y, 0.5, 1.5) == 1.75  # (1 + 2) / 2 / 2 + 2 / 2
    assert statistics.area(x, y, 0.25, 0.75) == 1  # between two points
    assert statistics.area(np.array([0.0, 1, 10]), np.array([0.0, 0, 9]), 0, 10) == 4.05  # not the mean of the points


@given(arrays(np.float64, 6, elements=st.floats(-1e3, 1e3)), st.floats(0, 2), st.floats(2.1, 5))
def test_areas_lie_between_the_heights(y: np.ndarray, low: float, high: float) -> None:
    area = statistics.area(np.arange(6.0), y, low, high)
    assert y.min() - 1e-9 <= area <= y.max() + 1e-9
    assert statistics.area(np.arange(6.0), y + 7, low, high) == pytest.approx(area + 7)


def test_the_first_to_reach_a_threshold_by_hand() -> None:
    x, y = np.array([10.0, 20, 30, 40]), np.array([1.0, 5, 3, 9])
    assert statistics.first_at(x, y, 4) == 20
    assert statistics.first_at(x, y, 5) == 20  # at it is enough
    assert statistics.first_at(x, y, 5.5) == 40
    assert statistics.first_at(x, y, 9.5) == math.inf
