"""
Records -> everything that the report says, in numbers and notes.

What is compared with what:

- Only finished runs are in statistics. Of several with one label, environment and seed the first counts.
- The *budget* of an environment is the number of steps that most of its finished runs did (of equally frequent ones
  the smallest). Shorter runs have curves but no scores; longer ones are scored up to the budget, without a final score
  and without their speed.
- Areas over steps are taken between the latest first and the earliest last evaluation of all runs on an environment, so
  that all are averages over the same steps. Areas over seconds begin with the earliest first evaluation, for the
  fastest may be done before the slowest has its first; before its own first a curve is as high as there.
- Seconds are of CPU time: runs that share a machine's cores with one another, or with somebody else, wait for them,
  which says nothing about an algorithm. (Busy neighbours slow caches and memory all the same, by up to a fifth or
  a quarter in runs that had much of it.)
- All environments together: scores normalised by :data:`sb3_ddpg_ext.results.scales.SCALES`, for the algorithms that
  have scores on every environment of that table.

Whatever is left out of something is named by :mod:`sb3_ddpg_ext.report.notes`.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from sb3_ddpg_ext.errors import SettingsError
from sb3_ddpg_ext.results import statistics
from sb3_ddpg_ext.results.records import AXES, Array, Evaluations, RunRecord
from sb3_ddpg_ext.results.scales import scale_of, threshold_of
from sb3_ddpg_ext.results.statistics import Estimate

SCORES: Mapping[str, str] = {
    "final": "Final score",
    "area_over_steps": "Area under the curve over steps",
    "area_over_seconds": "Area under the curve over seconds",
}
"""The scores of a run, and their titles."""


@dataclass(frozen=True, eq=False)
class Group:
    """
    The runs of one algorithm on one environment.

    :param label: The algorithm
    :param env: The environment
    :param runs: All its finished runs
    :param evaluations: Up to the budget, of those that are long enough
    :param scores: For each of :data:`SCORES` those of the runs that have one, ``[runs]``
    :param steps_to: Steps to the environment's threshold, infinity where it was not reached, ``[runs]``
    :param seconds_to: CPU seconds of training to it, ``[runs]``
    :param pace: Environment steps per CPU second of training, ``[runs]``
    :param updates: Gradient steps for each environment step, ``[runs]``
    """

    label: str
    env: str
    runs: tuple[RunRecord, ...]
    evaluations: tuple[Evaluations, ...]
    scores: Mapping[str, Array]
    steps_to: Array
    seconds_to: Array
    pace: Array
    updates: Array

    @property
    def curves(self) -> tuple[Evaluations, ...]:
        """The evaluations of all runs that have two at least, beyond the budget, too"""
        return tuple(e for run in self.runs if (e := run.evaluations) is not None and len(e.steps) > 1)


@dataclass(frozen=True)
class ScoreRow:
    """Aggregates of one algorithm's scores on an environment, or normalised on all (``env`` is None)."""

    env: str | None
    label: str
    runs: int
    estimates: Mapping[str, Estimate]


@dataclass(frozen=True)
class ImprovementRow:
    """
    One algorithm against the baseline: the probability of improvement, and on one environment the test's p-value, the
    same after Holm's correction, and what that could have been at least.
    """

    env: str | None
    label: str
    runs: int
    baseline_runs: int
    probability: Estimate
    p: float = np.nan
    holm: float = np.nan
    smallest: float = np.nan


@dataclass(frozen=True)
class ThresholdRow:
    """When one algorithm's runs reached an environment's threshold: how many of them did, and the medians."""

    env: str
    label: str
    threshold: float
    reached: int
    runs: int
    steps: Estimate
    seconds: Estimate


@dataclass(frozen=True)
class PaceRow:
    """
    Environment steps per CPU second of training (IQM), and how many times the baseline's that is; on all environments
    (``env`` is None) the geometric mean of these ratios. Gradient steps for each environment step (mean).
    """

    env: str | None
    label: str
    runs: int
    pace: Estimate
    speedup: Estimate
    updates: float


@dataclass(frozen=True, eq=False)
class Comparison:
    """
    Everything that the report says.

    :param runs: All runs
    :param labels: All algorithms, also those without a finished run
    :param baseline: The one that the others are compared with
    :param budgets: Steps of each environment that has finished runs
    :param windows: From where to where areas are taken, by environment, over each of
        :data:`sb3_ddpg_ext.results.records.AXES`
    :param groups: The finished runs, by environment and label
    :param seed: Seed of each bootstrap
    """

    runs: tuple[RunRecord, ...]
    labels: tuple[str, ...]
    baseline: str
    budgets: Mapping[str, int]
    windows: Mapping[str, Mapping[str, tuple[float, float]]]
    groups: Mapping[tuple[str, str], Group]
    seed: int

    @property
    def envs(self) -> tuple[str, ...]:
        """The environments that have finished runs"""
        return tuple(self.budgets)

    @property
    def scaled(self) -> tuple[str, ...]:
        """Those of them whose scores can be normalised"""
        return tuple(env for env in self.envs if scale_of(env) is not None)

    def normalised(self, score: str, label: str) -> list[Array]:
        """:return: Normalised scores of an algorithm on :attr:`scaled`; nothing if it lacks one of them"""
        scales = filter(None, map(scale_of, self.envs))
        strata = self.strata(score, label, self.scaled)
        return [scale.normalise(scores) for scale, scores in zip(scales, strata, strict=False)]

    def strata(self, score: str, label: str, envs: Sequence[str]) -> list[Array]:
        """:return: Scores of an algorithm on some environments, ``[runs]`` each; nothing if it lacks one of them"""
        groups = [self.groups.get((env, label)) for env in envs]
        strata = [group.scores[score] for group in groups if group is not None and len(group.scores[score])]
        return strata if len(strata) == len(envs) else []

    def estimate(self, statistic: Callable[[list[Array]], Array], strata: Sequence[Array]) -> Estimate:
        """:return: A statistic with its interval; what the others are does not change it"""
        return statistics.estimate(statistic, strata, np.random.default_rng(self.seed))

    @cached_property
    def score_rows(self) -> Mapping[str, tuple[ScoreRow, ...]]:
        """Per score: a row for each environment and algorithm, after those of all environments"""
        return {score: tuple(self._score_rows(score)) for score in SCORES}

    def _score_rows(self, score: str) -> Iterator[ScoreRow]:
        scopes: list[str | None] = [None] if len(self.scaled) > 1 else []
        for env in [*scopes, *self.envs]:
            for label in self.labels:
                strata = self.normalised(score, label) if env is None else self.strata(score, label, [env])
                if not strata:
                    continue
                estimates = {}
                for name, metric in statistics.METRICS.items():
                    if metric is not statistics.optimality_gap or env is None:
                        estimates[name] = self.estimate(metric, strata)
                    elif (scale := scale_of(env)) is not None:
                        estimates[name] = self.estimate(metric, [scale.normalise(strata[0])])
                yield ScoreRow(env, label, sum(map(len, strata)), estimates)

    @cached_property
    def improvement_rows(self) -> Mapping[str, tuple[ImprovementRow, ...]]:
        """Per score: a row for each environment and algorithm but the baseline, after those of all environments"""
        return {score: tuple(self._improvement_rows(score)) for score in SCORES}

    def _improvement_rows(self, score: str) -> Iterator[ImprovementRow]:
        others = [label for label in self.labels if label != self.baseline]
        scopes: list[str | None] = [None] if len(self.envs) > 1 else []
        for env in [*scopes, *self.envs]:
            envs = self.envs if env is None else [env]
            theirs = self.strata(score, self.baseline, envs)
            rows = []
            for label in others:
                if not (ours := self.strata(score, label, envs)) or not theirs:
                    continue
                probability = self.estimate(statistics.probability_of_improvement, [*ours, *theirs])
                row = ImprovementRow(env, label, sum(map(len, ours)), sum(map(len, theirs)), probability)
                if env is not None:
                    p = statistics.mann_whitney(ours[0], theirs[0], np.random.default_rng(self.seed))
                    row = replace(row, p=p, smallest=statistics.smallest_p(len(ours[0]), len(theirs[0])))
                rows.append(row)
            if env is not None:
                adjusted = statistics.holm([row.p for row in rows])
                smallest = statistics.holm([row.smallest for row in rows])  # it falls with each p
                rows = [
                    replace(row, holm=p, smallest=least) for row, p, least in zip(rows, adjusted, smallest, strict=True)
                ]
            yield from rows

    @cached_property
    def threshold_rows(self) -> tuple[ThresholdRow, ...]:
        """A row for each environment with a threshold and each algorithm"""
        rows = []
        for (env, label), group in self.groups.items():
            if (threshold := threshold_of(env)) is not None and len(group.steps_to):
                steps, seconds = (self.estimate(statistics.median, [x]) for x in (group.steps_to, group.seconds_to))
                reached = int(np.isfinite(group.steps_to).sum())
                rows.append(ThresholdRow(env, label, threshold, reached, len(group.steps_to), steps, seconds))
        return tuple(rows)

    @cached_property
    def pace_rows(self) -> tuple[PaceRow, ...]:
        """A row for each environment and algorithm, after those of all environments"""
        return tuple(self._pace_rows())

    def _pace_rows(self) -> Iterator[PaceRow]:
        scopes: list[str | None] = [None] if len(self.envs) > 1 else []
        for env in [*scopes, *self.envs]:
            envs = self.envs if env is None else [env]
            theirs = self._paces(self.baseline, envs)
            for label in self.labels:
                if ours := self._paces(label, envs):
                    pace = self.estimate(statistics.iqm, ours) if env is not None else Estimate(np.nan)
                    speedup = Estimate(np.nan)
                    if theirs and label != self.baseline:
                        speedup = self.estimate(statistics.ratio, [*ours, *theirs])
                    updates = float(np.mean([self.groups[where, label].updates.mean() for where in envs]))
                    yield PaceRow(env, label, sum(map(len, ours)), pace, speedup, updates)

    def _paces(self, label: str, envs: Sequence[str]) -> list[Array]:
        paces = [self.groups[env, label].pace for env in envs if (env, label) in self.groups]
        return paces if len(paces) == len(envs) and all(map(len, paces)) else []


def compare(runs: Sequence[RunRecord], baseline: str | None = None, seed: int = 0) -> Comparison:
    """
    Compare algorithms.

    :param runs: All runs, in the order of labels, environments and seeds
    :param baseline: Label of the algorithm that the others are compared with; ``ddpg`` if there is one, otherwise the
        first
    :param seed: Seed of the bootstrap
    :return: The comparison
    :raises SettingsError: If there is no such baseline
    """
    labels = tuple(dict.fromkeys(run.label for run in runs))
    if baseline is None:
        baseline = "ddpg" if "ddpg" in labels else labels[0]
    if baseline not in labels:
        raise SettingsError(f"baseline {baseline!r} has no runs here; there are: {', '.join(map(repr, labels))}")
    finished: dict[tuple[str, str], dict[int, RunRecord]] = {}
    for run in runs:
        if run.is_finished:
            finished.setdefault((run.env, run.label), {}).setdefault(run.seed, run)
    budgets: dict[str, int] = {}
    windows: dict[str, Mapping[str, tuple[float, float]]] = {}
    groups: dict[tuple[str, str], Group] = {}
    for env in sorted({env for env, _ in finished}):
        here = {label: tuple(finished[env, label].values()) for label in labels if (env, label) in finished}
        frequency = Counter(run.length for group in here.values() for run in group)
        budgets[env] = min(frequency, key=lambda steps: (-frequency[steps], steps))
        evaluations = {
            label: tuple(e for run in group if run.length >= budgets[env] and (e := _until(run, budgets[env])))
            for label, group in here.items()
        }
        windows[env] = _windows([e for group in evaluations.values() for e in group if len(e.steps) > 1])
        for label, group in here.items():
            groups[env, label] = _group(label, env, group, evaluations[label], budgets[env], windows[env])
    return Comparison(tuple(runs), labels, baseline, budgets, windows, groups, seed)


def _windows(evaluations: Sequence[Evaluations]) -> Mapping[str, tuple[float, float]]:
    _, end = common(evaluations, AXES["seconds"])
    start = min((e.cpu_seconds[0] for e in evaluations), default=np.inf)
    return {"steps": common(evaluations, AXES["steps"]), "seconds": (start, end)}


def _group(
    label: str,
    env: str,
    runs: tuple[RunRecord, ...],
    evaluations: tuple[Evaluations, ...],
    budget: int,
    windows: Mapping[str, tuple[float, float]],
) -> Group:
    in_time = [run for run in runs if run.length == budget]
    threshold = threshold_of(env)
    reached = () if threshold is None else evaluations
    return Group(
        label,
        env,
        runs,
        evaluations,
        {
            "final": np.array([run.score.mean for run in in_time if run.score is not None]),
            **{f"area_over_{axis}": _areas(evaluations, AXES[axis], *window) for axis, window in windows.items()},
        },
        np.array([statistics.first_at(e.steps, e.means, threshold or 0) for e in reached]),
        np.array([statistics.first_at(e.cpu_seconds, e.means, threshold or 0) for e in reached]),
        np.array([run.steps / run.seconds.cpu for run in in_time]),
        np.array([run.updates / run.steps for run in in_time]),
    )


def _until(run: RunRecord, budget: int) -> Evaluations | None:
    """The evaluations up to the budget, None if there are none."""
    if run.evaluations is None:
        return None
    e = run.evaluations
    # The last evaluation comes with the end of the last rollout, which may be some steps after the budget
    n = len(e.steps) if run.length == budget else int((e.steps <= budget).sum())
    return e.first(n) if n else None


def common(evaluations: Sequence[Evaluations], x: Callable[[Evaluations], Array]) -> tuple[float, float]:
    """
    :param evaluations: Of several runs
    :param x: Their steps, or seconds
    :return: From where to where all are known; the second is not greater than the first if there is nothing
    """
    return max((x(e)[0] for e in evaluations), default=np.inf), min((x(e)[-1] for e in evaluations), default=np.inf)


def _areas(evaluations: Sequence[Evaluations], x: Callable[[Evaluations], Array], low: float, high: float) -> Array:
    if not low < high:
        return np.empty(0)
    return np.array([statistics.area(x(e), e.means, low, high) for e in evaluations if len(e.steps) > 1])


def conditions(run: RunRecord) -> dict[str, str]:
    """:return: How a finished run was made, in words: what may explain differences between runs"""
    score = run.score
    return {
        "threads": str(run.threads),
        "device": run.device,
        "machine": ", ".join(f"{key} {value}" for key, value in run.machine.items()),
        "versions": ", ".join(f"{key} {value}" for key, value in run.versions.items()),
        "final episodes": "none" if score is None else f"{len(score.returns)} from seed {score.seed}",
    }
