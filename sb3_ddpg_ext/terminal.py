"""Commands in a terminal: their arguments in, some lines of result or one of error out."""

import contextlib
import shlex
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from sb3_ddpg_ext import display, report
from sb3_ddpg_ext.arguments import (
    BenchmarkArgs,
    CheckArgs,
    Command,
    CompareArgs,
    EvaluateArgs,
    ExportArgs,
    InspectArgs,
    ListArgs,
    PullArgs,
    PushArgs,
    TrainArgs,
    TuneArgs,
)
from sb3_ddpg_ext.benchmark import benchmark, table
from sb3_ddpg_ext.callbacks import CHECKPOINTS
from sb3_ddpg_ext.checking import check
from sb3_ddpg_ext.checkpoint import has_checkpoints
from sb3_ddpg_ext.commands import run_comparison, run_tuning
from sb3_ddpg_ext.comparison import finished, plan, unfinished_state
from sb3_ddpg_ext.errors import FaultyEnvironmentError, NonFiniteError, SettingsError, trace
from sb3_ddpg_ext.evaluation import evaluate
from sb3_ddpg_ext.export import export
from sb3_ddpg_ext.files import atomic
from sb3_ddpg_ext.hub import pull, push
from sb3_ddpg_ext.inspection import inspect_run
from sb3_ddpg_ext.listing import tables
from sb3_ddpg_ext.results.records import Score
from sb3_ddpg_ext.run_arguments import settings_of
from sb3_ddpg_ext.training import train


def carry_out(command: Command, with_traceback: bool) -> int:
    """
    Carry out one command.

    :param command: Its arguments
    :param with_traceback: Whether to print where an error began, too
    :return: Exit status: 0, 1 if runs of a comparison or all trials failed, 2 for what the caller has to mend, 130 for
        Ctrl-C
    """
    with _warnings_in_one_line():
        return _run(command, with_traceback)


def _run(command: Command, with_traceback: bool) -> int:
    try:
        match command:
            case TrainArgs():
                return _train(command)
            case EvaluateArgs():
                return _evaluate(command)
            case InspectArgs():
                return _inspect(command)
            case CompareArgs():
                return _compare(command, with_traceback)
            case TuneArgs():
                return _tune(command, with_traceback)
            case BenchmarkArgs():
                return _benchmark(command)
            case ExportArgs():
                return _export(command)
            case CheckArgs():
                return _check(command)
            case ListArgs():
                return _list(command)
            case PushArgs():
                return _push(command)
            case PullArgs():
                return _pull(command)
    except (SettingsError, NonFiniteError, FaultyEnvironmentError, OSError) as error:  # the last: a full disk, say
        if with_traceback:
            print(trace(error), file=sys.stderr, end="")
        directory, remarks = getattr(error, "run_directory", None), []
        if directory is not None:
            remarks.append(f"what was reached is in {directory}")
        if isinstance(error, FaultyEnvironmentError) and not with_traceback:
            remarks.append("--traceback shows more")
        message = f"{str(error).removesuffix('.')} ({'; '.join(remarks)})" if remarks else str(error)
        print(f"error: {message}", file=sys.stderr)
        return 2


@contextlib.contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Each warning once, without the line of code that warns, of which a user of the command line knows nothing."""
    before, shown = warnings.formatwarning, set[str]()

    def once(message: Warning | str, *_: object, **__: object) -> str:
        line = f"warning: {message}\n"
        if line in shown:  # each run of a comparison warns of its environment
            return ""
        shown.add(line)
        return line

    vars(warnings)["formatwarning"] = once
    try:
        yield
    finally:
        vars(warnings)["formatwarning"] = before


def _train(args: TrainArgs) -> int:
    if args.env and args.resume is None and not args.quiet:
        print(f"Settings: {settings_of(args).source}")
    try:
        record = train(args)
    except Exception as error:
        if (directory := getattr(error, "run_directory", None)) is not None:
            with contextlib.suppress(OSError):  # a full disk must not hide what ended training
                _draw_learning_curve(directory)
        raise
    directory = record.directory
    try:
        _draw_learning_curve(directory)
    except OSError as error:  # the run is finished and recorded all the same
        print(f"The learning curve is missing: {error}", file=sys.stderr)
    seconds = record.seconds
    took = f"{record.steps:,} steps in {seconds.train:.0f} s and {seconds.evaluate:.0f} s of evaluations, "
    took += "with one thread" if record.threads == 1 else f"with {record.threads} threads"
    if record.score is None:
        print(f"Interrupted after {took}. What was reached is saved in {directory}")
        if has_checkpoints(directory / CHECKPOINTS):
            print(f"To go on: sb3-ddpg train --resume {shlex.quote(str(directory))}")
        return 130
    print(f"Trained {record.algo} on {record.env}: {took}")
    max_steps = 0 if record.protocol is None else record.protocol.max_steps  # of a resumed run, too
    print(f"Last model: {_score(record.score, max_steps)}")
    best = record.best_evaluation
    if best is not None:
        print(f"Best model: mean return {best.mean:.1f} in the evaluation at step {best.step:,}, which chose it")
    print(f"Saved in {directory}")
    return 0


def _draw_learning_curve(directory: Path) -> None:
    with atomic(directory / "learning_curve.png") as partial:
        report.learning_curve(directory).savefig(partial)


def _evaluate(args: EvaluateArgs) -> int:
    model, score = evaluate(args)
    print(f"{model}: {_score(score, args.eval_max_steps)}")
    if args.video is not None:
        print(f"Videos in {args.video}")
    return 0


def _inspect(args: InspectArgs) -> int:
    inspection = inspect_run(args.run)
    for finding in inspection.findings:
        print(finding)
    if not inspection.findings:
        print(f"Nothing looks wrong{' in what there is' if inspection.missing else ''}")
    if inspection.missing:
        print(f"Missing: {'; '.join(inspection.missing)}")
    print(f"Page: {inspection.page}")
    return 0


def _benchmark(args: BenchmarkArgs) -> int:
    record = benchmark(args)
    print(table(record))
    print(f"Written to {args.log_dir}: benchmark.json, benchmark.md{', benchmark.png' if record['results'] else ''}")
    return 0


def _export(args: ExportArgs) -> int:
    file, difference = export(args)
    print(f"Written to {file}: its actions are those of the model, to {difference:.1g} of their range")
    return 0


def _check(args: CheckArgs) -> int:
    found = check(args)
    for finding in found:
        print(finding)
    counts = Counter(finding.level for finding in found)
    print(f"{args.env}: errors {counts['error']}, warnings {counts['warning']}")
    return 1 if counts["error"] else 0


def _list(args: ListArgs) -> int:
    for each in tables(args.what):
        Console(markup=False, highlight=False).print(each)
    return 0


def _push(args: PushArgs) -> int:
    print(f"Uploaded to {push(args)}")
    return 0


def _pull(args: PullArgs) -> int:
    directory, left_out = pull(args)
    if left_out:
        print(f"Files that are no part of a run were left out: {len(left_out)}, such as {left_out[0]}")
    print(f"Downloaded to {directory}: no code from it is run by sb3-ddpg evaluate {shlex.quote(str(directory))}")
    return 0


def _compare(args: CompareArgs, with_traceback: bool) -> int:
    runs = plan(args)
    missing = [run for run in runs if finished(run) is None]
    for run, what in [(run, what) for run in missing if (what := unfinished_state(run, args.resume)) is not None]:
        print(f"{run.directory}: {what}")
    if args.dry_run:
        display.print_plan(args, runs, missing)
        return 0
    result = run_comparison(args, runs)
    if result.comparison is not None:
        display.print_summary(runs, result.records)
        display.print_failures(runs, result.records, with_traceback)
        print(f"Baseline: {result.comparison.baseline_in_words}")
        print(f"Report: {result.report}")
    if result.interrupted:
        n_finished = sum(record.is_finished for record in result.records.values())
        print(f"Interrupted. {n_finished} of {len(runs)} runs are finished and kept; the same command does the rest")
        return 130
    return 1 if any(record.status == "failed" for record in result.records.values()) else 0


def _tune(args: TuneArgs, with_traceback: bool) -> int:
    result = run_tuning(args)
    if result.interrupted:
        when = " while confirming" if result.runs else ""
        print(f"Interrupted{when}. What is finished is kept; the same command does the rest")
        return 130
    if not result.ranked:
        if result.progress.best is None:
            print("No trial came to its end; the report says why")
        print(f"Report: {result.report}")
        return int(result.progress.best is None)
    from sb3_ddpg_ext.tuning.confirmation import with_fixed  # these import Optuna, which takes a second
    from sb3_ddpg_ext.tuning.display import print_ranking

    print_ranking(result.study, result.ranked)
    display.print_failures(result.runs, result.records, with_traceback)
    print(f"Report: {result.report}")
    if result.entry is None:
        than = f" than they are{with_fixed(result.study)}" if result.study.fixed else ""
        print(f"The previous settings stay: nothing was better on fresh seeds{than}")
    else:
        print(result.entry.text)
        if result.file is not None:
            has = f"Written to {result.file}" if result.has_changed else f"{result.file} has these settings already"
            print(has)
    return 0


def _score(score: Score, max_steps: int) -> str:
    cut_off = score.cut_off(max_steps)
    mean = f"mean return {score.mean:.1f} (standard deviation {score.std:.1f}) over {len(score.returns)} episodes"
    return f"{mean}, {cut_off}" if cut_off else mean
