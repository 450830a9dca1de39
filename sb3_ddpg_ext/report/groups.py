"""
Runs -> groups: for each environment and algorithm the scores, times and speeds that are compared.

The rules:

- Only finished runs are grouped. Of several with the same label, environment and seed the first counts.
- The *budget* of an environment is the number of steps that most of its finished runs took (in a tie, the smallest).
  Shorter runs have a learning curve but no scores. Longer runs are scored on their evaluations up to the budget, and
  have no final score and no speed.
- Where algorithms are compared at equal seconds, each has a budget of its own. In the place of final scores, which are
  from after different times, there are those after the same time: at the end of the areas over seconds.
- Areas over steps cover the same steps for all runs on an environment: from the latest first evaluation to the earliest
  last one.
- Areas over seconds go from the earliest first evaluation to the earliest last one. A run without an evaluation at the
  start of that range counts with the value of its first one until then: the fastest run may end before the slowest has
  been evaluated at all.
- Seconds are CPU seconds. Wall-clock time would include waiting for cores that other processes keep busy. (Busy cores
  still slow each other down through caches and memory: by up to a quarter in the runs where we measured it.)

:mod:`sb3_ddpg_ext.report.notes` names every run that is left out of something.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from sb3_ddpg_ext.results import statistics
from sb3_ddpg_ext.results.records import AXES, Array, Evaluations, RunRecord
from sb3_ddpg_ext.results.scales import Scale, scale_of

Equal = Literal["steps", "seconds"]
"""What the algorithms on an environment are given the same number of."""

SCORES: Mapping[Equal, Mapping[str, str]] = {
    "steps": {
        "final": "Final score",
        "area_over_steps": "Area under the curve over steps",
        "area_over_seconds": "Area under the curve over seconds",
    },
    "seconds": {
        "at_equal_seconds": "Score at equal seconds",
        "area_over_seconds": "Area under the curve over seconds",
    },
}
"""The scores of a run, the most important first, and their titles."""

Range = tuple[float, float]


@dataclass(frozen=True, eq=False)
class Group:
    """
    The finished runs of one algorithm on one environment. Runs that are too short for a figure are not in its array, so
    arrays differ in length.

    :param label: The algorithm
    :param env: The environment
    :param runs: All its finished runs
    :param budget: Steps after which they are compared
    :param evaluations: For each run that reached the budget, its evaluations up to the budget
    :param scores: Each of its :data:`SCORES`, ``[runs]``
    :param steps_to_threshold: Steps to the environment's threshold, infinity if it was not reached, ``[runs]``
    :param seconds_to_threshold: CPU seconds of training to the threshold, likewise, ``[runs]``
    :param speed: Environment steps per CPU second of training, ``[runs]``
    :param updates_per_step: Gradient steps per environment step, ``[runs]``
    """

    label: str
    env: str
    runs: tuple[RunRecord, ...]
    budget: int
    evaluations: tuple[Evaluations, ...]
    scores: Mapping[str, Array]
    steps_to_threshold: Array
    seconds_to_threshold: Array
    speed: Array
    updates_per_step: Array

    @property
    def curves(self) -> tuple[Evaluations, ...]:
        """The evaluations, also beyond the budget, of every run with at least two"""
        return tuple(e for run in self.runs if (e := run.evaluations) is not None and len(e.steps) > 1)


class Grouping(NamedTuple):
    """
    :param ranges: For each environment, the range of steps and of seconds over which areas are taken, by the names in
        :data:`sb3_ddpg_ext.results.records.AXES`
    :param groups: By environment and label
    """

    ranges: Mapping[str, Mapping[str, Range]]
    groups: Mapping[tuple[str, str], Group]


def group_runs(runs: Sequence[RunRecord], labels: Sequence[str], scales: Mapping[str, Scale], equal: Equal) -> Grouping:
    """
    Group the finished runs by environment and algorithm.

    :param runs: All runs, finished or not
    :param labels: The algorithms, in the order of the report
    :param scales: Scales by the ids of their environments
    :param equal: What the algorithms have the same number of
    :return: The groups, and what their scores are based on
    """
    finished: dict[tuple[str, str], dict[int, RunRecord]] = {}
    for run in runs:
        if run.is_finished:
            finished.setdefault((run.env, run.label), {}).setdefault(run.seed, run)
    ranges: dict[str, Mapping[str, Range]] = {}
    groups: dict[tuple[str, str], Group] = {}
    for env in sorted({env for env, _ in finished}):
        by_label = {label: tuple(finished[env, label].values()) for label in labels if (env, label) in finished}
        everyone = [run for group in by_label.values() for run in group]
        budgets = {label: _budget(everyone if equal == "steps" else group) for label, group in by_label.items()}
        evaluations = {
            label: tuple(e for run in group if (e := _up_to(budgets[label], run)) is not None)
            for label, group in by_label.items()
        }
        ranges[env] = _ranges([e for group in evaluations.values() for e in group if len(e.steps) > 1])
        for label, group in by_label.items():
            threshold = scale_of(env, scales).threshold
            all_scores = _scores(group, budgets[label], evaluations[label], ranges[env])
            scores = {score: all_scores[score] for score in SCORES[equal]}
            groups[env, label] = _group(label, env, group, budgets[label], evaluations[label], scores, threshold)
    return Grouping(ranges, groups)


def _budget(runs: Sequence[RunRecord]) -> int:
    """The most frequent length; in a tie, the smallest."""
    frequency = Counter(run.length for run in runs)
    return min(frequency, key=lambda length: (-frequency[length], length))


def _up_to(budget: int, run: RunRecord) -> Evaluations | None:
    """A run's evaluations up to the budget; None if there are none, or it is shorter."""
    e = run.evaluations
    if e is None or run.length < budget:
        return None
    # The last rollout is always finished, so the last evaluation may come some steps after the budget
    n = len(e.steps) if run.length == budget else int((e.steps <= budget).sum())
    return e.first(n) if n else None


def _ranges(evaluations: Sequence[Evaluations]) -> Mapping[str, Range]:
    _, end = common_range(evaluations, AXES["seconds"])
    start = min((e.cpu_seconds[0] for e in evaluations), default=np.inf)
    return {"steps": common_range(evaluations, AXES["steps"]), "seconds": (start, end)}


def _scores(
    runs: Sequence[RunRecord], budget: int, evaluations: Sequence[Evaluations], ranges: Mapping[str, Range]
) -> Mapping[str, Array]:
    _, end = ranges["seconds"]
    curves = [e for e in evaluations if len(e.steps) > 1]
    return {
        "final": np.array([run.score.mean for run in runs if run.length == budget and run.score is not None]),
        "at_equal_seconds": np.array([float(np.interp(end, e.cpu_seconds, e.means)) for e in curves]),
        **{f"area_over_{axis}": _areas(curves, AXES[axis], *ranges[axis]) for axis in AXES},
    }


def _group(
    label: str,
    env: str,
    runs: tuple[RunRecord, ...],
    budget: int,
    evaluations: tuple[Evaluations, ...],
    scores: Mapping[str, Array],
    threshold: float | None,
) -> Group:
    full_length = [run for run in runs if run.length == budget]
    times = {
        axis: np.array(
            [] if threshold is None else [statistics.first_at(x(e), e.means, threshold) for e in evaluations]
        )
        for axis, x in AXES.items()
    }
    return Group(
        label,
        env,
        runs,
        budget,
        evaluations,
        scores,
        steps_to_threshold=times["steps"],
        seconds_to_threshold=times["seconds"],
        speed=np.array([run.steps / run.seconds.cpu for run in full_length]),
        updates_per_step=np.array([run.updates / run.steps for run in full_length]),
    )


def common_range(evaluations: Sequence[Evaluations], x: Callable[[Evaluations], Array]) -> Range:
    """
    :param evaluations: Of several runs
    :param x: Their steps, or seconds
    :return: The range that the evaluations of every run cover. It is empty if the second number is not greater than the
        first
    """
    return max((x(e)[0] for e in evaluations), default=np.inf), min((x(e)[-1] for e in evaluations), default=np.inf)


def _areas(evaluations: Sequence[Evaluations], x: Callable[[Evaluations], Array], low: float, high: float) -> Array:
    if not low < high:
        return np.empty(0)
    return np.array([statistics.area(x(e), e.means, low, high) for e in evaluations])


def conditions(run: RunRecord) -> dict[str, str]:
    """:return: The circumstances of a finished run, as text: what may explain differences between runs"""
    score = run.score
    return {
        "threads": str(run.threads),
        "device": run.device,
        "machine": ", ".join(f"{key} {value}" for key, value in run.machine.items()),
        "versions": ", ".join(f"{key} {value}" for key, value in run.versions.items()),
        "final episodes": "none" if score is None else f"{len(score.returns)} from seed {score.seed}",
    }
