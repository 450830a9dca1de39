"""
The score of a run, and the value of a trial, which Optuna maximises. Both are defined at any time during a trial.

The value of a trial is an interquartile mean over its runs (of up to three runs, their mean). A run that never reaches
the threshold takes infinitely long. If there is such a run in the middle half, the trial has no time; its value is then
negative, below that of every trial with a time, and says how far the runs stayed below the threshold.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sb3_ddpg_ext.arguments import ScoreKind
from sb3_ddpg_ext.errors import SettingsError
from sb3_ddpg_ext.results.records import AXES, Array, Evaluations
from sb3_ddpg_ext.results.scales import SCALES, Scale
from sb3_ddpg_ext.results.statistics import area, first_at, iqm

DESCRIPTIONS: Mapping[ScoreKind, str] = {
    ScoreKind.FINAL: "final return",
    ScoreKind.AREA_OVER_STEPS: "area under the curve over steps",
    ScoreKind.STEPS_TO_THRESHOLD: "steps to the threshold",
    ScoreKind.SECONDS_TO_THRESHOLD: "CPU seconds of training to the threshold",
}
"""The scores of a run, in words. Of times to the threshold, less is better."""


@dataclass(frozen=True)
class _TimeScore:
    """
    A time to the threshold. Optuna maximises its inverse.

    :param measured_in: The times of the evaluations
    :param per: The value of a trial is how often it would reach the threshold in so many steps or seconds
    :param unit: Of the time
    :param digits: After the decimal point, where the time is shown
    """

    measured_in: Callable[[Evaluations], Array]
    per: int
    unit: str
    digits: int


_TIME_SCORES: Mapping[ScoreKind, _TimeScore] = {
    ScoreKind.STEPS_TO_THRESHOLD: _TimeScore(AXES["steps"], 1_000_000, "steps", 0),
    ScoreKind.SECONDS_TO_THRESHOLD: _TimeScore(AXES["seconds"], 3_600, "CPU s", 1),
}


def is_time(score: ScoreKind) -> bool:
    """:return: Whether the score of a run is a time to the threshold"""
    return score in _TIME_SCORES


def check(score: ScoreKind, env: str, scale: Scale) -> None:
    """
    :param score: The score
    :param env: Id of the environment
    :param scale: Its scale
    :raises SettingsError: If the score needs a threshold and the environment has none
    """
    if is_time(score) and scale.threshold is None:
        known = ", ".join(name for name, known_scale in SCALES.items() if known_scale.threshold is not None)
        raise SettingsError(
            f"--score {score.value} needs a threshold, which {env} does not have; say --threshold, use final "
            f"or area, or: {known}"
        )


def score_of_run(score: ScoreKind, run: Evaluations, scale: Scale) -> float:
    """
    :param score: The score
    :param run: The evaluations of a run so far
    :param scale: Scale of the environment
    :return: A return, or a time: infinite if the threshold was not reached
    """
    if score is ScoreKind.FINAL:
        return float(run.means[-1])
    if score is ScoreKind.AREA_OVER_STEPS:
        return area(run.steps, run.means, run.steps[0], run.steps[-1]) if len(run.steps) > 1 else float(run.means[0])
    return first_at(_TIME_SCORES[score].measured_in(run), run.means, _threshold(scale))


def value_of_trial(score: ScoreKind, runs: Sequence[Evaluations], scale: Scale) -> float:
    """
    The value of a trial, whose last run may not be over.

    :param score: The score
    :param runs: The evaluations of its runs so far
    :param scale: Scale of the environment
    :return: A return. For times, how often the threshold would be reached in a million steps or in an hour; or a
        negative number, -1 for runs that were no better than a random policy
    """
    average = float(iqm([np.array([score_of_run(score, run, scale) for run in runs])]))
    if not is_time(score):
        return average
    if math.isfinite(average):
        return _inverse_time(score, average)
    return -_distance_to_threshold(runs, len(runs), scale)


def best_possible_value(score: ScoreKind, runs: Sequence[Evaluations], scale: Scale, n_seeds: int) -> float:
    """
    The value that a trial would have if its last run, which is not over, reached the threshold now.

    :param score: A time to the threshold
    :param runs: The evaluations of its runs so far
    :param scale: Scale of the environment
    :param n_seeds: How many runs it will have
    :return: The value. If there is none because earlier runs missed the threshold, the value with all later runs as
        fast as the last one
    """
    time_score = _TIME_SCORES[score]
    *previous, running = (score_of_run(score, run, scale) for run in runs)
    now = float(time_score.measured_in(runs[-1])[-1])
    times = [*previous, min(running, now)]
    all_times = [*times, *[now] * (n_seeds - len(times))]
    for candidate in (times, all_times):  # from four runs on, the interquartile mean leaves out the slowest
        average = float(iqm([np.array(candidate)]))
        if math.isfinite(average):
            return _inverse_time(score, average)
    return -_distance_to_threshold(runs[:-1], len(runs), scale)


def _inverse_time(score: ScoreKind, time: float) -> float:
    return _TIME_SCORES[score].per / max(time, 1e-9)


def _distance_to_threshold(runs: Sequence[Evaluations], n_runs: int, scale: Scale) -> float:
    """
    How far the best evaluations stayed below the threshold, as a fraction of the way from a random policy, or of
    the threshold where nobody knows what that one returns. The mean is over ``n_runs``: those that are not among
    ``runs`` have reached it.
    """
    threshold = _threshold(scale)
    distance = sum(max(threshold - float(run.means.max()), 0.0) for run in runs)
    way = max(abs(threshold), 1.0) if scale.random is None else threshold - scale.random
    return distance / n_runs / way


def is_settled(score: ScoreKind, run: Evaluations, scale: Scale) -> bool:
    """:return: Whether the rest of a run cannot change its score: a time is settled when the threshold is reached"""
    return is_time(score) and math.isfinite(score_of_run(score, run, scale))


def time_of(score: ScoreKind, trial_value: float) -> float:
    """:return: The time to the threshold that the value of a trial stands for, infinite if it has none"""
    return _TIME_SCORES[score].per / trial_value if trial_value > 0 else math.inf


def score_of_failed_run(score: ScoreKind) -> float:
    """:return: The worst score: that of a run that did not finish"""
    return math.inf if is_time(score) else -math.inf


def higher_is_better(score: ScoreKind, scores: Array) -> Array:
    """:return: Scores of runs, with their sign changed if less is better"""
    return -scores if is_time(score) else scores


def describe(score: ScoreKind, trial_value: float) -> str:
    """:return: The value of a trial, in words"""
    if not is_time(score):
        return f"{trial_value:.1f}"
    if trial_value <= 0:
        return f"threshold not reached, {-trial_value:.0%} of the way left"
    time_score = _TIME_SCORES[score]
    return f"{time_of(score, trial_value):,.{time_score.digits}f} {time_score.unit} to the threshold"


def _threshold(scale: Scale) -> float:
    assert scale.threshold is not None
    return scale.threshold
