"""
The evaluations of a trial's runs -> one number, the higher the better, at any time of the trial.

The average over runs is the interquartile mean of the reports (the mean of up to three runs). Runs that never reach the
threshold take infinitely long; a trial in whose middle half there is such a run has no time, and is scored below all
that have one, by how far its runs fell short.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from sb3_ddpg_ext.errors import SettingsError
from sb3_ddpg_ext.results.records import AXES, Array, Evaluations
from sb3_ddpg_ext.results.scales import SCALES, Scale, scale_of, threshold_of
from sb3_ddpg_ext.results.statistics import area, first_at, iqm

SCORES: Mapping[str, str] = {
    "final": "final return",
    "area": "area under the curve over steps",
    "steps": "steps to the threshold",
    "seconds": "CPU seconds of training to the threshold",
}
"""The scores, and what they are of a run. Of the last two, less is better."""

# What a study maximises is how often the threshold would be reached in so many steps or seconds
_PER = {"steps": 1_000_000, "seconds": 3_600}


def check(score: str, env: str) -> None:
    """
    :param score: A name in :data:`SCORES`
    :param env: Id of the environment
    :raises SettingsError: If the score needs a threshold and the environment has none
    """
    if score in _PER and threshold_of(env) is None:
        known = ", ".join(name for name, scale in SCALES.items() if scale.threshold is not None)
        raise SettingsError(
            f"--score {score} needs a threshold, which {env} does not have; use final or area, or: {known}"
        )


def measure(score: str, run: Evaluations, env: str) -> float:
    """
    The score of one run: a return, or a time, infinite if the threshold was not reached.

    :param score: A name in :data:`SCORES`
    :param run: The evaluations so far
    :param env: Id of the environment
    :return: The score
    """
    if score == "final":
        return float(run.means[-1])
    if score == "area":
        return area(run.steps, run.means, run.steps[0], run.steps[-1]) if len(run.steps) > 1 else float(run.means[0])
    return first_at(AXES[score](run), run.means, _threshold(env)[0])


def value(score: str, runs: Sequence[Evaluations], env: str) -> float:
    """
    The value of a trial, whose last run may be at any point.

    :param score: A name in :data:`SCORES`
    :param runs: The evaluations of its runs so far
    :param env: Id of the environment
    :return: What the study maximises: a return; or how often the threshold would be reached in a million steps or an
        hour; or, below zero, how far from it the runs remained, where a random policy is at -1
    """
    average = float(iqm([np.array([measure(score, run, env) for run in runs])]))
    if score not in _PER:
        return average
    if math.isfinite(average):
        return _PER[score] / max(average, 1e-9)
    return _missed(runs, len(runs), env)


def _missed(runs: Sequence[Evaluations], number: int, env: str) -> float:
    """How far runs remained from the threshold, of a number of them; the others are there."""
    threshold, scale = _threshold(env)
    missed = sum(max(threshold - float(run.means.max()), 0.0) for run in runs)
    return -missed / number / (threshold - scale.random)


def bound(score: str, runs: Sequence[Evaluations], env: str, seeds: int) -> float:
    """
    The value that a trial has if its last run, which is not over, reaches the threshold now.

    :param score: A name in :data:`SCORES` that is a time
    :param runs: The evaluations of its runs so far
    :param env: Id of the environment
    :param seeds: How many runs it is to have
    :return: Its value then; where earlier runs have missed the threshold, as if those to come took no longer than the
        last
    """
    *before, running = (measure(score, run, env) for run in runs)
    now = float(AXES[score](runs[-1])[-1])
    times = [*before, min(running, now)]
    for times_then in (times, [*times, *[now] * (seeds - len(times))]):  # of four runs and more the slowest are cut off
        average = float(iqm([np.array(times_then)]))
        if math.isfinite(average):
            return _PER[score] / max(average, 1e-9)
    return _missed(runs[:-1], len(runs), env)


def is_known(score: str, run: Evaluations, env: str) -> bool:
    """:return: Whether the rest of a run cannot change its score: where that is a time, once it is there"""
    return is_time(score) and math.isfinite(measure(score, run, env))


def time_of(score: str, trial_value: float) -> float:
    """:return: The time that the value of a trial stands for, infinite if it has none"""
    return _PER[score] / trial_value if trial_value > 0 else math.inf


def worst(score: str) -> float:
    """:return: What a run counts that did not get to its end"""
    return math.inf if score in _PER else -math.inf


def ascending(score: str, scores: Array) -> Array:
    """:return: Scores of runs, turned so that more is better"""
    return -scores if score in _PER else scores


def describe(score: str, trial_value: float) -> str:
    """:return: The value of a trial, for people"""
    if score not in _PER:
        return f"{trial_value:.1f}"
    if trial_value <= 0:
        return f"threshold not reached, {-trial_value:.0%} of the way left"
    unit = "steps" if score == "steps" else "CPU s"
    return f"{time_of(score, trial_value):,.{0 if score == 'steps' else 1}f} {unit} to the threshold"


def is_time(score: str) -> bool:
    """:return: Whether a run's score is a time to the threshold"""
    return score in _PER


def _threshold(env: str) -> tuple[float, Scale]:
    scale = scale_of(env)
    assert scale is not None
    assert scale.threshold is not None
    return scale.threshold, scale
