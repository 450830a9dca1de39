"""
Measures CustomDDPG, SB3's DDPG and TD3 and, where it is installed, SBX's DDPG in one run.

Each contestant runs in a process of its own (see :mod:`sb3_ddpg_ext.benchmark.contestant`) with the same number of
cores. They take turns, round after round, so that a machine that slows down slows all of them down. Results are the
medians over the rounds.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

from sb3_ddpg_ext.arguments import BenchmarkArgs
from sb3_ddpg_ext.benchmark import noise_cost
from sb3_ddpg_ext.benchmark.presentation import describe, picture, table
from sb3_ddpg_ext.benchmark.process import ALGORITHMS, OURS, SBX, ContestantProcess
from sb3_ddpg_ext.errors import SettingsError, require
from sb3_ddpg_ext.files import atomic, make_directory
from sb3_ddpg_ext.results import provenance

_CASES: dict[str, dict[str, Any]] = {
    "small": {"env": "Pendulum-v1", "net_arch": [64, 64], "batch_size": 64},
    "mujoco": {"env": "HalfCheetah-v5", "net_arch": [256, 256], "batch_size": 256},
    "default": {"env": "Pendulum-v1", "net_arch": [400, 300], "batch_size": 256},
}
_MEASURES = ("learn", "update", "collect")


def benchmark(args: BenchmarkArgs) -> dict[str, Any]:
    """
    Measure all configurations, and write the results after each of them.

    :param args: What to measure, and for how long
    :return: The record, as written to ``benchmark.json``
    :raises SettingsError: If a package is missing, an argument is not possible, or a contestant fails
    """
    _check(args)
    pythons = _pythons(args.sbx_python)
    sbx_versions = _sbx_versions(pythons[SBX]) if SBX in pythons else {}
    make_directory(args.log_dir)
    configurations = [
        {**_CASES[case], "threads": threads, "n_envs": n_envs}
        for threads, n_envs, case in product(args.threads, args.n_envs, args.cases)
        if case in _CASES
    ]
    record: dict[str, Any] = {
        "rounds": args.rounds,
        "seconds": args.seconds,
        "load": os.getloadavg()[0],  # by other processes
        "versions": provenance.versions() | sbx_versions,
        "machine": provenance.machine(),
        "results": [],
    }
    if "noise" in args.cases:
        record["noise"] = noise_cost.measure(args.rounds)
        _write(record, args.log_dir)
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        task = progress.add_task("", total=len(configurations) * args.rounds)
        for configuration in configurations:
            progress.update(task, description=describe(configuration))
            rounds = []
            for one_round in _measure_rounds(configuration, pythons, args):
                rounds.append(one_round)
                progress.advance(task)
            record["results"].append({**configuration, **_merge_rounds(rounds)})
            _write(record, args.log_dir)
    return record


def _check(args: BenchmarkArgs) -> None:
    if args.rounds < 1 or args.seconds <= 0 or min(*args.threads, *args.n_envs, 1) < 1:
        raise SettingsError("--rounds, --threads and --n-envs must be 1 or more, --seconds above 0")
    if "mujoco" in args.cases:
        require("mujoco", "envs")


def _pythons(sbx_python: Path | None) -> dict[str, str]:
    """:return: The Python interpreter of each contestant; SBX's only if it is installed or its Python is given"""
    pythons = dict.fromkeys(ALGORITHMS, sys.executable)
    if sbx_python is not None:
        pythons[SBX] = str(sbx_python)
    elif find_spec("sbx") is None:
        del pythons[SBX]
    return pythons


def _sbx_versions(python: str) -> dict[str, str]:
    code = "import sbx; from importlib.metadata import version; print(version('sbx-rl'), version('jax'))"
    try:
        output = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise SettingsError(f"--sbx-python {python}: no SBX there; pip install sbx-rl") from error
    return dict(zip(("sbx", "jax"), output.split(), strict=True))


def _measure_rounds(
    configuration: dict[str, Any], pythons: dict[str, str], args: BenchmarkArgs
) -> Iterator[dict[str, Any]]:
    """
    Yield for each round ``"seconds"``, ``{contestant: {measure: seconds}}``, and ``"peak_memory"``,
    ``{contestant: bytes}``. ``"gemm"`` has the seconds of the matrix products that every update needs.
    """
    with contextlib.ExitStack() as stack:
        contestants = {
            name: stack.enter_context(ContestantProcess(python, {**configuration, "algorithm": ALGORITHMS[name]}))
            for name, python in pythons.items()
        }
        for _ in range(args.rounds):
            seconds = {
                name: {measure: contestant.measure(measure, args.seconds) for measure in _MEASURES}
                for name, contestant in contestants.items()
            }
            gemm = contestants[OURS].measure("gemm", args.seconds / 2)
            peak_memory = {name: contestant.peak_memory for name, contestant in contestants.items()}
            yield {"seconds": seconds, "gemm": gemm, "peak_memory": peak_memory}


def _merge_rounds(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Rounds -> ``{"gemm": [seconds], "contestants": {name: {measure: [seconds], "peak_memory": bytes}}}``."""
    return {
        "gemm": [one_round["gemm"] for one_round in rounds],
        "contestants": {
            name: {
                **{measure: [one_round["seconds"][name][measure] for one_round in rounds] for measure in _MEASURES},
                "peak_memory": peak_memory,
            }
            for name, peak_memory in rounds[-1]["peak_memory"].items()
        },
    }


def _write(record: dict[str, Any], directory: Path) -> None:
    with contextlib.ExitStack() as files:
        files.enter_context(atomic(directory / "benchmark.json")).write_text(json.dumps(record, indent=1))
        files.enter_context(atomic(directory / "benchmark.md")).write_text(table(record))
        if record["results"]:  # noise has no picture
            picture(record).savefig(files.enter_context(atomic(directory / "benchmark.png")))
