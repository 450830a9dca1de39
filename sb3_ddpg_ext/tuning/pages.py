"""The report of a study and its confirmation: one HTML page."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna import visualization

from sb3_ddpg_ext.arguments import ScoreKind, TuneArgs
from sb3_ddpg_ext.files import atomic
from sb3_ddpg_ext.report.rendering import environment
from sb3_ddpg_ext.report.tables import Table, interval
from sb3_ddpg_ext.tuning import scoring
from sb3_ddpg_ext.tuning.confirmation import Confirmed
from sb3_ddpg_ext.tuning.objective import REASON
from sb3_ddpg_ext.tuning.search import Progress, latest_attempts, progress, ranking
from sb3_ddpg_ext.tuning.storage import Job
from sb3_ddpg_ext.tuning.study import Study, connect, run_directory

_PLOTS: Mapping[str, Any] = {
    "History": visualization.plot_optimization_history,
    "Importance of the hyperparameters (PED-ANOVA)": visualization.plot_param_importances,
    "Slices": visualization.plot_slice,
    "Parallel coordinates": visualization.plot_parallel_coordinate,
}
_AXIS_TITLES: Mapping[ScoreKind, str] = {
    **scoring.DESCRIPTIONS,
    ScoreKind.STEPS_TO_THRESHOLD: "times per million steps",
    ScoreKind.SECONDS_TO_THRESHOLD: "times per hour",
}
_METHOD = (
    "IQM: the mean of the middle half of the runs. Intervals: 95%, percentile bootstrap over runs; with few runs they "
    "are too narrow. P: probability that a run is better than one with the previous settings. Failed runs count as the "
    "worst there is."
)


@dataclass(frozen=True)
class Figure:
    """
    One of Optuna's plots.

    :param title: Its heading
    :param html: The plot, empty if there is none
    :param reason: Why there is none
    """

    title: str
    html: str = ""
    reason: str = ""


def write(args: TuneArgs, job: Job, study: Study, ranked: Sequence[Confirmed], entry: str) -> Path:
    """
    Write the report.

    :param args: Arguments of the command
    :param job: Where the study is stored
    :param study: The study
    :param ranked: The confirmed candidates, the best first; empty if there was no confirmation
    :param entry: The winner in YAML; empty if that is the incumbent
    :return: Path of ``report.html``
    """
    optuna_study, _ = connect(job)
    tables = _confirmation(study, ranked), _best(job, study), _unfinished(optuna_study)
    page = (
        environment("tuning")
        .get_template("tuning.html.j2")
        .render(
            title=f"{args.algo} on {args.env}",
            summary=_summary(study, progress(job)),
            tables=[table for table in tables if table.rows],
            confirmed=bool(ranked),
            entry=entry,
            figures=_figures(optuna_study, study),
            dashboard=f"optuna-dashboard {job.shown_url}",
        )
    )
    file = run_directory(args) / "report.html"
    with atomic(file) as partial:
        partial.write_text(page, encoding="utf-8")
    return file


def _summary(study: Study, now: Progress) -> tuple[str, ...]:
    arguments = study.arguments
    best = "none" if now.best is None else scoring.describe(arguments.score, now.best)
    return (
        f"Score: {scoring.DESCRIPTIONS[arguments.score]}, IQM of {arguments.seeds} runs of each trial. "
        f"Best trial: {best}.",
        f"{now.finished} trials, {now.pruned} of them pruned and {now.failed} failed. Fixed: "
        f"{', '.join(study.fixed) or 'nothing'}{', also in the previous settings' * bool(study.fixed)}.",
    )


def _confirmation(study: Study, ranked: Sequence[Confirmed]) -> Table:
    return Table(
        f"Confirmation on fresh seeds: {scoring.DESCRIPTIONS[study.arguments.score]}. {_METHOD}",
        ("settings", "runs", "failed", "IQM [95% interval]", "P [95% interval]"),
        tuple((c.label, str(len(c.scores)), str(c.failed), interval(c.estimate), interval(c.better)) for c in ranked),
        heads=1,
    )


def _best(job: Job, study: Study) -> Table:
    trials = ranking(job)[:10]
    names = [dimension.name for dimension in study.space.dimensions if dimension.name not in study.space.fixed]
    return Table(
        "The best trials of the search. The best of many noisy scores is not the best: see the confirmation.",
        ("trial", "score", *names),
        tuple(
            (
                f"{trial.number}{f' ({study.incumbent_label})' * study.is_incumbent(trial)}",
                scoring.describe(study.arguments.score, trial.value or 0.0),
                *(_cell(trial.params.get(name)) for name in names),
            )
            for trial in trials
        ),
        heads=1,
    )


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _unfinished(optuna_study: optuna.Study) -> Table:
    return Table(
        "Trials that did not come to their end, and why.",
        ("trial", "state", "reason"),
        tuple(
            (str(trial.number), trial.state.name.lower(), trial.user_attrs.get(REASON, "its worker died, each time"))
            for trial in latest_attempts(optuna_study.trials).values()
            if trial.state.is_finished() and (trial.state.name == "FAIL" or REASON in trial.user_attrs)
        ),
        heads=1,
    )


def _figures(optuna_study: optuna.Study, study: Study) -> list[Figure]:
    axis = {"target_name": _AXIS_TITLES[study.arguments.score]}
    figures, include_plotlyjs = [], True  # the page has its JavaScript once
    for title, plot in _PLOTS.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # some plots are experimental
                figure = plot(optuna_study, **({} if "Importance" in title else axis))
                html = figure.to_html(full_html=False, include_plotlyjs=include_plotlyjs)
        except (ValueError, RuntimeError) as error:  # too few trials, or all have the same value
            figures.append(Figure(title, reason=f"Not enough trials: {error}"))
        else:
            figures.append(Figure(title, html))
            include_plotlyjs = False
    return figures
