"""What a reader has to know about the numbers: what is missing or left out, and in what the runs are unequal."""

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from sb3_ddpg_ext.report.analysis import Comparison
from sb3_ddpg_ext.report.groups import Group, common_range, conditions
from sb3_ddpg_ext.results.records import AXES

_WAITING = 1.5
"""Ratio of wall-clock time to CPU time above which a run is said to have waited."""

_TIMES_DIFFER = "Seconds are not comparable between them."
_CONSEQUENCES: Mapping[str, str] = {
    "threads": _TIMES_DIFFER,
    "device": _TIMES_DIFFER,
    "machine": _TIMES_DIFFER,
    "versions": "Some differences may be due to the libraries.",
    "final episodes": "Their final scores are from different episodes.",
}
"""For each of the conditions of a run, what it means if runs differ in it."""


def notes(comparison: Comparison) -> tuple[str, ...]:
    """
    :param comparison: The comparison
    :return: A sentence or two for everything that is missing, broken, unequal or left out
    """
    environments = [
        note
        for env in comparison.envs
        for note in itertools.chain(
            _runs(comparison, env),
            _seeds(comparison, env),
            _evaluations(comparison, env),
            _times(comparison, env),
            _scale(comparison, env),
        )
    ]
    return (*_not_counted(comparison), *environments, *_aggregates(comparison), *_conditions(comparison))


def _not_counted(comparison: Comparison) -> Iterator[str]:
    for run in comparison.runs:
        if not run.is_finished:
            yield f"{run.name}: {run.status} ({run.reason}). It is in no statistic."
    if any(run.status == "failed" for run in comparison.runs):
        yield "Failed runs have no scores, so an algorithm that sometimes fails looks better than it is."
    counted = {run.name for group in comparison.groups.values() for run in group.runs}
    for run in comparison.runs:
        if run.is_finished and run.name not in counted:
            yield (
                f"{run.name}: there is another run of {run.label} on {run.env} with seed {run.seed}. This one does not "
                "count."
            )


def _groups_on(comparison: Comparison, env: str) -> dict[str, Group]:
    return {label: group for (group_env, label), group in comparison.groups.items() if group_env == env}


def _runs(comparison: Comparison, env: str) -> Iterator[str]:
    for label, group in _groups_on(comparison, env).items():
        if len(group.runs) == 1:
            yield f"{env}: {label} has one run, so its intervals are not defined."
        if not any(run.updates for run in group.runs):
            yield f"{env}: {label} did not learn: no run made a single update. Does learning start after the last step?"
        if any(run.settings != group.runs[0].settings for run in group.runs):
            yield f"{env}: the runs of {label} were not all made with the same settings."
        compared = f"runs {'on' if comparison.equal == 'steps' else f'of {label} on'} {env} are compared"
        for run in group.runs:
            done = f"{run.length:,}" + (f" of {run.planned_steps:,}" if run.length < run.planned_steps else "")
            differs = f"{run.name}: {done} steps, but {compared} after {group.budget:,}."
            if run.length < group.budget:
                yield f"{differs} It has a curve but no scores."
            elif run.length > group.budget:
                yield f"{differs} Its areas and times end there; it has no final score and no speed."
            if run.evaluations is None or len(run.evaluations.steps) < 2:
                yield f"{run.name}: fewer than two evaluations. It has no curve and no areas."


def _seeds(comparison: Comparison, env: str) -> Iterator[str]:
    groups = _groups_on(comparison, env)
    seeds = {run.seed for group in groups.values() for run in group.runs}
    if absent := [label for label in comparison.labels if label not in groups]:
        yield f"{env}: no finished runs of {'; '.join(absent)}."
    for label, group in groups.items():
        missing = sorted(seeds - {run.seed for run in group.runs})
        if missing:
            yield (
                f"{env}: {label} has no finished run with seed{'s' * (len(missing) > 1)} "
                f"{', '.join(map(str, missing))}, but others have. Runs are not paired by seed, so its other runs are "
                "compared all the same."
            )


def _evaluations(comparison: Comparison, env: str) -> Iterator[str]:
    protocols = [
        (f"{e.returns.shape[0]} x {e.returns.shape[1]} episodes", label)
        for label, group in _groups_on(comparison, env).items()
        for e in group.evaluations
    ]
    if differing := _differing(protocols):
        yield (
            f"{env}: not all runs have the same evaluations: {differing}. With fewer evaluations a threshold is "
            "noticed later; with fewer episodes in each it is more often reached by chance."
        )


def _times(comparison: Comparison, env: str) -> Iterator[str]:
    groups = _groups_on(comparison, env)
    waiting = Counter(
        label for label, group in groups.items() for run in group.runs if run.seconds.train > _WAITING * run.seconds.cpu
    )
    if waiting:
        yield (
            f"{env}: {_counts(waiting)} took more than {_WAITING} times their CPU seconds. If they waited for busy "
            "cores, and not for their environment, their CPU seconds may be up to a quarter too long."
        )
    _, end = comparison.ranges[env]["seconds"]
    if comparison.equal == "seconds" and math.isfinite(end):
        steps = ", ".join(
            f"{label} {np.median([np.interp(end, e.cpu_seconds, e.steps) for e in group.evaluations]):,.0f}"
            for label, group in groups.items()
            if group.evaluations
        )
        yield (
            f"{env}: algorithms are compared after {end:.3g} CPU seconds, when the fastest run ended. Steps by then, "
            f"in the median: {steps}."
        )
    late = Counter(
        label
        for label, group in groups.items()
        for e in group.evaluations
        if len(e.steps) > 1 and e.cpu_seconds[0] > end
    )
    if late:
        yield (
            f"{env}: {_counts(late)} had no evaluation yet when the fastest run ended, after {end:.3g} CPU seconds. "
            "Their areas over seconds are the values of their first evaluations."
        )
    for label, group in groups.items():
        for axis, x in AXES.items():
            low, high = common_range(group.curves, x)
            if group.curves and not low < high:
                what = "CPU seconds" if axis == "seconds" else axis
                yield f"{env}: the runs of {label} have no {what} in common, so it has no curve over them."


def _scale(comparison: Comparison, env: str) -> Iterator[str]:
    scale = comparison.scale_of(env)
    if not scale.can_normalise:
        yield (
            f"{env} is not in the normalisation table. Scores of all environments do not include it, unless a file for "
            "--scales has it; probabilities of improvement, which need no normalisation, do."
        )
    if scale.threshold is None:
        yield f"{env}: it has no threshold, so there are no times to one."


def _aggregates(comparison: Comparison) -> Iterator[str]:
    if len(comparison.envs) < 2:
        return
    ran = {label: [env for env in comparison.envs if (env, label) in comparison.groups] for label in comparison.labels}
    if absent := [label for label, envs in ran.items() if len(envs) < len(comparison.envs)]:
        labels = "; ".join(absent)
        yield f"Results on several environments leave out algorithms that were not run on all of them: {labels}."
    without = [env for env in comparison.envs if env not in ran[comparison.baseline]]
    if without:
        yield (
            f"{comparison.baseline}, the baseline, was not run on {', '.join(without)}: nothing is compared with it "
            "there, nor on all environments together."
        )
    for label, envs in ran.items():
        titles_by_missing: dict[str, list[str]] = {}
        for score, title in comparison.scores.items():
            missing = ", ".join(env for env in envs if not comparison.strata(score, label, [env]))
            titles_by_missing.setdefault(missing, []).append(title.lower())
        for missing, titles in titles_by_missing.items():
            if missing:
                yield (
                    f"{label} has no {' and no '.join(titles)} on {missing}: it is left out of such results on several "
                    "environments."
                )


def _conditions(comparison: Comparison) -> Iterator[str]:
    finished = [run for run in comparison.runs if run.is_finished]
    for condition, consequence in _CONSEQUENCES.items():
        if differing := _differing([(conditions(run)[condition], run.label) for run in finished]):
            yield f"Not all runs have the same {condition}: {differing}. {consequence}"


def _counts(labels: Counter[str]) -> str:
    return ", ".join(f"{n} of {label}" for label, n in labels.items())


def _differing(values: Sequence[tuple[str, str]]) -> str:
    """
    :param values: Of each run, its value and its label
    :return: The values, and how many runs of which label have each; empty if all runs have the same
    """
    if len({value for value, _ in values}) < 2:
        return ""
    labels: dict[str, Counter[str]] = {}
    for value, label in values:
        labels.setdefault(value, Counter())[label] += 1
    return "; ".join(f"{value} ({_counts(counts)})" for value, counts in labels.items())
