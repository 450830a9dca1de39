"""
Groups of runs -> everything that the report says in numbers.

Scores on all environments together are normalised by a :class:`~sb3_ddpg_ext.results.scales.Scale` of each. Only
algorithms with scores on every environment of the comparison that has one have them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from sb3_ddpg_ext.errors import SettingsError
from sb3_ddpg_ext.report.groups import SCORES, Equal, Group, Range, group_runs
from sb3_ddpg_ext.results import statistics
from sb3_ddpg_ext.results.records import Array, RunRecord
from sb3_ddpg_ext.results.scales import SCALES, Scale, scale_of
from sb3_ddpg_ext.results.statistics import Estimate

ALL_ENVIRONMENTS = "all environments"
"""The name of rows about all environments together, whose ``env`` is None."""


@dataclass(frozen=True)
class ScoreRow:
    """
    Aggregates of one algorithm's scores.

    :param env: The environment; None for the normalised scores of all
    :param label: The algorithm
    :param runs: Number of runs
    :param estimates: Each of :data:`sb3_ddpg_ext.results.statistics.METRICS`
    """

    env: str | None
    label: str
    runs: int
    estimates: Mapping[str, Estimate]


@dataclass(frozen=True)
class ImprovementRow:
    """
    One algorithm against the baseline.

    :param env: The environment; None for all together, where no test is made
    :param label: The algorithm
    :param runs: Number of its runs
    :param baseline_runs: Number of the baseline's runs
    :param probability: Probability of improvement
    :param p: p-value of the Mann-Whitney U test
    :param holm: The same with Holm's correction for all algorithms on this environment
    :param smallest: The smallest corrected p-value that so many runs could have given
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
    """
    How soon one algorithm's runs reached an environment's threshold.

    :param env: The environment
    :param label: The algorithm
    :param threshold: The return to be reached
    :param reached: Number of runs that reached it
    :param runs: Number of runs
    :param steps: Median of the steps that it took
    :param seconds: Median of the CPU seconds that it took
    """

    env: str
    label: str
    threshold: float
    reached: int
    runs: int
    steps: Estimate
    seconds: Estimate


@dataclass(frozen=True)
class SpeedRow:
    """
    How fast one algorithm trains.

    :param env: The environment; None for all together
    :param label: The algorithm
    :param runs: Number of runs
    :param speed: Environment steps per CPU second of training (IQM); undefined for all environments
    :param speedup: The ratio to the baseline's speed; for all environments the geometric mean of their ratios
    :param updates_per_step: Gradient steps per environment step (mean)
    """

    env: str | None
    label: str
    runs: int
    speed: Estimate
    speedup: Estimate
    updates_per_step: float


@dataclass(frozen=True, eq=False)
class Comparison:
    """
    Everything that the report says in numbers.

    :param runs: All runs
    :param labels: All algorithms, also those without a finished run
    :param baseline: The algorithm that the others are compared with
    :param equal: What the algorithms on an environment have the same number of
    :param ranges: For each environment, the range of steps and of seconds over which areas are taken
    :param groups: The finished runs, by environment and label
    :param seed: Seed of every bootstrap
    :param scales: Scales by the ids of their environments
    :param is_baseline_given: Whether the user has chosen the baseline
    """

    runs: tuple[RunRecord, ...]
    labels: tuple[str, ...]
    baseline: str
    equal: Equal
    ranges: Mapping[str, Mapping[str, Range]]
    groups: Mapping[tuple[str, str], Group]
    seed: int
    scales: Mapping[str, Scale]
    is_baseline_given: bool = True

    @property
    def baseline_in_words(self) -> str:
        """The baseline, and why it is that one"""
        rule = "ddpg if it is among the algorithms, otherwise the first of them"
        return self.baseline if self.is_baseline_given else f"{self.baseline}, chosen by rule ({rule})"

    @property
    def envs(self) -> tuple[str, ...]:
        """The environments that have finished runs"""
        return tuple(self.ranges)

    @property
    def scores(self) -> Mapping[str, str]:
        """The scores that are compared, the most important first, and their titles"""
        return SCORES[self.equal]

    @property
    def scaled_envs(self) -> tuple[str, ...]:
        """Those of :attr:`envs` whose scores can be normalised"""
        return tuple(env for env in self.envs if self.scale_of(env).can_normalise)

    def scale_of(self, env: str) -> Scale:
        """:return: What the scores on an environment are measured against; an empty scale if there is nothing"""
        return scale_of(env, self.scales)

    def normalised(self, score: str, label: str) -> list[Array]:
        """:return: Normalised scores on each of :attr:`scaled_envs`; an empty list if those of one are missing"""
        scales = map(self.scale_of, self.scaled_envs)
        strata = self.strata(score, label, self.scaled_envs)
        return [scale.normalise(scores) for scale, scores in zip(scales, strata, strict=False)]

    def strata(self, score: str, label: str, envs: Sequence[str]) -> list[Array]:
        """:return: Scores on each of some environments, ``[runs]`` each; an empty list if those of one are missing"""
        groups = [self.groups.get((env, label)) for env in envs]
        strata = [group.scores[score] for group in groups if group is not None and len(group.scores[score])]
        return strata if len(strata) == len(envs) else []

    def estimate(self, statistic: Callable[[list[Array]], Array], strata: Sequence[Array]) -> Estimate:
        """:return: A statistic with its interval, which does not depend on what else was estimated before"""
        return statistics.estimate(statistic, strata, np.random.default_rng(self.seed))

    @cached_property
    def score_rows(self) -> Mapping[str, tuple[ScoreRow, ...]]:
        """For each score: first the rows of all environments together, then those of each environment"""
        return {score: tuple(self._score_rows(score)) for score in self.scores}

    def _score_rows(self, score: str) -> Iterator[ScoreRow]:
        together: list[str | None] = [None] if len(self.scaled_envs) > 1 else []
        for env in [*together, *self.envs]:
            for label in self.labels:
                strata = self.normalised(score, label) if env is None else self.strata(score, label, [env])
                if not strata:
                    continue
                estimates = {}
                for name, metric in statistics.METRICS.items():
                    if metric is not statistics.optimality_gap or env is None:
                        estimates[name] = self.estimate(metric, strata)
                    elif (scale := self.scale_of(env)).can_normalise:
                        estimates[name] = self.estimate(metric, [scale.normalise(strata[0])])
                yield ScoreRow(env, label, sum(map(len, strata)), estimates)

    @cached_property
    def improvement_rows(self) -> Mapping[str, tuple[ImprovementRow, ...]]:
        """As :attr:`score_rows`, without the baseline"""
        return {score: tuple(self._improvement_rows(score)) for score in self.scores}

    def _improvement_rows(self, score: str) -> Iterator[ImprovementRow]:
        together: list[str | None] = [None] if len(self.envs) > 1 else []
        for env in [*together, *self.envs]:
            envs = self.envs if env is None else [env]
            baseline = self.strata(score, self.baseline, envs)
            rows = []
            for label in self.labels:
                if label == self.baseline or not baseline or not (strata := self.strata(score, label, envs)):
                    continue
                probability = self.estimate(statistics.probability_of_improvement, [*strata, *baseline])
                row = ImprovementRow(env, label, sum(map(len, strata)), sum(map(len, baseline)), probability)
                if env is not None:
                    p = statistics.mann_whitney(strata[0], baseline[0], np.random.default_rng(self.seed))
                    row = replace(row, p=p, smallest=statistics.smallest_p(len(strata[0]), len(baseline[0])))
                rows.append(row)
            yield from rows if env is None else _corrected(rows)

    @cached_property
    def threshold_rows(self) -> tuple[ThresholdRow, ...]:
        """A row for each environment with a threshold and each algorithm"""
        rows = []
        for (env, label), group in self.groups.items():
            if (threshold := self.scale_of(env).threshold) is not None and len(group.steps_to_threshold):
                reached = int(np.isfinite(group.steps_to_threshold).sum())
                steps = self.estimate(statistics.median, [group.steps_to_threshold])
                seconds = self.estimate(statistics.median, [group.seconds_to_threshold])
                runs = len(group.steps_to_threshold)
                rows.append(ThresholdRow(env, label, threshold, reached, runs, steps, seconds))
        return tuple(rows)

    @cached_property
    def speed_rows(self) -> tuple[SpeedRow, ...]:
        """First the rows of all environments together, then those of each environment"""
        return tuple(self._speed_rows())

    def _speed_rows(self) -> Iterator[SpeedRow]:
        together: list[str | None] = [None] if len(self.envs) > 1 else []
        for env in [*together, *self.envs]:
            envs = self.envs if env is None else [env]
            baseline = self._speeds(self.baseline, envs)
            for label in self.labels:
                if strata := self._speeds(label, envs):
                    speed = self.estimate(statistics.iqm, strata) if env is not None else Estimate(np.nan)
                    speedup = Estimate(np.nan)
                    if baseline and label != self.baseline:
                        speedup = self.estimate(statistics.ratio, [*strata, *baseline])
                    updates = float(np.mean([self.groups[name, label].updates_per_step.mean() for name in envs]))
                    yield SpeedRow(env, label, sum(map(len, strata)), speed, speedup, updates)

    def _speeds(self, label: str, envs: Sequence[str]) -> list[Array]:
        speeds = [self.groups[env, label].speed for env in envs if (env, label) in self.groups]
        return speeds if len(speeds) == len(envs) and all(map(len, speeds)) else []


def _corrected(rows: Sequence[ImprovementRow]) -> list[ImprovementRow]:
    """Correct the p-values of one environment for their number."""
    p = statistics.holm([row.p for row in rows])
    # Smaller p-values give smaller corrected ones, so the smallest ones give the smallest that are possible
    smallest = statistics.holm([row.smallest for row in rows])
    return [replace(row, holm=p, smallest=s) for row, p, s in zip(rows, p, smallest, strict=True)]


def compare(
    runs: Sequence[RunRecord],
    baseline: str | None = None,
    seed: int = 0,
    order: Sequence[str] = (),
    scales: Mapping[str, Scale] = SCALES,
    equal: Equal = "steps",
) -> Comparison:
    """
    Compare algorithms.

    :param runs: All runs, in the order of labels, environments and seeds
    :param baseline: Label of the algorithm that the others are compared with; by default ``ddpg``, or the first label
        if there is no ``ddpg``
    :param seed: Seed of every bootstrap
    :param order: Labels, of which the first that has runs is the first label
    :param scales: Scales by the ids of their environments
    :param equal: What the algorithms on an environment have the same number of
    :return: The comparison
    :raises SettingsError: If there is no such baseline
    """
    labels = tuple(dict.fromkeys(run.label for run in runs))
    is_baseline_given = baseline is not None
    if baseline is None:
        first = next(label for label in (*order, *labels) if label in labels)
        baseline = "ddpg" if "ddpg" in labels else first
    if baseline not in labels:
        raise SettingsError(f"baseline {baseline!r} has no runs here; there are: {', '.join(map(repr, labels))}")
    ranges, groups = group_runs(runs, labels, scales, equal)
    return Comparison(tuple(runs), labels, baseline, equal, ranges, groups, seed, scales, is_baseline_given)
