"""
Run directories -> records. A comparison has one directory for each run, ``<algorithm>/<environment>_<seed>/``, which
gets its ``result.json`` when the run is over. Whatever is there is returned, also what is broken.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt

from sb3_ddpg_ext.settings import SettingsError

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


AXES: Mapping[str, Callable[[Evaluations], Array]] = {"steps": lambda e: e.steps, "seconds": lambda e: e.cpu_seconds}
"""What curves are drawn over, areas are taken over and times to a threshold are measured in."""


@dataclass(frozen=True, eq=False)
class Run:
    """
    One run directory.

    :param name: The directory, relative to that of the comparison
    :param label: The algorithm or its variant, as the user wrote it
    :param env: Id of the environment
    :param seed: Seed of the run
    :param status: finished, interrupted, failed, corrupt (``result.json`` cannot be read) or not finished (none there)
    :param reason: Why it is not finished
    :param steps: Environment steps done
    :param planned_steps: Environment steps asked for
    :param updates: Gradient steps done
    :param returns: Returns of the last model's fresh episodes, ``[episodes]``
    :param evaluations: The evaluations during the run
    :param seconds: Training time, without that of evaluations
    :param cpu_seconds: CPU time of training
    :param settings: The settings it was made with
    :param conditions: threads, device, machine, versions, and the episodes and seed of the final score, in words
    """

    name: str
    label: str
    env: str
    seed: int
    status: str
    reason: str = ""
    steps: int = 0
    planned_steps: int = 0
    updates: int = 0
    returns: Array | None = None
    evaluations: Evaluations | None = None
    seconds: float = np.nan
    cpu_seconds: float = np.nan
    settings: Mapping[str, Any] = field(default_factory=dict)
    conditions: Mapping[str, str] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """Steps that it was to do and did: a callback can end training early, and the last rollout is done whole"""
        return min(self.steps, self.planned_steps)


def read_runs(log_dir: Path) -> tuple[Run, ...]:
    """
    Read all runs of a comparison.

    :param log_dir: Its directory
    :return: The runs, ordered by label, environment, seed and directory
    :raises SettingsError: If there is none
    """
    directories = sorted(d for d in log_dir.glob("*/*") if d.is_dir() and re.fullmatch(r".+_\d+", d.name))
    if not directories:
        raise SettingsError(f"{log_dir}: no runs found; expected directories such as ddpg/Pendulum-v1_0 in it")
    runs = [read_run(directory) for directory in directories]
    # A directory without a record is known by its name only, but its neighbours say what the name stands for
    records = [run for run in runs if run.status not in ("corrupt", "not finished")]
    labels = {Path(run.name).parent: run.label for run in records}
    envs = {Path(run.name).name.rpartition("_")[0]: run.env for run in records}
    runs = [
        run
        if run in records
        else replace(run, label=labels.get(Path(run.name).parent, run.label), env=envs.get(run.env, run.env))
        for run in runs
    ]
    return tuple(sorted(runs, key=lambda run: (run.label, run.env, run.seed, run.name)))


def read_run(directory: Path) -> Run:
    """
    Read one run.

    :param directory: Its directory, ``<algorithm>/<environment>_<seed>``
    :return: The run, whatever there is of it
    """
    label, (env, _, seed) = directory.parent.name, directory.name.rpartition("_")
    run = Run(f"{label}/{directory.name}", unquote(label), env, int(seed), "not finished", "it has no result.json")
    file = directory / "result.json"
    if not file.exists():
        return run
    try:
        return _parse(run.name, json.loads(file.read_text(encoding="utf-8"), parse_constant=_refuse))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        said = f"no {error} in it" if isinstance(error, KeyError) else " ".join(str(error).split())
        return replace(run, status="corrupt", reason=f"result.json cannot be read: {said}")


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _parse(name: str, record: dict[str, Any]) -> Run:
    run = Run(
        name,
        str(record.get("label", record["algo"])),
        str(record["env"]),
        int(record["seed"]),
        str(record["status"]),
        str(record.get("error") or "no reason recorded") + (f", in {record['where']}" if "where" in record else ""),
    )
    if run.status == "failed":
        return run
    if run.status not in ("finished", "interrupted"):
        raise ValueError(f"unknown status {run.status!r}")
    score, steps, cpu_seconds = record["score"], int(record["steps"]), float(record["seconds"]["cpu"])
    if not (steps > 0 and cpu_seconds > 0):
        raise ValueError(f"training took {steps} steps and {cpu_seconds} CPU seconds")
    if run.status == "finished" and score is None:
        raise ValueError("finished without a score")
    return replace(
        run,
        reason="stopped before its end" if run.status == "interrupted" else "",
        steps=steps,
        planned_steps=int(record.get("planned_steps", steps)),
        updates=int(record["updates"]),
        returns=None if score is None else _array(score["returns"], 1),
        evaluations=_evaluations(record.get("evaluations")),
        seconds=float(record["seconds"]["train"]),
        cpu_seconds=cpu_seconds,
        settings=record["settings"],
        conditions={
            "threads": str(record["threads"]),
            "device": str(record["device"]),
            "machine": ", ".join(f"{key} {value}" for key, value in record["machine"].items()),
            "versions": ", ".join(f"{key} {value}" for key, value in record["versions"].items()),
            "final episodes": "none" if score is None else f"{score['episodes']} from seed {score['seed']}",
        },
    )


def _evaluations(record: dict[str, Any] | None) -> Evaluations | None:
    if not record or not record["steps"]:
        return None
    steps, seconds, cpu_seconds = (_array(record[key], 1) for key in ("steps", "seconds", "cpu_seconds"))
    returns = _array(record["returns"], 2)
    if not len(steps) == len(seconds) == len(cpu_seconds) == len(returns):
        raise ValueError("the evaluations' lists differ in length")
    return Evaluations(steps, seconds, cpu_seconds, returns)


def _array(values: Any, ndim: int) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != ndim or not array.size or not np.isfinite(array).all():
        raise ValueError("the returns or times are not all numbers")
    return array
