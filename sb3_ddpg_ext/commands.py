"""What the commands do, as functions with typed results: for the command line, and for anybody's Python."""

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar, get_args, get_type_hints

from sb3_ddpg_ext import display, evaluation, report, training
from sb3_ddpg_ext.arguments import CompareArgs, EvaluateArgs, TrainArgs, TuneArgs
from sb3_ddpg_ext.comparison import PlannedRun, baseline_of, finished, plan, scales_of
from sb3_ddpg_ext.results.records import RunRecord
from sb3_ddpg_ext.tuning import require_packages

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sb3_ddpg_ext.report.analysis import Comparison
    from sb3_ddpg_ext.tuning.confirmation import Confirmed
    from sb3_ddpg_ext.tuning.search import Progress
    from sb3_ddpg_ext.tuning.study import Study
    from sb3_ddpg_ext.tuning.winner_file import WinningEntry

P = ParamSpec("P")
Arguments = TypeVar("Arguments")
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class ComparisonResult:
    """
    What a comparison has come to.

    :param runs: All its runs, those of Ctrl-C included
    :param records: The records of those that have come to an end, by run directory
    :param comparison: Everything that the report says in numbers; None if no run has come to an end
    :param report: Path of ``report.html``; None likewise
    :param interrupted: Whether Ctrl-C came first; the same command does the rest
    """

    runs: tuple[PlannedRun, ...]
    records: Mapping[Path, RunRecord]
    comparison: "Comparison | None"
    report: Path | None
    interrupted: bool = False

    def figures(self) -> "dict[str, Figure]":
        """:return: The pictures of the report that show something, by the names of their files"""
        return {} if self.comparison is None else report.figures(self.comparison)


@dataclass(frozen=True, eq=False)
class TuningResult:
    """
    What a study has come to.

    :param study: The study, with its search space
    :param progress: How far the search is
    :param runs: The runs of the confirmation
    :param records: Their records, by run directory
    :param ranked: The confirmed candidates, the best first; empty if there was no confirmation
    :param entry: The winner; None if that is the previous settings
    :param file: The file with the winner; None if it was not to be written
    :param has_changed: Whether the file did not have the winner's settings already
    :param report: Path of ``report.html``; None if there is none yet
    :param interrupted: Whether Ctrl-C came first; the same command does the rest
    """

    study: "Study"
    progress: "Progress"
    runs: tuple[PlannedRun, ...] = ()
    records: Mapping[Path, RunRecord] = field(default_factory=dict)
    ranked: "tuple[Confirmed, ...]" = ()
    entry: "WinningEntry | None" = None
    file: Path | None = None
    has_changed: bool = False
    report: Path | None = None
    interrupted: bool = False


def run_comparison(args: CompareArgs, runs: tuple[PlannedRun, ...] | None = None) -> ComparisonResult:
    """
    Do the runs of a comparison that are not finished, and write its report, also when Ctrl-C ends it.

    :param args: What to compare, and how
    :param runs: What :func:`~sb3_ddpg_ext.comparison.plan` made of that, if it was asked already
    :return: What came out
    :raises SettingsError: For anything that the caller has to mend
    """
    runs = plan(args) if runs is None else runs
    records = {run.directory: record for run in runs if (record := finished(run)) is not None}
    interrupted = False
    try:
        display.run_with_progress(args, [run for run in runs if run.directory not in records], records)
    except KeyboardInterrupt:
        interrupted = True
    if not records:
        return ComparisonResult(runs, records, None, None, interrupted)
    labels = tuple(dict.fromkeys(run.label for run in runs))
    comparison = report.analyse(
        args.log_dir, baseline=baseline_of(args), order=labels, scales=scales_of(args), equal=args.equal
    )
    page = report.write(comparison, args.log_dir, args.format)
    return ComparisonResult(runs, records, comparison, page, interrupted)


def run_tuning(args: TuneArgs) -> TuningResult:
    """
    Search, train the best trials again on fresh seeds, and write the winner to its file.

    :param args: What to tune, and how
    :return: What came out
    :raises SettingsError: For anything that the caller has to mend
    """
    require_packages()
    from sb3_ddpg_ext.tuning import confirmation, pages  # these import Optuna, which takes a second
    from sb3_ddpg_ext.tuning.display import search_with_progress
    from sb3_ddpg_ext.tuning.search import progress as progress_of
    from sb3_ddpg_ext.tuning.study import prepare

    job, study = prepare(args)
    file = confirmation.target(args) if args.write and args.top else None
    try:
        progress = search_with_progress(args, job, study)
    except KeyboardInterrupt:
        return TuningResult(study, progress_of(job), interrupted=True)
    if args.top == 0 or progress.best is None:
        return TuningResult(study, progress, report=pages.write(args, job, study, (), ""))
    runs = confirmation.plan(args, job, study)
    records = {run.directory: record for run in runs if (record := finished(run)) is not None}
    try:
        display.run_with_progress(args, [run for run in runs if run.directory not in records], records)
    except KeyboardInterrupt:
        return TuningResult(study, progress, runs, records, interrupted=True)
    report.write_report(confirmation.confirm_directory(args), baseline=study.incumbent_label)
    ranked = confirmation.rank(runs, records, study)
    entry = confirmation.winner(args, study, ranked, progress.finished)
    page = pages.write(args, job, study, ranked, entry.text if entry else "")
    result = functools.partial(TuningResult, study, progress, runs, records, ranked, entry, report=page)
    if entry is None or file is None:
        return result()
    return result(file=file, has_changed=confirmation.write_winner(args, job, study, entry))


def _called_with(
    arguments: Callable[P, Arguments], command: Callable[[Arguments], Result], doc: str
) -> Callable[P, Result]:
    """A command that takes its arguments as they are, so that they are declared in one place."""
    signature, hints = inspect.signature(arguments), get_type_hints(arguments)
    paths = {name for name in signature.parameters if Path in (hints[name], *get_args(hints[name]))}

    def call(*args: P.args, **kwargs: P.kwargs) -> Result:
        given = signature.bind(*args, **kwargs)
        for name in paths & given.arguments.keys():
            if isinstance(given.arguments[name], str):  # as on the command line
                given.arguments[name] = Path(given.arguments[name])
        return command(arguments(*given.args, **given.kwargs))

    call.__doc__ = doc
    vars(call)["__signature__"] = signature
    return call


train = _called_with(
    TrainArgs,
    training.train,
    """
    Train one model, as ``sb3-ddpg train``, and write a run directory.

    >>> from pathlib import Path
    >>> from tempfile import mkdtemp
    >>> record = train("Pendulum-v1", steps=96, eval_freq=32, eval_episodes=2, log_dir=Path(mkdtemp()), quiet=True)
    >>> record.steps, record.evaluations.steps.tolist()
    (96, [32.0, 64.0, 96.0])

    The arguments are those of the command line: :class:`sb3_ddpg_ext.arguments.TrainArgs`.

    :return: The record of the run; its ``directory`` is the run directory
    :raises SettingsError: For anything that the caller has to mend before training begins
    """,
)
evaluate = _called_with(
    EvaluateArgs,
    evaluation.evaluate,
    """
    Play episodes with a saved model, as ``sb3-ddpg evaluate``.

    >>> from pathlib import Path
    >>> from tempfile import mkdtemp
    >>> record = train("Pendulum-v1", steps=200, eval_freq=0, eval_episodes=1, log_dir=Path(mkdtemp()), quiet=True)
    >>> file, score = evaluate(record.directory, model="last", episodes=3)
    >>> file.name, len(score.returns)
    ('Pendulum-v1.zip', 3)

    The arguments are those of the command line: :class:`sb3_ddpg_ext.arguments.EvaluateArgs`.

    :return: The model's file, and the score
    :raises SettingsError: If a setting is wrong, or the model cannot be loaded or shown
    """,
)
compare = _called_with(
    CompareArgs,
    run_comparison,
    """
    Train algorithms with several seeds, and write a report, as ``sb3-ddpg compare``.

    >>> from pathlib import Path
    >>> from tempfile import mkdtemp
    >>> small = dict(steps=100, eval_freq=50, eval_episodes=10, log_dir=Path(mkdtemp()), quiet=True)
    >>> result = compare("custom_ddpg,ddpg", "Pendulum-v1", seeds=2, workers=0, **small)
    >>> [row.label for row in result.comparison.score_rows["final"]]
    ['custom_ddpg', 'ddpg']

    The arguments are those of the command line: :class:`sb3_ddpg_ext.arguments.CompareArgs`.

    :return: The records, the numbers of the report, and its pictures
    :raises SettingsError: For anything that the caller has to mend
    """,
)
tune = _called_with(
    TuneArgs,
    run_tuning,
    """
    Search for better settings, and confirm them on fresh seeds, as ``sb3-ddpg tune``.

    >>> from pathlib import Path
    >>> from tempfile import mkdtemp
    >>> small = dict(steps=100, eval_freq=50, eval_episodes=1, log_dir=Path(mkdtemp()), quiet=True)
    >>> result = tune("Pendulum-v1", trials=2, seeds=1, top=1, confirm_seeds=2, workers=0, write=False, **small)
    >>> len(result.ranked), len(result.runs)
    (2, 4)

    The arguments are those of the command line: :class:`sb3_ddpg_ext.arguments.TuneArgs`.

    :return: The study, the ranking of the confirmation, and the winner
    :raises SettingsError: For anything that the caller has to mend
    """,
)
