"""
``result.json``, the file of a run's record: written when the run is over, whole or not at all.

Runs of a comparison are in ``<log_dir>/<algorithm>/<environment>_<seed>/``. :func:`read_run` and :func:`read_runs`
return a record for each of these directories, whatever state it is in.
"""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from sb3_ddpg_ext.errors import SettingsError
from sb3_ddpg_ext.files import atomic
from sb3_ddpg_ext.results.records import (
    Array,
    BestEvaluation,
    Evaluations,
    Protocol,
    RunRecord,
    Score,
    Seconds,
)

RESULT = "result.json"


def write_record(record: RunRecord) -> None:
    """
    Write a record into its run directory.

    :param record: The record
    :raises OSError: If it cannot be written
    """
    with atomic(record.directory / RESULT) as partial:
        partial.write_text(json.dumps(to_json(record), indent=2, allow_nan=False))


def to_json(record: RunRecord) -> dict[str, Any]:
    """:return: The content of ``result.json``, without NaN and infinity"""
    protocol = record.protocol
    identity = {
        "label": record.label,
        "algo": record.algo,
        "env": record.env,
        "seed": record.seed,
        "planned_steps": record.planned_steps,
        "settings": record.settings,
        "protocol": None if protocol is None else {**vars(protocol), "seeds": list(protocol.seeds)},
        "vec_env": record.vec_env,
        "threads": record.threads,
        "status": record.status,
        "error": record.error,
    }
    if record.status == "failed":
        where = {} if record.where is None else {"where": record.where}
        return {**identity, **where, "traceback": record.traceback}
    score, best = record.score, record.best_evaluation
    return {
        **identity,
        "steps": record.steps,
        "updates": record.updates,
        "score": None
        if score is None
        else {
            "mean": score.mean,
            "std": score.std,
            "episodes": len(score.returns),
            "seed": score.seed,
            "returns": score.returns.tolist(),
            "lengths": score.lengths.astype(int).tolist(),
        },
        "best_evaluation": None if best is None else vars(best),
        "evaluations": _evaluations_to_json(record.evaluations),
        "seconds": vars(record.seconds),
        "device": record.device,
        "versions": record.versions,
        "machine": record.machine,
    }


def _evaluations_to_json(evaluations: Evaluations | None) -> dict[str, Any]:
    if evaluations is None:
        return {"steps": [], "seconds": [], "cpu_seconds": [], "returns": []}
    lists = {name: array.tolist() for name, array in vars(evaluations).items()}
    return {**lists, "steps": evaluations.steps.astype(int).tolist()}


def read_runs(log_dir: Path) -> tuple[RunRecord, ...]:
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
    # A directory without a record has only its name, but the records beside it say what the name stands for
    labels = {run.directory.parent: run.label for run in runs if run.has_record}
    envs = {run.directory.name.rpartition("_")[0]: run.env for run in runs if run.has_record}
    runs = [
        run
        if run.has_record
        else replace(run, label=labels.get(run.directory.parent, run.label), env=envs.get(run.env, run.env))
        for run in runs
    ]
    return tuple(sorted(runs, key=lambda run: (run.label, run.env, run.seed, run.name)))


def read_run(directory: Path) -> RunRecord:
    """
    Read one run.

    :param directory: Its directory, ``<algorithm>/<environment>_<seed>``
    :return: Its record. If there is none, or it cannot be read, the status says so, and algorithm, environment and
        seed are those of the directory's name
    """
    label, (env, _, seed) = directory.parent.name, directory.name.rpartition("_")
    run = RunRecord(
        label, label, env, int(seed) if seed.isdecimal() else 0, directory=directory, error=f"it has no {RESULT}"
    )
    file = directory / RESULT
    if not file.exists():
        return run
    try:
        return _parse(directory, json.loads(file.read_text(encoding="utf-8"), parse_constant=_refuse))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        reason = f"no {error} in it" if isinstance(error, KeyError) else " ".join(str(error).split())
        return replace(run, status="corrupt", error=f"{RESULT} cannot be read: {reason}")


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _parse(directory: Path, record: dict[str, Any]) -> RunRecord:
    protocol = record.get("protocol")
    run = RunRecord(
        label=str(record.get("label", record["algo"])),
        algo=str(record["algo"]),
        env=str(record["env"]),
        seed=int(record["seed"]),
        planned_steps=int(record.get("planned_steps", 0)),
        settings=record.get("settings", {}),
        protocol=None if protocol is None else Protocol(**{**protocol, "seeds": tuple(protocol["seeds"])}),
        vec_env=str(record.get("vec_env", "")),
        threads=int(record.get("threads", 0)),
        directory=directory,
        status=str(record["status"]),
        error=record.get("error"),
        where=record.get("where"),
        traceback=record.get("traceback"),
    )
    if run.status == "failed":
        return run
    if run.status not in ("finished", "interrupted"):
        raise ValueError(f"unknown status {run.status!r}")
    score, best, steps, seconds = (
        record["score"],
        record.get("best_evaluation"),
        int(record["steps"]),
        record["seconds"],
    )
    if not (steps > 0 and seconds["cpu"] > 0):
        raise ValueError(f"training took {steps} steps and {seconds['cpu']} CPU seconds")
    if run.is_finished and score is None:
        raise ValueError("finished without a score")
    return replace(
        run,
        steps=steps,
        planned_steps=run.planned_steps or steps,
        updates=int(record["updates"]),
        score=None
        if score is None
        else Score(_numbers(score["returns"], 1), np.asarray(score.get("lengths", ())), int(score["seed"])),
        best_evaluation=None if best is None else BestEvaluation(**best),
        evaluations=_evaluations(record["evaluations"]),
        seconds=Seconds(**seconds),
        device=str(record["device"]),
        versions=record["versions"],
        machine=record["machine"],
    )


def _evaluations(record: dict[str, Any] | None) -> Evaluations | None:
    if not record or not record["steps"]:
        return None
    steps, seconds, cpu_seconds = (_numbers(record[key], 1) for key in ("steps", "seconds", "cpu_seconds"))
    returns = _numbers(record["returns"], 2)
    if not len(steps) == len(seconds) == len(cpu_seconds) == len(returns):
        raise ValueError("the evaluations' lists differ in length")
    return Evaluations(steps, seconds, cpu_seconds, returns)


def _numbers(values: Any, ndim: int) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != ndim or not array.size or not np.isfinite(array).all():
        raise ValueError("the returns or times are not all numbers")
    return array
