"""The command line: ``sb3-ddpg train``, ``sb3-ddpg evaluate``. Arguments in, one line of result or of error out."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from sb3_ddpg_ext import report
from sb3_ddpg_ext.evaluation import EvaluateArgs, evaluate
from sb3_ddpg_ext.settings import SettingsError
from sb3_ddpg_ext.training import TrainArgs, atomic, train


@dataclass(frozen=True)
class Train(TrainArgs):
    """Train an algorithm on an environment with the settings of hyperparams/, and write a run directory."""

    params: Annotated[
        tuple[str, ...], tyro.conf.arg(aliases=["-p"], metavar="NAME=VALUE"), tyro.conf.UseAppendAction
    ] = ()
    """override of one setting, e.g. -p gamma=0.98 -p policy_kwargs="dict(net_arch=[64, 64])" """

    def run(self) -> int:
        """Train, draw the learning curve, say where everything lies and what it scored."""
        record = train(self)
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
            print(
                f"Best model: mean return {best['mean']:.1f} in the evaluation at step {best['step']:,}, which chose it"
            )
        print(f"Saved in {directory}")
        return 0


@dataclass(frozen=True)
class Evaluate(EvaluateArgs):
    """Play episodes with a trained model, and print what it scores."""

    run_or_model: Annotated[Path, tyro.conf.Positional]
    """run directory, or a model's .zip file"""

    def run(self) -> int:
        """Play, and say what it scored."""
        result = evaluate(self)
        print(f"{result['model']}: {_score(result)}")
        if self.video is not None:
            print(f"Videos in {self.video}")
        return 0


def _score(score: dict[str, Any]) -> str:
    return f"mean return {score['mean']:.1f} (standard deviation {score['std']:.1f}) over {score['episodes']} episodes"


Command = Annotated[Train, tyro.conf.subcommand("train")] | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run one command.

    :param argv: its arguments; those of the process if not given
    :return: exit status: 0, 2 for what the caller has to mend, 130 for an interrupted training
    """
    command = tyro.cli(Command, prog="sb3-ddpg", args=argv, description="DDPG for Stable-Baselines3.")
    try:
        return command.run()
    except (SettingsError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
