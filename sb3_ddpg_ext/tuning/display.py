"""What ``sb3-ddpg tune`` shows in the terminal: progress of the search, and the ranking of the confirmation."""

import contextlib
import threading
from collections.abc import Sequence

from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as ProgressBar
from rich.table import Table

from sb3_ddpg_ext.arguments import TuneArgs
from sb3_ddpg_ext.report.tables import interval
from sb3_ddpg_ext.tuning import scoring
from sb3_ddpg_ext.tuning.confirmation import Confirmed
from sb3_ddpg_ext.tuning.search import Progress, progress, search
from sb3_ddpg_ext.tuning.storage import Job
from sb3_ddpg_ext.tuning.study import Study

_REFRESH_SECONDS = 2


def search_with_progress(args: TuneArgs, job: Job, study: Study) -> Progress:
    """
    Search, and show how far the study is. The numbers come from the database, since other commands may work on the same
    study.

    :param args: Arguments of the command
    :param job: Where the study is stored
    :param study: The study
    :return: How far the study is after the search
    """
    if not args.quiet:
        line = f"The study in a browser: optuna-dashboard {job.shown_url}"
        Console(markup=False, highlight=False, soft_wrap=True).print(line)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    is_over = threading.Event()
    with ProgressBar(*columns, disable=args.quiet, refresh_per_second=1) as bars:
        bar = bars.add_task("", total=args.trials)

        def show() -> None:
            now = progress(job)
            best = "no score yet" if now.best is None else f"best {scoring.describe(study.arguments.score, now.best)}"
            counts = f"{now.running} running, {now.pruned} pruned, {now.failed} failed"
            bars.update(bar, completed=now.finished, description=f"{best}, {counts}")

        def watch() -> None:
            while not is_over.wait(_REFRESH_SECONDS):
                with contextlib.suppress(Exception):  # if the database fails, the search itself says so
                    show()

        watcher = threading.Thread(target=watch)
        if not args.quiet:
            watcher.start()
        try:
            search(job, workers=args.workers, scheduler=args.scheduler)
            show()
        finally:
            is_over.set()
            if watcher.ident is not None:
                watcher.join()
    return progress(job)


def print_ranking(study: Study, ranked: Sequence[Confirmed]) -> None:
    """
    :param study: The study
    :param ranked: The confirmed candidates, the best first
    """
    table = Table(box=SIMPLE)
    score = scoring.DESCRIPTIONS[study.arguments.score]
    for column in ("settings", "runs", "failed", score, "better than the previous"):
        table.add_column(column)
    for c in ranked:
        table.add_row(c.label, str(len(c.scores)), str(c.failed), interval(c.estimate), interval(c.better))
    Console(markup=False).print(table)
