"""A comparison -> the sections of its report: text, tables and pictures, in order."""

from dataclasses import dataclass
from itertools import chain

from sb3_ddpg_ext.report import pictures, tables
from sb3_ddpg_ext.report.analysis import Comparison
from sb3_ddpg_ext.report.notes import notes
from sb3_ddpg_ext.report.pictures import BAND_RESAMPLES, Picture
from sb3_ddpg_ext.report.tables import Table
from sb3_ddpg_ext.results.statistics import EXACT, RESAMPLES


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
    :return: The sections of its report. Empty tables are left out; that a picture shows nothing is known only when it
        is drawn
    """
    all_sections = (
        Section("Summary", content=(tables.summary(comparison),)),
        Section("Notes", points=notes(comparison)),
        Section("Learning curves", content=pictures.CURVES),
        *(
            Section(title, _SCORES[score], content=(pictures.INTERVALS[score], tables.score_table(comparison, score)))
            for score, title in comparison.scores.items()
        ),
        Section(
            f"Compared with {comparison.baseline}",
            improvement_text(comparison),
            content=(
                pictures.IMPROVEMENT,
                *(tables.improvement_table(comparison, score) for score in comparison.scores),
            ),
        ),
        Section("Performance profiles", content=(pictures.PROFILES,)),
        Section("Time to a threshold", _THRESHOLD, content=(pictures.THRESHOLDS, tables.threshold_table(comparison))),
        Section("Speed", _SPEED, content=(pictures.SPEED, tables.speed_table(comparison))),
        Section("Runs", content=(tables.runs_table(comparison), tables.conditions_table(comparison))),
        Section("Normalisation", _NORMALISATION, content=(tables.normalisation_table(comparison),)),
        Section("How the numbers were made", points=_METHOD),
    )
    return tuple(map(_without_empty_tables, all_sections))


def _without_empty_tables(section: Section) -> Section:
    content = tuple(item for item in section.content if isinstance(item, Picture) or item.rows)
    return Section(section.title, section.text, section.points, content)


def improvement_text(comparison: Comparison) -> tuple[str, ...]:
    """:return: What the tables of improvement mean; the test depends on the number of runs"""
    rows = chain.from_iterable(comparison.improvement_rows.values())
    many = any(min(row.runs, row.baseline_runs) > EXACT for row in rows if row.env is not None)
    approximation = f"; the normal approximation where both have more than {EXACT} runs" if many else ""
    method = f"exact (with ties and many runs: from 100,000 random permutations{approximation})"
    return (
        "P is the probability that a run scores higher than a run of the baseline (ties count half); 0.5 means no "
        "difference. For all environments it is the mean over environments. An interval that is a single point means "
        "that all runs of one algorithm score higher than all of the other, or that all scores are equal. It does not "
        "mean that the result is certain.",
        f"p: two-sided Mann-Whitney U test, {method}. Holm: p corrected for the number of algorithms that are compared "
        "with the baseline on the same environment; there is no correction for the number of environments and scores. "
        "Least: the smallest corrected p that is possible with so few runs. If it is above 0.05, no result could have "
        "been significant.",
    )


_SCORES = {
    "final": (
        "The mean return of the last model in new episodes with deterministic actions. The seeds of these episodes are "
        "the same for all runs, and differ from those of the evaluations during training. This score describes only "
        "the end of training, where the return of a deterministic policy may still go up and down.",
    ),
    "at_equal_seconds": (
        "The value of a run's learning curve when the fastest run on its environment ends, in CPU seconds of training. "
        "Curves are interpolated linearly between evaluations. This score depends on the machine and the number of "
        "threads, and describes only one moment, at which the return of a deterministic policy may go up and down.",
    ),
    "area_over_steps": (
        "The mean of a run's learning curve over environment steps (the area under it, divided by its width). The more "
        "a run learns, and the earlier, the higher it is. The range is the same for all runs on an environment: from "
        "the latest first evaluation to the earliest last one.",
    ),
    "area_over_seconds": (
        "The mean of a run's learning curve over CPU seconds of training: what is reached for the same computing time. "
        "The range is the same for all runs on an environment: from the earliest first evaluation to the earliest last "
        "one, which is that of the fastest run. Until its own first evaluation, a run counts with the value of that "
        "evaluation. This score depends on the machine and the number of threads.",
    ),
}
_THRESHOLD = (
    "The first evaluation during training with a mean return at or above the threshold. A lucky evaluation counts, and "
    "the times are only as exact as the distance between two evaluations. A run that did not reach the threshold "
    "counts as infinitely late, so the median is 'not reached' if at least half of the runs did not reach it.",
)
_SPEED = (
    "Environment steps per CPU second of training, without evaluations. An algorithm with fewer gradient steps per "
    "environment step, or with a later start of learning, is faster for that reason alone: compare the last column.",
)
_NORMALISATION = (
    "A normalised score is 0 for uniformly random actions and 1 for a published result of TD3, or for the "
    "reference that the user's file gives.",
)
_METHOD = (
    "IQM: interquartile mean, the mean of the middle half of the runs (25% trimmed at either end, rounded down). With "
    "three runs or fewer it is the mean. For all environments it is that of all normalised scores, where each "
    "environment has the same weight.",
    "Median: for one environment, the median of the runs; for all environments, the median of the environments' means.",
    "Optimality gap: how far normalised scores are below 1 on average; scores above 1 count as 1. Lower is better.",
    f"Intervals: 95%, percentile bootstrap with {RESAMPLES:,} resamples ({BAND_RESAMPLES:,} for bands). Runs are "
    "resampled within each environment, so the intervals are about other seeds, not about other environments. With few "
    "runs they are too narrow. For normally distributed scores of 5 runs, the interval of the mean contains the true "
    "value in 83 to 84 of 100 cases, that of the IQM in about 90; for 10 runs, in 90 and 93. For four runs or fewer, "
    "the interval of the IQM goes from the lowest score to the highest: it contains the true value in 87 of 100 cases "
    "for four runs, in 75 for three, in 50 for two.",
    "Metrics, intervals and profiles follow Agarwal et al. 2021, Deep RL at the Edge of the Statistical Precipice, "
    "https://arxiv.org/abs/2108.13264. The correction of p-values follows Holm 1979.",
    "All numbers are computed from the data in runs.csv and evaluations.csv, in the same directory as this report.",
)
