"""
A fault drill: processes are killed at random moments, files are damaged, a disk is full. Then the same command is given
again, and what it ends with is compared, bit by bit, with a run to which nothing has happened.

``make drill`` runs it; ``python tests/helpers/drill.py --help`` lists its options. Processes are forked from one that has
imported everything, run the command line's ``main``, and are killed with SIGKILL.
"""

import itertools
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from processes import ENVIRONMENT, forked
from resumed_runs import digest
from rich.console import Console
from rich.progress import track

from sb3_ddpg_ext.checkpoint import has_checkpoints
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
    "LunarLanderContinuous-v3": ("--env", "LunarLanderContinuous-v3"),
    "LunarLanderContinuous-v3, 4 processes": ("--env", "LunarLanderContinuous-v3", "--n-envs", "4", "--vec-env", "subproc"),
    "HalfCheetah-v5": ("--env", "HalfCheetah-v5"),
    "HalfCheetah-v5, n-step, VecNormalize": ("--env", "HalfCheetah-v5", "-p", "n_steps=3", "-p", "normalize=true"),
}
COMMON = ("--quiet", "--eval-episodes", "2", "--threads", "1")
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
    seed: int = 0
    """seed of moments and damages"""


class Failure(Exception):
    """Something was lost or different."""


def sb3_ddpg(arguments: Sequence[str], folder: Path, seconds: float = 600) -> subprocess.CompletedProcess[str]:
    """:return: How a command has ended, which is killed after some seconds"""
    return forked(arguments, folder, ENVIRONMENT, seconds)


def checked(arguments: Sequence[str], folder: Path) -> float:
    """:return: How many seconds a command takes that is left alone"""
    start = time.perf_counter()
    result = sb3_ddpg(arguments, folder)
    if result.returncode != 0:
        raise Failure(f"{' '.join(arguments)} ended with {result.returncode}: {result.stderr}")
    return time.perf_counter() - start


def contents(directory: Path) -> dict[str, str]:
    """:return: Digests of what a run has ended with: weights and optimizers, evaluations, episodes, score"""
    found = {path.name: digest(read_parameters(path, False)) for path in directory.glob("*.zip")}
    found |= {path.name: path.read_text() for path in directory.glob("**/*vecnormalize.json")}
    with np.load(directory / "evaluations.npz") as evaluations:
        found["evaluations.npz"] = digest(dict(evaluations))
    for path in directory.glob("*.monitor.csv"):
        found[path.name] = digest([line.split(",")[:2] for line in path.read_text().splitlines()[2:]])
    record = read_run(directory)
    if record.score is None or record.evaluations is None:
        raise Failure(f"{directory} has no score: {record.reason}")
    found["record"] = digest([record.score.returns, record.steps, record.updates, record.evaluations.returns])
    return found


def differences(expected: dict[str, str], found: dict[str, str]) -> str:
    """:return: The names of what differs"""
    return ", ".join(sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name)))


def kill_until_finished(
    command: Callable[[], Sequence[str]], folder: Path, seconds: float, kills: int, rng: random.Random
) -> int:
    """
    Give a command again and again.

    :param command: Returns its arguments
    :param folder: Where it runs
    :param seconds: How long it takes
    :param kills: How often it is killed at most
    :param rng: Chooses the moments
    :return: How often it was killed
    """
    for n_kills in range(kills + 1):
        limit = rng.uniform(0, 0.7 * seconds) if n_kills < kills else 600
        result = sb3_ddpg(command(), folder, limit)
        if result.returncode == 0:
            return n_kills
        if result.returncode != -9:
            raise Failure(f"{' '.join(command())} ended with {result.returncode}: {result.stderr}")
    raise Failure(f"{' '.join(command())} did not end in 10 minutes")


def drill_train(kills: int, rng: random.Random) -> str:
    """:return: What has happened in runs of ``train`` that were killed and resumed"""
    n_kills = n_runs = n_anew = 0
    for arguments in itertools.cycle(TRAIN.values()):
        if n_kills >= kills:
            return f"train: {n_kills} kills in {n_runs} runs ({n_anew} of them before the first checkpoint), no difference"
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            new = ["train", *arguments, *SMALL, *COMMON, "--steps", "1500", "--eval-freq", "500"]
            new += ["--checkpoint-freq", str(rng.choice([70, 200])), "--log-dir"]
            seconds = checked([*new, "alone"], folder)
            (alone,) = folder.glob("alone/*/*_1")

            def command(folder: Path = folder, new: list[str] = new) -> Sequence[str]:
                nonlocal n_anew
                begun = next(folder.glob("killed/*/*_1/*/args.yml"), None)
                if begun is None:
                    shutil.rmtree(folder / "killed", ignore_errors=True)
                    return [*new, "killed"]
                n_anew += not has_checkpoints(begun.parents[1] / "checkpoints")
                return ["train", "--resume", str(begun.parents[1]), "--quiet"]

            n_kills += kill_until_finished(command, folder, seconds, min(kills - n_kills, KILLS_PER_RUN), rng)
            n_runs += 1
            (killed,) = folder.glob("killed/*/*_1")
            if what := differences(contents(alone), contents(killed)):
                raise Failure(f"{arguments}: {what} of the run that was killed differ")
    raise AssertionError


if __name__ == "__main__":
    options = tyro.cli(Drill)
    rng = random.Random(options.seed)
    console = Console()
    try:
        console.print(drill_train(options.kills, rng))
    except Failure as failure:
        console.print(f"[red]{failure}")
        sys.exit(1)
