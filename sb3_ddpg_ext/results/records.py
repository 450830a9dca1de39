"""The record of a run, which training makes, and which comparison, tuning and report read."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sb3_ddpg_ext.errors import FaultyEnvironmentError, describe, trace

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Evaluations:
    """
    The evaluations during a run.

    :param steps: Environment steps before each, ``[k]``
    :param seconds: Training time before each, without the time of evaluations, ``[k]``
    :param cpu_seconds: The same in seconds of CPU time, ``[k]``
    :param returns: Returns of the episodes, ``[k, episodes]``
    """

    steps: Array
    seconds: Array
    cpu_seconds: Array
    returns: Array

    @property
    def means(self) -> Array:
        """The mean return of each, ``[k]``"""
        means: Array = self.returns.mean(axis=1)
        return means

    def first(self, n: int) -> "Evaluations":
        """:return: The first ``n`` of them"""
        return Evaluations(self.steps[:n], self.seconds[:n], self.cpu_seconds[:n], self.returns[:n])


AXES: Mapping[str, Callable[[Evaluations], Array]] = {"steps": lambda e: e.steps, "seconds": lambda e: e.cpu_seconds}
"""What curves are drawn over, areas are taken over and times to a threshold are measured in."""


@dataclass(frozen=True, eq=False)
class Score:
    """
    Episodes that were played with one model.

    :param returns: Their returns, ``[episodes]``
    :param lengths: Their lengths in steps, ``[episodes]``
    :param seed: Seed of the first environment
    """

    returns: Array
    lengths: Array
    seed: int

    @property
    def mean(self) -> float:
        """Mean return"""
        return float(self.returns.mean())

    @property
    def std(self) -> float:
        """Standard deviation of the returns"""
        return float(self.returns.std())

    def cut_off(self, max_steps: int) -> str:
        """
        :param max_steps: Steps after which episodes were ended, 0 for never
        :return: How many were, in words; empty if none was
        """
        n = int(np.count_nonzero(self.lengths >= max_steps)) if max_steps else 0
        return f"{n} of them cut off after {max_steps:,} steps (--eval-max-steps)" if n else ""


@dataclass(frozen=True)
class BestEvaluation:
    """
    The evaluation that chose the best model.

    :param mean: Its mean return
    :param step: Environment steps before it
    :param seed: Seed of its first environment
    """

    mean: float
    step: int
    seed: int


@dataclass(frozen=True)
class Seconds:
    """
    How long a run took.

    :param train: Training, without evaluations
    :param evaluate: Evaluations during training
    :param cpu: CPU time of training
    """

    train: float = math.nan
    evaluate: float = math.nan
    cpu: float = math.nan


@dataclass(frozen=True)
class Protocol:
    """
    How a run is evaluated.

    :param eval_freq: Environment steps between evaluations, 0 for none
    :param eval_episodes: Episodes of each
    :param seeds: First seed of the evaluations during training, and of the final score
    :param max_steps: Steps after which an episode is ended, 0 for never. Records that do not say are of episodes that
        end themselves
    """

    eval_freq: int
    eval_episodes: int
    seeds: tuple[int, ...]
    max_steps: int = 10_000


@dataclass(frozen=True, eq=False)
class RunIdentity:
    """
    What a run is, and everything that its result depends on but the machine.

    :param label: What the user calls the algorithm with its settings
    :param algo: Name of the algorithm
    :param env: Id of the environment
    :param seed: Seed of networks, environments and exploration
    :param planned_steps: Environment steps it is to do
    :param settings: The settings, as an entry of a hyperparameter file
    :param protocol: How it is evaluated; None where an incomplete record does not say
    :param vec_env: ``"dummy"`` or ``"subproc"``
    :param threads: Threads of PyTorch
    """

    label: str
    algo: str
    env: str
    seed: int
    planned_steps: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    protocol: Protocol | None = None
    vec_env: str = ""
    threads: int = 0

    def differences(self, other: "RunIdentity") -> list[str]:
        """:return: Names of the fields in which two runs differ; none if they are the same run"""
        names = [each.name for each in fields(RunIdentity)]
        return [name for name in names if getattr(self, name) != getattr(other, name)]


@dataclass(frozen=True, eq=False)
class RunRecord(RunIdentity):
    """
    What a run is, and what came out of it.

    :param directory: The run directory
    :param status: finished, interrupted, failed, corrupt (the file cannot be read) or not finished (there is none)
    :param error: What was raised, or why there is no record, in one line
    :param where: The environment and the step at which it was raised, if that is known
    :param traceback: The traceback of what was raised
    :param steps: Environment steps done
    :param updates: Gradient steps done
    :param score: The last model's fresh episodes
    :param best_evaluation: The evaluation that chose the best model
    :param evaluations: The evaluations during the run; None if there were none
    :param seconds: How long it took
    :param device: Device of PyTorch
    :param versions: Versions of packages
    :param machine: Operating system, processor, cores
    """

    directory: Path = Path()
    status: str = "not finished"
    error: str | None = None
    where: str | None = None
    traceback: str | None = None
    steps: int = 0
    updates: int = 0
    score: Score | None = None
    best_evaluation: BestEvaluation | None = None
    evaluations: Evaluations | None = None
    seconds: Seconds = Seconds()
    device: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, identity: RunIdentity, **results: Any) -> "RunRecord":
        """:return: The record of a run: what it is, and what came out of it"""
        return cls(**{each.name: getattr(identity, each.name) for each in fields(RunIdentity)}, **results)

    @classmethod
    def of_failure(cls, identity: RunIdentity, directory: Path, error: BaseException) -> "RunRecord":
        """:return: The record of a run that an error has ended"""
        where = error.where if isinstance(error, FaultyEnvironmentError) else None
        return cls.of(
            identity,
            directory=directory,
            status="failed",
            error=describe(error),
            where=where,
            traceback=trace(error),
        )

    @property
    def name(self) -> str:
        """The directory, relative to that of the comparison"""
        return f"{self.directory.parent.name}/{self.directory.name}"

    @property
    def has_record(self) -> bool:
        """Whether there is a file that can be read"""
        return self.status not in ("corrupt", "not finished")

    @property
    def is_finished(self) -> bool:
        """Whether the run came to its end"""
        return self.status == "finished"

    @property
    def reason(self) -> str:
        """Why it is not finished, in a few words"""
        if self.is_finished:
            return ""
        if self.status == "interrupted":
            return "stopped before its end"
        return (self.error or "no reason recorded") + (f", in {self.where}" if self.where else "")

    @property
    def length(self) -> int:
        """Steps that it was to do and did: a callback can end training early, and the last rollout is done whole"""
        return min(self.steps, self.planned_steps)
