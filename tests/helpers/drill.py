"""
A fault drill: processes are killed at random moments, files are damaged, a disk is full. Then the same command is given
again, and what it ends with is compared, bit by bit, with a run to which nothing has happened.

``make drill`` runs it; ``python tests/helpers/drill.py --help`` lists its options. Processes are forked from one that
has imported everything, run the command line's ``main``, and are killed with SIGKILL.
"""

import contextlib
import csv
import itertools
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import tyro
from clusters import wait_until
from damages import damage
from processes import ENVIRONMENT, forked, started
from resumed_runs import digest
from rich.console import Console

from sb3_ddpg_ext.results.result_file import read_run
from sb3_ddpg_ext.safe_files.loading import read_parameters
from sb3_ddpg_ext.tuning.search import latest_attempts
from sb3_ddpg_ext.tuning.storage import Job
from sb3_ddpg_ext.tuning.study import connect, quiet

SMALL = ("-p", "policy_kwargs=dict(net_arch=[32, 32])", "-p", "batch_size=32", "-p", "learning_starts=200")
TRAIN: dict[str, tuple[str, ...]] = {
    "Pendulum-v1": ("--env", "Pendulum-v1"),
    "Pendulum-v1, 4 environments": ("--env", "Pendulum-v1", "--n-envs", "4"),
    "Pendulum-v1, VecNormalize, autograd": ("--env", "Pendulum-v1", "-p", "normalize=true", "-p", "fused=false"),
    "Pendulum-v1, 4 processes": ("--env", "Pendulum-v1", "--n-envs", "4", "--vec-env", "subproc"),
    "LunarLanderContinuous-v3": ("--env", "LunarLanderContinuous-v3"),
    "LunarLanderContinuous-v3, 4 processes": (
        "--env",
        "LunarLanderContinuous-v3",
        "--n-envs",
        "4",
        "--vec-env",
        "subproc",
    ),
    "HalfCheetah-v5": ("--env", "HalfCheetah-v5"),
    "HalfCheetah-v5, n-step, VecNormalize": ("--env", "HalfCheetah-v5", "-p", "n_steps=3", "-p", "normalize=true"),
}
COMMON = ("--quiet", "--eval-episodes", "2", "--threads", "1")
Command = Callable[..., subprocess.CompletedProcess[str]]
KILLED = -9
KILLS_PER_RUN = 6  # then it may come to its end


@dataclass(frozen=True)
class Drill:
    """Kill, damage, and compare with what was left alone."""

    kills: int = 100
    """how often train is killed"""
    compare_kills: int = 20
    """how often compare is killed"""
    tune_kills: int = 20
    """how often tune is killed"""
    corruptions: int = 200
    """how many damaged directories are resumed from"""
    full_disks: int = 20
    """how many runs are done on a disk that is too small; as root"""
    workers: int = 5
    """how many processes of environments are killed"""
    seed: int = 0
    """seed of moments and damages"""


class DrillError(Exception):
    """Something was lost or different."""


def sb3_ddpg(arguments: Sequence[str], folder: Path, seconds: float = 600) -> subprocess.CompletedProcess[str]:
    """:return: How a command has ended, which is killed after some seconds"""
    return forked(arguments, folder, ENVIRONMENT, seconds)


def tune_hastily(arguments: Sequence[str], folder: Path, seconds: float = 600) -> subprocess.CompletedProcess[str]:
    """:return: How ``tune`` has ended, which soon takes a worker for dead, and which is killed after some seconds"""
    with started([Path(__file__).with_name("tune_hastily.py"), *arguments], folder) as process:
        try:
            output, errors = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(arguments, KILLED, "", "")
        return subprocess.CompletedProcess(arguments, process.returncode, output, errors)


def checked(arguments: Sequence[str], folder: Path, run: Command = sb3_ddpg) -> float:
    """:return: How many seconds a command takes that is left alone"""
    start = time.perf_counter()
    result = run(arguments, folder)
    if result.returncode != 0:
        raise DrillError(f"{' '.join(arguments)} ended with {result.returncode}: {result.stderr}")
    return time.perf_counter() - start


def contents(directory: Path) -> dict[str, str]:
    """:return: Digests of what a run has ended with: weights and optimizers, evaluations, episodes, score"""
    found = {path.name: digest(read_parameters(path, False)) for path in directory.glob("*.zip")}
    found |= {path.name: path.read_text() for path in directory.glob("**/*vecnormalize.json")}
    with np.load(directory / "evaluations.npz") as evaluations:
        found["evaluations.npz"] = digest(dict(evaluations))
    for path in directory.glob("*.monitor.csv"):
        found[path.name] = digest([line.split(",")[:2] for line in path.read_text().splitlines()[2:]])
    found["progress.csv"] = digest(logged(directory))
    record = read_run(directory)
    if record.score is None or record.evaluations is None:
        raise DrillError(f"{directory} has no score: {record.reason}")
    found["record"] = digest([record.score.returns, record.steps, record.updates, record.evaluations.returns])
    return found


def logged(directory: Path) -> list[dict[str, str]]:
    """:return: The rows of what a run has logged, without times"""
    with (directory / "progress.csv").open(newline="") as file:
        rows = [{key: row[key] for key in sorted(row) if row[key]} for row in csv.DictReader(file)]
    return [{k: v for k, v in row.items() if k not in ("time/fps", "time/time_elapsed")} for row in rows]


def differences(expected: dict[str, str], found: dict[str, str]) -> str:
    """:return: The names of what differs"""
    return ", ".join(sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name)))


def kill_until_finished(
    command: Callable[[], Sequence[str]],
    folder: Path,
    seconds: float,
    kills: int,
    rng: random.Random,
    run: Command = sb3_ddpg,
) -> int:
    """
    Give a command again and again.

    :param command: Returns its arguments
    :param folder: Where it runs
    :param seconds: How long it takes
    :param kills: How often it is killed at most
    :param rng: Chooses the moments
    :param run: Runs it
    :return: How often it was killed
    """
    for n_kills in range(kills + 1):
        limit = rng.uniform(0, 0.7 * seconds) if n_kills < kills else 600
        result = run(command(), folder, limit)
        if result.returncode == 0:
            return n_kills
        if result.returncode != KILLED:
            raise DrillError(f"{' '.join(command())} ended with {result.returncode}: {result.stderr}")
    raise DrillError(f"{' '.join(command())} did not end in 10 minutes")


def resume_command(folder: Path, new: Sequence[str]) -> Sequence[str]:
    """:return: The command that begins a run in ``folder``, or goes on with it if there is one"""
    begun = next(folder.glob("*/*_1/*/args.yml"), None)
    if begun is not None:
        return ["train", "--resume", str(begun.parents[1]), "--quiet"]
    shutil.rmtree(folder, ignore_errors=True)
    return [*new, str(folder)]


def new_run(rng: random.Random, *arguments: str, steps: int = 1500) -> list[str]:
    """:return: The arguments of ``train`` for a small run, but for the value of the last one, ``--log-dir``"""
    frequencies = ["--eval-freq", str(steps // 3), "--checkpoint-freq", str(rng.choice([70, 200]) * steps // 1500)]
    return ["train", *arguments, *SMALL, *COMMON, "--steps", str(steps), *frequencies, "--log-dir"]


def drill_train(kills: int, rng: random.Random) -> str:
    """:return: What has happened in runs of ``train`` that were killed and resumed"""
    n_kills = n_runs = 0
    for arguments in itertools.cycle(TRAIN.values()):
        if n_kills >= kills:
            return f"train: {n_kills} kills in {n_runs} runs, no difference"
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            new = new_run(rng, *arguments)
            seconds = checked([*new, "alone"], folder)
            command = partial(resume_command, folder / "killed", new)
            n_kills += kill_until_finished(command, folder, seconds, min(kills - n_kills, KILLS_PER_RUN), rng)
            n_runs += 1
            compare_runs(folder / "alone", folder / "killed", " ".join(arguments))
    raise AssertionError


def compare_runs(alone: Path, killed: Path, what: str) -> None:
    """
    Compare runs in their order: a trial that was repeated has another number than one that was left alone.

    :raises DrillError: If the runs in one directory have not ended with the same as those in the other
    """
    expected, found = (sorted(folder.glob("*/*/result.json"), key=in_order) for folder in (alone, killed))
    if len(expected) != len(found):
        raise DrillError(f"{what}: {len(found)} runs, and {len(expected)} of those that were left alone")
    for path, other in zip(expected, found, strict=True):
        if names := differences(contents(path.parent), contents(other.parent)):
            raise DrillError(f"{what}: {names} of {other.parent} are not those of a run that was left alone")


def in_order(path: Path) -> list[tuple[str, int]]:
    """:return: What sorts paths by the numbers in them"""
    return [(name, int(number)) for name, number in re.findall(r"(\D+)(\d*)", f"{path} 0") if number]


def drill_compare(kills: int, rng: random.Random) -> str:
    """:return: What has happened in a comparison that was killed and begun again"""
    n_kills = n_plans = 0
    while n_kills < kills:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            command = [
                "compare",
                "--algos",
                "custom_ddpg,custom_ddpg:gamma=0.9",
                "--envs",
                "Pendulum-v1",
                "--seeds",
                "2",
            ]
            command += ["--steps", "3000", "--eval-freq", "1000", "--eval-episodes", "10", "--quiet"]
            command += ["--workers", str(n_plans % 2), "--log-dir"]
            seconds = checked([*command, "alone"], folder)
            again: Callable[[], list[str]] = partial(list, [*command, "killed"])
            n_kills += kill_until_finished(again, folder, seconds, kills - n_kills, rng)
            n_plans += 1
            compare_runs(folder / "alone", folder / "killed", "compare")
    return f"compare: {n_kills} kills in {n_plans} comparisons of 4 runs, no difference"


def drill_tune(kills: int, rng: random.Random) -> str:
    """:return: What has happened in searches that were killed and begun again"""
    n_kills = n_studies = 0
    while n_kills < kills:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            command = ["--env", "Pendulum-v1", "--trials", "3", "--steps", "2500", "--eval-freq", "500"]
            command += [
                "--eval-episodes",
                "2",
                "--seeds",
                "2",
                "--top",
                "1",
                "--confirm-seeds",
                "2",
                "--no-write",
                "--quiet",
            ]
            # A pruner compares a trial with those that are over, and after a kill these may be others
            command += ["--pruner", "none", "--workers", "0", "--fix", "batch_size=32", "--study", "study", "--log-dir"]
            seconds = checked([*command, "alone"], folder, tune_hastily)
            again: Callable[[], list[str]] = partial(list, [*command, "killed"])
            n_kills += kill_until_finished(again, folder, seconds, kills - n_kills, rng, tune_hastily)
            n_studies += 1
            alone, killed = (trials(folder / name / "study" / "study.db") for name in ("alone", "killed"))
            if names := differences(alone, killed):
                raise DrillError(f"tune: the trials {names} are not those of a search that was left alone")
            compare_runs(folder / "alone/study/confirm", folder / "killed/study/confirm", "tune")
    return f"tune: {n_kills} kills in {n_studies} searches of 3 trials and their confirmation, no difference"


def trials(database: Path) -> dict[str, str]:
    """:return: Parameters, reports and values of the trials that count, in their order"""
    with quiet():
        study, _ = connect(Job(f"sqlite:///{database}", database.parent.name, 3))
        return {
            str(number): digest([trial.params, trial.value, list(trial.intermediate_values.items()), trial.state.name])
            for number, trial in enumerate(latest_attempts(study.trials).values())
        }


def drill_corruptions(number: int, rng: random.Random) -> str:
    """:return: What has happened to runs that were resumed after one of their checkpoints' files was damaged"""
    outcomes = Counter[str]()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        new = new_run(rng, "--env", "Pendulum-v1", "-p", "normalize=true")
        seconds = checked([*new, "alone"], folder)
        while len(list(folder.glob("killed/*/*_1/checkpoints/checkpoint-*"))) < 2:
            shutil.rmtree(folder / "killed", ignore_errors=True)
            sb3_ddpg([*new, "killed"], folder, rng.uniform(0, seconds))
        for _ in range(number):
            shutil.copytree(folder / "killed", folder / "damaged")
            (run,) = folder.glob("damaged/*/*_1")
            what = damage(run / "checkpoints", rng)
            result = sb3_ddpg(["train", "--resume", str(run), "--quiet"], folder)
            outcomes[outcome(result, folder, what)] += 1
            shutil.rmtree(folder / "damaged")
    return f"{number} damages: " + ", ".join(f"{n} {name}" for name, n in outcomes.most_common())


def ends_with_error(result: subprocess.CompletedProcess[str]) -> bool:
    """:return: Whether a command has ended with one line of error, perhaps after warnings"""
    *before, last = result.stderr.splitlines() or [""]
    return result.returncode == 2 and last.startswith("error: ") and "Traceback" not in " ".join(before)


def outcome(result: subprocess.CompletedProcess[str], folder: Path, what: str) -> str:
    """:return: How a damage has ended, in words"""
    if ends_with_error(result):
        return "refused in one line"
    if result.returncode != 0:
        raise DrillError(f"{what}: {result.returncode}, {result.stderr}")
    try:
        compare_runs(folder / "alone", folder / "damaged", what)
    except DrillError:
        if "not exactly as it would have" not in result.stderr:
            raise
        return "resumed with a warning that transitions are lost"
    return "resumed from the checkpoint before" if "Resuming from step" in result.stderr else "resumed without effect"


def drill_full_disk(number: int, rng: random.Random) -> str:
    """:return: What has happened to runs on a file system that was too small for them, and then was enlarged"""
    outcomes = Counter[str]()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        new = new_run(rng, "--env", "Pendulum-v1", "-p", "normalize=true")
        checked([*new, "alone"], folder)
        for _ in range(number):
            with tmpfs(folder / "small", rng.randrange(50, 800)) as enlarge:
                result = sb3_ddpg([*new, "small/runs"], folder)
                if result.returncode != 0 and not ends_with_error(result):
                    raise DrillError(f"a full disk: {result.returncode}, {result.stderr}")
                outcomes["ended with an error" if result.returncode else "finished"] += 1
                enlarge()
                command = resume_command(folder / "small/runs", new)
                checked(command, folder)
                compare_runs(folder / "alone", folder / "small/runs", "a full disk")
    return f"{number} full disks: " + ", ".join(f"{n} {name}" for name, n in outcomes.most_common()) + "; no difference"


@contextlib.contextmanager
def tmpfs(directory: Path, kilobytes: int) -> Iterator[Callable[[], object]]:
    """:return: What enlarges the small file system that is mounted at a directory"""
    directory.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(directory)], check=True)
    try:
        yield lambda: subprocess.run(["mount", "-o", "remount,size=64m", str(directory)], check=True)
    finally:
        subprocess.run(["umount", str(directory)], check=True)


def drill_workers(number: int, rng: random.Random) -> str:
    """:return: What has happened to runs after one of the processes of their environments was killed"""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        new = new_run(rng, *TRAIN["Pendulum-v1, 4 processes"], steps=30_000)
        checked([*new, "alone"], folder)
        for _ in range(number):
            with started(["-m", "sb3_ddpg_ext", *new, "killed"], folder) as process:
                wait_until(lambda: list(folder.glob("killed/*/*/checkpoints/checkpoint-*")))
                os.kill(rng.choice(workers_of(process.pid)), signal.SIGKILL)
                _, errors = process.communicate()
            has_ended = process.returncode == 0  # training was over by then, and its processes were needed no more
            if not has_ended and not ends_with_error(subprocess.CompletedProcess(new, process.returncode, "", errors)):
                raise DrillError(f"after an environment's process was killed: {process.returncode}, {errors}")
            checked(resume_command(folder / "killed", new), folder)
            compare_runs(folder / "alone", folder / "killed", "an environment's process")
            shutil.rmtree(folder / "killed")
    return f"{number} processes of environments killed: one error each, no difference"


def workers_of(pid: int) -> list[int]:
    """:return: The processes of SubprocVecEnv: children of a server which is a child of the process"""
    children = [psutil.Process(pid), *psutil.Process(pid).children()]
    return [
        worker.pid for child in children for worker in child.children() if "forkserver" in " ".join(worker.cmdline())
    ]


if __name__ == "__main__":
    options = tyro.cli(Drill)
    rng = random.Random(options.seed)
    console = Console()
    parts = [
        (drill_train, options.kills),
        (drill_compare, options.compare_kills),
        (drill_tune, options.tune_kills),
        (drill_corruptions, options.corruptions),
        (drill_full_disk, options.full_disks),
        (drill_workers, options.workers),
    ]
    try:
        for part, number in parts:
            if number:
                console.print(part(number, rng))
    except DrillError as error:
        console.print(f"[red]{error}")
        sys.exit(1)
