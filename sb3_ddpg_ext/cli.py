"""The command line ``sb3-ddpg``: arguments in, some lines of result or one of error out."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from sb3_ddpg_ext import report
from sb3_ddpg_ext.benchmark import BenchmarkArgs, benchmark, table
from sb3_ddpg_ext.evaluation import EvaluateArgs, evaluate
from sb3_ddpg_ext.files import atomic
from sb3_ddpg_ext.settings import SettingsError
from sb3_ddpg_ext.training import TrainArgs, train

Command = (
    Annotated[TrainArgs, tyro.conf.subcommand("train")]
    | Annotated[EvaluateArgs, tyro.conf.subcommand("evaluate")]
    | Annotated[BenchmarkArgs, tyro.conf.subcommand("benchmark")]
)


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run one command.

    :param argv: Its arguments; those of the process if not given
    :return: Exit status: 0, 2 for what the caller has to mend, 130 for an interrupted training
    """
    command = tyro.cli(Command, prog="sb3-ddpg", args=argv, description="DDPG for Stable-Baselines3.")
    try:
        match command:
            case TrainArgs():
                return _train(command)
            case EvaluateArgs():
                return _evaluate(command)
            case BenchmarkArgs():
                return _benchmark(command)
    except (SettingsError, FloatingPointError, OSError) as error:  # the last: a full disk, say
        print(f"error: {error}", file=sys.stderr)
        return 2


def _train(args: TrainArgs) -> int:
    record = train(args)
    directory = Path(record["directory"])
    with atomic(directory / "learning_curve.png") as partial:
        report.learning_curve(directory).savefig(partial)
    seconds = record["seconds"]
    took = f"{record['steps']:,} steps in {seconds['train']:.0f} s and {seconds['evaluate']:.0f} s of evaluations"
    if record["status"] == "interrupted":
        print(f"Interrupted after {took}. What was reached is saved in {directory}")
        return 130
    print(f"Trained {record['algo']} on {record['env']}: {took}")
    print(f"Last model: {_score(record['score'])}")
    best = record["best_evaluation"]
    if best is not None:
        print(f"Best model: mean return {best['mean']:.1f} in the evaluation at step {best['step']:,}, which chose it")
    print(f"Saved in {directory}")
    return 0


def _evaluate(args: EvaluateArgs) -> int:
    result = evaluate(args)
    print(f"{result['model']}: {_score(result)}")
    if args.video is not None:
        print(f"Videos in {args.video}")
    return 0


def _benchmark(args: BenchmarkArgs) -> int:
    print(table(benchmark(args)))
    print(f"Written to {args.log_dir}: benchmark.json, benchmark.md, benchmark.png")
    return 0


def _score(score: dict[str, Any]) -> str:
    return f"mean return {score['mean']:.1f} (standard deviation {score['std']:.1f}) over {score['episodes']} episodes"
