"""What ``compare`` and ``tune`` show of their runs in the terminal."""

import contextlib
import heapq
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean

from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table

from sb3_ddpg_ext.arguments import CompareArgs, TuneArgs
from sb3_ddpg_ext.comparison import PlannedRun, run_missing, steps_so_far
from sb3_ddpg_ext.duration import expect
from sb3_ddpg_ext.results.records import RunRecord


def run_with_progress(
    args: CompareArgs | TuneArgs, missing: Sequence[PlannedRun], records: dict[Path, RunRecord]
) -> None:
    """
    Do the missing runs, with a progress bar and a line for each that ends.

    :param args: Arguments of the command
    :param missing: The runs to do
    :param records: Gets their records, by run directory
    :raises KeyboardInterrupt: On Ctrl-C; what is finished by then is kept
    """
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    running: dict[Path, tuple[PlannedRun, TaskID]] = {}
    start, n_failed = time.monotonic(), 0
    with Progress(*columns, disable=args.quiet, refresh_per_second=1) as progress:
        bar = progress.add_task("", total=len(missing))

        def show_steps() -> None:
            for run, task in list(running.values()):
                progress.update(task, completed=steps_so_far(run))

        def show() -> None:
            n_done = int(progress.tasks[0].completed)
            left = (time.monotonic() - start) * (len(missing) / n_done - 1) if 0 < n_done < len(missing) else None
            counts = f"{n_done - n_failed} finished, {len(running)} running, {n_failed} failed"
            progress.update(bar, description=counts if left is None else f"{counts}, about {_duration(left)} left")

        def started(run: PlannedRun) -> None:
            if run.directory not in running:  # a worker may have died and another begun with it
                task = progress.add_task(_name(run), total=run.settings.n_timesteps)
                running[run.directory] = run, task
            show()

        show()
        results = run_missing(
            missing, workers=args.workers, scheduler=args.scheduler, resume=args.resume, on_start=started
        )
        try:
            with _every_second(show_steps, disable=args.quiet), contextlib.closing(results):
                for run, record in results:
                    if (begun := running.pop(run.directory, None)) is not None:
                        progress.remove_task(begun[1])
                    records[run.directory] = record
                    n_failed += record.status == "failed"
                    progress.advance(bar)
                    show()
                    if not args.quiet:
                        progress.console.print(
                            f"{_name(run)}: {_outcome(record)}", soft_wrap=True, highlight=False, markup=False
                        )
        except KeyboardInterrupt:
            progress.update(bar, description="stopping")
            raise


@contextlib.contextmanager
def _every_second(show: Callable[[], None], *, disable: bool) -> Iterator[None]:
    """Call a function from another thread while the block runs."""
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(1):
            with contextlib.suppress(KeyError):  # the run has just ended, and its bar is gone
                show()

    watcher = threading.Thread(target=watch, daemon=True)
    if not disable:
        watcher.start()
    try:
        yield
    finally:
        is_over.set()
        if watcher.ident is not None:
            watcher.join()


def print_plan(args: CompareArgs, runs: Sequence[PlannedRun], missing: Sequence[PlannedRun]) -> None:
    """
    Print what a comparison would do, and about how long it takes.

    :param args: Arguments of the command
    :param runs: All runs
    :param missing: Those that are not finished
    """
    table = _table("done", "steps", "each", "from")
    seconds: dict[tuple[str, str], float] = {}
    unknown = False
    for (label, env), group in _groups(runs).items():
        n_missing = len([run for run in missing if (run.label, run.args.env) == (label, env)])
        expected = expect(group[0])
        seconds[label, env] = expected.seconds or 0.0
        unknown |= expected.seconds is None
        each = "unknown" if expected.seconds is None else _duration(expected.seconds)
        done = f"{len(group) - n_missing} of {len(group)}"
        table.add_row(label, env, done, f"{group[0].settings.n_timesteps:,}", each, expected.source)
    Console(markup=False).print(table)
    n_workers = max(args.workers, 1) if args.scheduler is None else 1
    loads = [0.0] * n_workers
    for run in missing:  # each goes to the worker that is free first
        heapq.heapreplace(loads, loads[0] + seconds[run.label, run.args.env])
    workers = f"{n_workers} workers" if n_workers > 1 else "one worker"
    print(f"{len(missing)} runs to do, about {_duration(max(loads))} with {workers}{', and the unknown' * unknown}")


def print_summary(runs: Sequence[PlannedRun], records: Mapping[Path, RunRecord]) -> None:
    """
    Print a row for each algorithm on each environment.

    :param runs: All runs
    :param records: Their records, by run directory
    """
    table = _table("done", "failed", "mean final return")
    for (label, env), group in _groups(runs).items():
        ended = [records[run.directory] for run in group if run.directory in records]
        done = [record for record in ended if record.is_finished]
        mean = f"{fmean(r.score.mean for r in done if r.score is not None):.1f}" if done else ""
        table.add_row(label, env, f"{len(done)} of {len(group)}", str(len(ended) - len(done)), mean)
    Console(markup=False).print(table)


def print_failures(runs: Sequence[PlannedRun], records: Mapping[Path, RunRecord], with_traceback: bool) -> None:
    """
    Print a line for each run that has failed.

    :param runs: All runs
    :param records: Their records, by run directory
    :param with_traceback: Whether to print where each error began, too
    """
    for run in runs:
        record = records.get(run.directory)
        if record is not None and record.status == "failed":
            if with_traceback:
                print(record.traceback or "", end="")
            print(f"{_name(run)}: {_outcome(record)}")


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE)
    table.add_column("algorithm", overflow="fold")
    for column in ("environment", *columns):
        table.add_column(column, no_wrap=column == "environment")
    return table


def _groups(runs: Sequence[PlannedRun]) -> dict[tuple[str, str], list[PlannedRun]]:
    groups: dict[tuple[str, str], list[PlannedRun]] = {}
    for run in runs:
        groups.setdefault((run.label, run.args.env), []).append(run)
    return groups


def _name(run: PlannedRun) -> str:
    return f"{run.label} on {run.args.env}, seed {run.args.seed}"


def _outcome(record: RunRecord) -> str:
    if record.score is None:
        return f"{record.status}: {record.reason}"
    cut_off = "" if record.protocol is None else record.score.cut_off(record.protocol.max_steps)
    outcome = f"mean return {record.score.mean:.1f} after {_duration(record.seconds.train)} of training"
    return f"{outcome}; of its last episodes, {cut_off}" if cut_off else outcome


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"
