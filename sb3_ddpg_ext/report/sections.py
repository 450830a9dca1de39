"""A comparison -> what the report says, in sections of text, tables and pictures. How that looks is for the pages."""

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from sb3_ddpg_ext.report import pictures
from sb3_ddpg_ext.report.analysis import SCORES, Comparison, conditions
from sb3_ddpg_ext.report.notes import notes
from sb3_ddpg_ext.report.pictures import Picture
from sb3_ddpg_ext.results import statistics
from sb3_ddpg_ext.results.scales import scale_of
from sb3_ddpg_ext.results.statistics import EXACT, RESAMPLES, Estimate

_ALL = "all environments"
_NONE = "-"


@dataclass(frozen=True)
class Table:
    """
    :param caption: What it shows, and how that was made
    :param header: Names of the columns
    :param rows: The cells; the first ``heads`` of a row say what the row is about
    :param heads: How many
    """

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    heads: int = 2


@dataclass(frozen=True)
class Section:
    """
    :param title: Its heading
    :param text: Paragraphs
    :param points: A list
    :param content: Tables and pictures, in order
    """

    title: str
    text: tuple[str, ...] = ()
    points: tuple[str, ...] = ()
    content: tuple[Table | Picture, ...] = ()


def sections(comparison: Comparison) -> tuple[Section, ...]:
    """
    :param comparison: The comparison
    :return: The sections of its report. Tables have rows; pictures may turn out to have nothing to show
    """
    found = (
        Section("Summary", content=(_summary(comparison),)),
        Section("Notes", points=notes(comparison)),
        Section("Learning curves", content=pictures.CURVES),
        *(
            Section(title, _SCORES[score], content=(pictures.INTERVALS[score], _scores(comparison, score)))
            for score, title in SCORES.items()
        ),
        Section(
            f"Compared with {comparison.baseline}",
            _compared(comparison),
            content=(pictures.IMPROVEMENT, *(_improvement(comparison, score) for score in SCORES)),
        ),
        Section("Performance profiles", content=(pictures.PROFILES,)),
        Section("Time to a threshold", _THRESHOLD, content=(pictures.THRESHOLDS, _thresholds(comparison))),
        Section("Speed", _SPEED, content=(pictures.SPEED, _pace(comparison))),
        Section("Runs", content=(_budgets(comparison), _conditions(comparison))),
        Section("Normalisation", _NORMALISATION, content=(_normalisation(comparison),)),
        Section("How the numbers were made", points=_METHOD),
    )
    return tuple(map(_without_empty_tables, found))


def _without_empty_tables(section: Section) -> Section:
    content = tuple(item for item in section.content if isinstance(item, Picture) or item.rows)
    return Section(section.title, section.text, section.points, content)


_SCORES = {
    "final": (
        "The mean return of the last model, played deterministically for other episodes than those of its evaluations, "
        "with the same seeds for all runs. It shows the end of training only, in which deterministic policies still go "
        "up and down.",
    ),
    "area_over_steps": (
        "The mean height of a run's evaluation curve over environment steps: how much was learned how early. Between "
        "the latest first and the earliest last evaluation of all runs on an environment.",
    ),
    "area_over_seconds": (
        "The mean height of a run's evaluation curve over CPU seconds of training, from the earliest first to the "
        "earliest last evaluation of all runs on an environment: what computing time buys until the fastest is done. "
        "Before its own first evaluation a curve is as high as there. It holds for the machine and the threads below.",
    ),
}
_BETTER = (
    "P is the probability that a run scores higher than one of the baseline (ties count half); 0.5 is no difference. "
    "An interval that is a single point says that all runs lie on one side, or that all are equal, not that this is "
    "certain."
)
_TESTED = (
    "p: two-sided Mann-Whitney U test, {how}. Holm: p corrected for all comparisons in the table on the same "
    "environment; different environments and scores are not corrected for one another. Least: the smallest corrected p "
    "that the best of these algorithms could have reached with so few runs; where it is above 0.05, no result would "
    "have been significant."
)
_THRESHOLD = (
    "The first evaluation during training whose mean return reached the threshold. It is known to the distance between "
    "two evaluations, and a lucky evaluation counts. Runs that did not get there count as infinitely late, so that a "
    "median is 'not reached' where half of the runs or more did not.",
)
_SPEED = (
    "Environment steps over CPU time of training, evaluations not counted. Whoever does fewer gradient steps "
    "for an environment step, or starts to learn later, is faster for it: compare the last column.",
)
_NORMALISATION = ("A normalised score is 0 for uniformly random actions and 1 for published results of TD3.",)
_METHOD = (
    "IQM: interquartile mean, the mean of the middle half of the runs (25% trimmed at either end, rounded down). With "
    "three runs or fewer it is the mean. All environments together: of the normalised scores of all runs, each "
    "environment with the same weight.",
    "Median: of one environment, the median of its runs; of several, the median of their means.",
    "Optimality gap: by how much normalised scores fall short of 1 on average, where those above 1 count as 1. Lower "
    "is better.",
    f"Intervals: 95%, percentile bootstrap with {RESAMPLES:,} resamples (2,000 for bands), runs drawn within each "
    "environment. They are of runs (seeds), on these environments. With few runs they are too narrow: for the mean of "
    "5 normally distributed runs they hold the true value in 83 to 84 cases of 100, for the IQM in about 90, for 10 "
    "runs in 90 and 93. Of four runs or fewer the IQM's interval goes from the lowest to the highest: it holds the "
    "true value in 87 cases of 100, of three runs in 75, of two in 50.",
    "Metrics, intervals and profiles are those of Agarwal et al. 2021, Deep RL at the Edge of the Statistical "
    "Precipice, https://arxiv.org/abs/2108.13264; the correction is that of Holm 1979.",
    "runs.csv and evaluations.csv beside this file hold the numbers that all this was made from.",
)


def number(value: float) -> str:
    """
    :param value: A number
    :return: Four significant digits, three decimals at most (if these are not all 0); a dash for NaN, ``not reached``
        for infinity
    """
    if math.isnan(value):
        return _NONE
    if math.isinf(value):
        return "not reached"
    if 0 < abs(value) < 0.0005:
        return f"{value:.1e}"
    digits = 3 if abs(value) < 10 else max(0, 3 - math.floor(math.log10(abs(value))))
    return f"{value + 0.0:,.{digits}f}"  # -0.0 is 0


def interval(estimate: Estimate) -> str:
    """
    :param estimate: An estimate
    :return: It and its interval, if that is defined and says more
    """
    if math.isnan(estimate.low) or math.isinf(estimate.low):
        return number(estimate.value)
    return f"{number(estimate.value)} [{number(estimate.low)},\u00a0{number(estimate.high)}]"


def _summary(comparison: Comparison) -> Table:
    rows = {
        score: {(row.env, row.label): interval(row.estimates["IQM"]) for row in comparison.score_rows[score]}
        for score in SCORES
    }
    chances = {(row.env, row.label): interval(row.probability) for row in comparison.improvement_rows["final"]}
    speed = {(row.env, row.label): interval(row.speedup) for row in comparison.pace_rows}
    together = len(comparison.scaled) > 1
    keys = [
        (env, label)
        for env in (*([None] if together else []), *comparison.envs)
        for label in comparison.labels
        if any((env, label) in rows[score] for score in SCORES)
    ]
    what = "Normalised scores of all environments, and those of each" if together else "Scores"
    return Table(
        f"{what} in units of return: IQM and 95% interval. "
        f"P: probability of a better final score than {comparison.baseline}. "
        f"Speed: steps per CPU second, times those of {comparison.baseline}.",
        ("environment", "algorithm", *(title.lower() for title in SCORES.values()), "P", "speed"),
        tuple(
            (
                env or _ALL,
                label,
                *(rows[score].get((env, label), _NONE) for score in SCORES),
                chances.get((env, label), _NONE),
                speed.get((env, label), _NONE),
            )
            for env, label in keys
        ),
    )


def _scores(comparison: Comparison, score: str) -> Table:
    return Table(
        f"{SCORES[score]}: estimates and 95% intervals, in units of return; those of all environments, and the "
        "optimality gap, of normalised scores.",
        ("environment", "algorithm", "runs", *statistics.METRICS),
        tuple(
            (
                row.env or _ALL,
                row.label,
                str(row.runs),
                *(
                    interval(row.estimates[metric]) if metric in row.estimates else _NONE
                    for metric in statistics.METRICS
                ),
            )
            for row in comparison.score_rows[score]
        ),
    )


def _compared(comparison: Comparison) -> tuple[str, ...]:
    rows = (row for score in SCORES for row in comparison.improvement_rows[score] if row.env is not None)
    many = any(min(row.runs, row.baseline_runs) > EXACT for row in rows)
    normal = f"; the normal approximation where both have more than {EXACT} runs" if many else ""
    how = f"exact (with ties in many runs: from 100,000 random splits{normal})"
    return _BETTER, _TESTED.format(how=how)


def _p(value: float) -> str:
    if math.isnan(value):
        return _NONE
    if value == 0:  # less than a number can be
        return "<1e-300"
    return f"{value:.4f}" if value >= 0.0001 else f"{value:.0e}"


def _improvement(comparison: Comparison, score: str) -> Table:
    return Table(
        f"{SCORES[score]}: against {comparison.baseline}.",
        ("environment", "algorithm", "runs", "P [95% interval]", "p", "Holm", "least"),
        tuple(
            (
                row.env or _ALL,
                row.label,
                f"{row.runs} v {row.baseline_runs}",
                interval(row.probability),
                *map(_p, (row.p, row.holm, row.smallest)),
            )
            for row in comparison.improvement_rows[score]
        ),
    )


def _thresholds(comparison: Comparison) -> Table:
    return Table(
        "Runs that reached the threshold, and the medians over runs with 95% intervals.",
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
    )


def _pace(comparison: Comparison) -> Table:
    return Table(
        "IQM over runs and 95% interval; of all environments, the geometric mean of the ratios.",
        (
            "environment",
            "algorithm",
            "runs",
            "steps per CPU second",
            f"times {comparison.baseline}",
            "updates per step",
        ),
        tuple(
            (row.env or _ALL, row.label, str(row.runs), *map(interval, (row.pace, row.speedup)), number(row.updates))
            for row in comparison.pace_rows
        ),
    )


def _budgets(comparison: Comparison) -> Table:
    rows = []
    for (env, label), group in comparison.groups.items():
        evaluated = [run.evaluations.returns.shape for run in group.runs if run.evaluations is not None]
        rows.append(
            (
                env,
                label,
                _seeds([run.seed for run in group.runs]),
                _distinct([f"{run.length:,}" for run in group.runs]),
                _distinct([f"{points} x {episodes} episodes" for points, episodes in evaluated]) or _NONE,
                _distinct([conditions(run)["final episodes"] for run in group.runs]),
                number(sum(run.seconds.train for run in group.runs)),
                number(sum(run.seconds.cpu for run in group.runs)),
                _distinct([str(run.threads) for run in group.runs]),
            )
        )
    return Table(
        "Finished runs. Seconds: of training, all runs of the row together; where they are more than the CPU seconds, "
        "runs waited for a core.",
        (
            *("environment", "algorithm", "seeds", "steps", "evaluations", "final episodes"),
            *("seconds", "CPU seconds", "threads"),
        ),
        tuple(rows),
    )


def _conditions(comparison: Comparison) -> Table:
    finished = [conditions(run) for run in comparison.runs if run.is_finished]
    counted = {name: Counter(c[name] for c in finished) for name in ("threads", "device", "machine", "versions")}
    return Table(
        "What they ran on.",
        ("", "", "runs"),
        tuple((name, value, str(n)) for name, counts in counted.items() for value, n in counts.items()),
    )


def _normalisation(comparison: Comparison) -> Table:
    return Table(
        "Random: measured for this package, 300 episodes. Threshold: as in the section on it.",
        ("environment", "random", "reference", "source of the reference", "threshold", "source of the threshold"),
        tuple(
            (
                env,
                number(scale.random),
                number(scale.reference),
                scale.source,
                _NONE if scale.threshold is None else f"{scale.threshold:g}",
                scale.threshold_source or _NONE,
            )
            for env in comparison.envs
            if (scale := scale_of(env)) is not None
        ),
        heads=1,
    )


def _seeds(seeds: Sequence[int]) -> str:
    """Each of them; of many, from where to where they are."""
    if len(seeds) <= 20:
        return ", ".join(map(str, seeds))
    pieces = [
        [seed for _, seed in piece] for _, piece in itertools.groupby(enumerate(seeds), lambda pair: pair[1] - pair[0])
    ]
    return ", ".join(str(piece[0]) if len(piece) == 1 else f"{piece[0]} to {piece[-1]}" for piece in pieces)


def _distinct(values: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(values))
