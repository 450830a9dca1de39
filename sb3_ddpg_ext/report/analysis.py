"""
Records -> everything that the report says, in numbers and notes.

What is compared with what:

- Only finished runs are in statistics. Of several with one label, environment and seed the first counts.
- The *budget* of an environment is the number of steps that most of its finished runs were to do (of equally frequent
  ones the smallest). Shorter runs have curves but no scores; longer ones are scored up to the budget, without a final
  score.
- Areas are taken between the earliest first and the earliest last evaluation of all runs on an environment, so that all
  are averages over the same steps, or the same seconds. Before its own first evaluation a curve is as high as there,
  which flatters the slower ones.
- Seconds are of CPU time: runs that share a machine's cores with one another, or with somebody else, wait for them,
  which says nothing about an algorithm. (Busy neighbours slow caches and memory all the same, by up to a fifth or
  a quarter in runs that had much of it.)
- All environments together: scores normalised by :data:`sb3_ddpg_ext.report.scales.SCALES`, for the algorithms that
  have scores on every environment of that table.

Whatever is left out of something is named by :mod:`sb3_ddpg_ext.report.notes`.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from sb3_ddpg_ext.report import statistics
from sb3_ddpg_ext.report.records import Array, Evaluations, Run
from sb3_ddpg_ext.report.scales import SCALES
from sb3_ddpg_ext.report.statistics import Estimate
from sb3_ddpg_ext.settings import SettingsError

SCORES: Mapping[str, str] = {
    "final": "Final score",
    "steps": "Area under the curve over steps",
    "seconds": "Area under the curve over seconds",
}
"""The scores of a run, and their titles."""


@dataclass(frozen=True, eq=False)
class Group:
    """
    The runs of one algorithm on one environment.

    :param label: The algorithm
    :param env: The environment
    :param runs: All its finished runs
    :param scores: For each of :data:`SCORES` those of the runs that have one, ``[runs]``
    :param steps_to: Steps to the environment's threshold, infinity where it was not reached, ``[runs]``
    :param seconds_to: CPU seconds of training to it, ``[runs]``
    :param pace: Environment steps per CPU second of training, ``[runs]``
    :param updates: Gradient steps for each environment step, ``[runs]``
    """

    label: str
    env: str
    runs: tuple[Run, ...]
    scores: Mapping[str, Array]
    steps_to: Array
    seconds_to: Array
    pace: Array
    updates: Array


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
    :param groups: The finished runs, by environment and label
    :param seed: Seed of each bootstrap
    """

    runs: tuple[Run, ...]
    labels: tuple[str, ...]
    baseline: str
    budgets: Mapping[str, int]
    groups: Mapping[tuple[str, str], Group]
    seed: int

    @property
    def envs(self) -> tuple[str, ...]:
        """The environments that have finished runs"""
        return tuple(self.budgets)

    @property
    def scaled(self) -> tuple[str, ...]:
        """Those of them whose scores can be normalised"""
        return tuple(env for env in self.envs if env in SCALES)

    def normalised(self, score: str, label: str) -> list[Array]:
        """:return: Normalised scores of an algorithm on :attr:`scaled`; nothing if it lacks one of them"""
        strata = self.strata(score, label, self.scaled)
        return [SCALES[env].normalise(s) for env, s in zip(self.scaled, strata, strict=False)]

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
                    if metric is not statistics.optimality_gap:
                        estimates[name] = self.estimate(metric, strata)
                    elif env is None or env in SCALES:
                        scaled = strata if env is None else [SCALES[env].normalise(strata[0])]
                        estimates[name] = self.estimate(metric, scaled)
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
                # Holm's first step multiplies by the number of tests
                rows = [
                    replace(row, holm=p, smallest=min(1.0, row.smallest * len(rows)))
                    for row, p in zip(rows, adjusted, strict=True)
                ]
            yield from rows

    @cached_property
    def threshold_rows(self) -> tuple[ThresholdRow, ...]:
        """A row for each environment with a threshold and each algorithm"""
        rows = []
        for (env, label), group in self.groups.items():
            threshold = SCALES[env].threshold if env in SCALES else None
            if threshold is not None and len(group.steps_to):
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


def compare(runs: Sequence[Run], baseline: str | None = None, seed: int = 0) -> Comparison:
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
    finished: dict[tuple[str, str], dict[int, Run]] = {}
    for run in runs:
        if run.status == "finished":
            finished.setdefault((run.env, run.label), {}).setdefault(run.seed, run)
    budgets: dict[str, int] = {}
    groups: dict[tuple[str, str], Group] = {}
    for env in sorted({env for env, _ in finished}):
        here = {label: tuple(finished[env, label].values()) for label in labels if (env, label) in finished}
        frequency = Counter(run.planned_steps for group in here.values() for run in group)
        budgets[env] = min(frequency, key=lambda steps: (-frequency[steps], steps))
        groups |= _groups(env, here, budgets[env])
    return Comparison(tuple(runs), labels, baseline, budgets, groups, seed)


def _groups(env: str, runs: Mapping[str, tuple[Run, ...]], budget: int) -> dict[tuple[str, str], Group]:
    """The groups of one environment."""
    evaluations = {
        label: [e for run in group if run.planned_steps >= budget and (e := _until(run, budget))]
        for label, group in runs.items()
    }
    everyone = [e for group in evaluations.values() for e in group if len(e.steps) > 1]
    threshold = SCALES[env].threshold if env in SCALES else None
    groups = {}
    for label, group in runs.items():
        in_time = [run for run in group if run.planned_steps == budget]
        reached = [] if threshold is None else evaluations[label]
        groups[env, label] = Group(
            label,
            env,
            group,
            {
                "final": np.array([run.returns.mean() for run in in_time if run.returns is not None]),
                "steps": _areas(evaluations[label], [e.steps for e in everyone], lambda e: e.steps),
                "seconds": _areas(evaluations[label], [e.cpu_seconds for e in everyone], lambda e: e.cpu_seconds),
            },
            np.array([statistics.first_at(e.steps, e.means, threshold or 0) for e in reached]),
            np.array([statistics.first_at(e.cpu_seconds, e.means, threshold or 0) for e in reached]),
            np.array([run.steps / run.cpu_seconds for run in in_time]),
            np.array([run.updates / run.steps for run in in_time]),
        )
    return groups


def _until(run: Run, budget: int) -> Evaluations | None:
    """The evaluations up to the budget, None if there are none."""
    if run.evaluations is None:
        return None
    e = run.evaluations
    # The last evaluation comes with the end of the last rollout, which may be some steps after the budget
    n = len(e.steps) if run.planned_steps == budget else int((e.steps <= budget).sum())
    return Evaluations(e.steps[:n], e.seconds[:n], e.cpu_seconds[:n], e.returns[:n]) if n else None


def _areas(evaluations: list[Evaluations], everyone: list[Array], x: Callable[[Evaluations], Array]) -> Array:
    """Areas from where the first of all curves on the environment begins to where the first of them ends."""
    low, high = min((e[0] for e in everyone), default=0.0), min((e[-1] for e in everyone), default=0.0)
    return np.array([statistics.area(x(e), e.means, low, high) for e in evaluations if len(e.steps) > 1])
