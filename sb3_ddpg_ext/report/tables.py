"""The tables of the report, with numbers as text."""

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from sb3_ddpg_ext.report.analysis import ALL_ENVIRONMENTS, Comparison
from sb3_ddpg_ext.report.groups import conditions
from sb3_ddpg_ext.results import statistics
from sb3_ddpg_ext.results.statistics import Estimate

_NONE = "-"


@dataclass(frozen=True)
class Table:
    """
    :param caption: What it shows, and how that was computed
    :param header: Names of the columns
    :param rows: The cells
    :param heads: How many cells at the start of a row name what it is about
    :param name: Name of its file, without ``.tex``
    """

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    heads: int = 2
    name: str = ""


# --- Numbers ---


def number(value: float) -> str:
    """
    :param value: A number
    :return: It with four significant digits and at most three decimals, in scientific notation if these would all be 0;
        a dash for NaN, ``not reached`` for infinity
    """
    if math.isnan(value):
        return _NONE
    if math.isinf(value):
        return "not reached"
    if 0 < abs(value) < 0.0005:
        return f"{value:.1e}"
    digits = 3 if abs(value) < 10 else max(0, 3 - math.floor(math.log10(abs(value))))
    return f"{value + 0.0:,.{digits}f}"  # adding 0.0 makes 0.0 of -0.0


def interval(estimate: Estimate) -> str:
    """
    :param estimate: An estimate
    :return: Its value with its interval, or the value only if the interval is undefined or starts at infinity
    """
    if math.isnan(estimate.low) or math.isinf(estimate.low):
        return number(estimate.value)
    return f"{number(estimate.value)} [{number(estimate.low)},\u00a0{number(estimate.high)}]"


def p_value(p: float) -> str:
    """
    :param p: A p-value
    :return: It with four decimals, or one significant digit if it is smaller
    """
    if math.isnan(p):
        return _NONE
    if p == 0:  # smaller than any float
        return "<1e-300"
    return f"{p:.4f}" if p >= 0.0001 else f"{p:.0e}"


# --- Results ---


def summary(comparison: Comparison) -> Table:
    """:return: The most important figures of each algorithm on each environment"""
    scores = {
        score: {(row.env, row.label): interval(row.estimates["IQM"]) for row in comparison.score_rows[score]}
        for score in comparison.scores
    }
    first, title_of_first = next(iter(comparison.scores.items()))
    probabilities = {(row.env, row.label): interval(row.probability) for row in comparison.improvement_rows[first]}
    speedups = {(row.env, row.label): interval(row.speedup) for row in comparison.speed_rows}
    together = len(comparison.scaled_envs) > 1
    keys = [
        (env, label)
        for env in (*([None] if together else []), *comparison.envs)
        for label in comparison.labels
        if any((env, label) in rows for rows in scores.values())
    ]
    normalised = "; for all environments, of normalised scores" if together else ""
    return Table(
        f"Scores: IQM and 95% interval, in units of return{normalised}. "
        f"P: probability of a better {title_of_first.lower()} than {comparison.baseline}. "
        f"Speed: steps per CPU second, relative to {comparison.baseline}.",
        ("environment", "algorithm", *(title.lower() for title in comparison.scores.values()), "P", "speed"),
        tuple(
            (
                env or ALL_ENVIRONMENTS,
                label,
                *(rows.get((env, label), _NONE) for rows in scores.values()),
                probabilities.get((env, label), _NONE),
                speedups.get((env, label), _NONE),
            )
            for env, label in keys
        ),
        name="summary",
    )


def score_table(comparison: Comparison, score: str) -> Table:
    """:return: All aggregates of one score"""
    return Table(
        f"{comparison.scores[score]}: estimates and 95% intervals, in units of return. Those of all environments and "
        "the optimality gap are of normalised scores.",
        ("environment", "algorithm", "runs", *statistics.METRICS),
        tuple(
            (
                row.env or ALL_ENVIRONMENTS,
                row.label,
                str(row.runs),
                *(
                    interval(row.estimates[metric]) if metric in row.estimates else _NONE
                    for metric in statistics.METRICS
                ),
            )
            for row in comparison.score_rows[score]
        ),
        name=f"scores_{score}",
    )


def improvement_table(comparison: Comparison, score: str) -> Table:
    """:return: Each algorithm against the baseline"""
    return Table(
        f"{comparison.scores[score]}: comparison with {comparison.baseline}.",
        ("environment", "algorithm", "runs", "P [95% interval]", "p", "Holm", "least"),
        tuple(
            (
                row.env or ALL_ENVIRONMENTS,
                row.label,
                f"{row.runs} v {row.baseline_runs}",
                interval(row.probability),
                *map(p_value, (row.p, row.holm, row.smallest)),
            )
            for row in comparison.improvement_rows[score]
        ),
        name=f"improvement_{score}",
    )


def threshold_table(comparison: Comparison) -> Table:
    """:return: How soon each algorithm reached the thresholds"""
    return Table(
        "Runs that reached the threshold, and medians over all runs with 95% intervals.",
        ("environment", "algorithm", "threshold", "reached", "steps", "CPU seconds of training"),
        tuple(
            (
                row.env,
                row.label,
                f"{row.threshold:g}",
                f"{row.reached} of {row.runs}",
                interval(row.steps),
                interval(row.seconds),
            )
            for row in comparison.threshold_rows
        ),
        name="thresholds",
    )


def speed_table(comparison: Comparison) -> Table:
    """:return: How fast each algorithm trains"""
    return Table(
        "IQM over runs and 95% interval; for all environments, the geometric mean of the ratios.",
        (
            "environment",
            "algorithm",
            "runs",
            "steps per CPU second",
            f"times {comparison.baseline}",
            "updates per step",
        ),
        tuple(
            (
                row.env or ALL_ENVIRONMENTS,
                row.label,
                str(row.runs),
                interval(row.speed),
                interval(row.speedup),
                number(row.updates_per_step),
            )
            for row in comparison.speed_rows
        ),
        name="speed",
    )


# --- Appendix ---


def runs_table(comparison: Comparison) -> Table:
    """:return: Seeds, lengths, evaluations and times of the finished runs"""
    rows = []
    for (env, label), group in comparison.groups.items():
        evaluated = [run.evaluations.returns.shape for run in group.runs if run.evaluations is not None]
        rows.append(
            (
                env,
                label,
                seed_ranges([run.seed for run in group.runs]),
                _distinct([f"{run.length:,}" for run in group.runs]),
                _distinct([f"{points} x {episodes} episodes" for points, episodes in evaluated]) or _NONE,
                _distinct([conditions(run)["final episodes"] for run in group.runs]),
                number(sum(run.seconds.train for run in group.runs)),
                number(sum(run.seconds.cpu for run in group.runs)),
                _distinct([str(run.threads) for run in group.runs]),
            )
        )
    return Table(
        "Finished runs. Seconds are of training, summed over the runs of a row. If they are more than the CPU seconds, "
        "runs waited for a core.",
        (
            *("environment", "algorithm", "seeds", "steps", "evaluations", "final episodes"),
            *("seconds", "CPU seconds", "threads"),
        ),
        tuple(rows),
        name="runs",
    )


def conditions_table(comparison: Comparison) -> Table:
    """:return: What the finished runs ran on"""
    finished = [conditions(run) for run in comparison.runs if run.is_finished]
    counted = {name: Counter(c[name] for c in finished) for name in ("threads", "device", "machine", "versions")}
    return Table(
        "What the finished runs ran on.",
        ("", "", "runs"),
        tuple((name, value, str(n)) for name, counts in counted.items() for value, n in counts.items()),
        name="conditions",
    )


def normalisation_table(comparison: Comparison) -> Table:
    """:return: The scale of each environment that has one"""
    return Table(
        "Random: mean of 300 episodes, measured for this package, if no file gives it. Threshold: as in its section.",
        ("environment", "random", "reference", "source of the reference", "threshold", "source of the threshold"),
        tuple(
            (
                env,
                _NONE if scale.random is None else number(scale.random),
                _NONE if scale.reference is None else number(scale.reference),
                scale.source or _NONE,
                _NONE if scale.threshold is None else f"{scale.threshold:g}",
                scale.threshold_source or _NONE,
            )
            for env in comparison.envs
            if (scale := comparison.scale_of(env)).can_normalise or scale.threshold is not None
        ),
        heads=1,
        name="normalisation",
    )


def seed_ranges(seeds: Sequence[int]) -> str:
    """
    :param seeds: Seeds, ascending
    :return: All of them, or ranges if there are more than 20: ``0 to 99, 101``
    """
    if len(seeds) <= 20:
        return ", ".join(map(str, seeds))
    # Consecutive seeds differ from their positions by the same number
    ranges = [
        [seed for _, seed in pairs] for _, pairs in itertools.groupby(enumerate(seeds), lambda pair: pair[1] - pair[0])
    ]
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]} to {part[-1]}" for part in ranges)


def _distinct(values: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(values))
