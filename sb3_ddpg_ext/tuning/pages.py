"""A study and what was confirmed of it -> one HTML page with everything in it."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import optuna
from optuna import visualization

from sb3_ddpg_ext.files import atomic
from sb3_ddpg_ext.report.tables import Table, interval, number
from sb3_ddpg_ext.tuning import TuneArgs, scoring
from sb3_ddpg_ext.tuning.confirmation import PREVIOUS, Confirmed
from sb3_ddpg_ext.tuning.objective import REASON
from sb3_ddpg_ext.tuning.search import Progress, chains, progress, ranking
from sb3_ddpg_ext.tuning.study import Job, Study, connect, run_directory

_PLOTS: Mapping[str, Any] = {
    "History": visualization.plot_optimization_history,
    "Importance of the hyperparameters (PED-ANOVA)": visualization.plot_param_importances,
    "Slices": visualization.plot_slice,
    "Parallel coordinates": visualization.plot_parallel_coordinate,
}
_METHOD = (
    "IQM: the mean of the middle half of the runs. Intervals: 95%, percentile bootstrap over runs; with few runs they "
    "are too narrow. P: probability that a run is better than one with the previous settings. Failed runs count as the "
    "worst there is."
)


@dataclass(frozen=True)
class Figure:
    """
    One of Optuna's pictures.

    :param title: Its heading
    :param html: The picture, empty if there is none
    :param reason: Why there is none
    """

    title: str
    html: str = ""
    reason: str = ""


def write(args: TuneArgs, job: Job, study: Study, ranked: Sequence[Confirmed], entry: str) -> Path:
    """
    Write the report.

    :param args: What was tuned
    :param job: Where the study is
    :param study: What was searched
    :param ranked: The confirmed candidates, the best first; none if there were none to be
    :param entry: The winner, as it is in the hyperparameter file; empty if the previous settings are
    :return: Path of ``report.html``
    """
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(
            [jinja2.PackageLoader("sb3_ddpg_ext.tuning"), jinja2.PackageLoader("sb3_ddpg_ext.report")]
        ),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found, _ = connect(job)
    page = environment.get_template("tuning.html.j2").render(
        title=f"{args.algo} on {args.env}",
        summary=_summary(study, progress(job)),
        tables=[table for table in (_confirmation(study, ranked), _best(job, study), _ended(found)) if table.rows],
        confirmed=bool(ranked),
        entry=entry,
        figures=_figures(found, study),
        dashboard=f"optuna-dashboard {job.shown_url}",
    )
    file = run_directory(args) / "report.html"
    with atomic(file) as partial:
        partial.write_text(page, encoding="utf-8")
    return file


def _summary(study: Study, now: Progress) -> tuple[str, ...]:
    asked = study.asked
    best = "none" if now.best is None else scoring.describe(asked["score"], now.best)
    return (
        f"Score: {scoring.SCORES[asked['score']]}, IQM of {asked['seeds']} runs of each trial. Best trial: {best}.",
        f"{now.finished} trials, {now.pruned} of them pruned and {now.failed} failed. Fixed: "
        f"{', '.join(asked['fix']) or 'nothing'}.",
    )


def _confirmation(study: Study, ranked: Sequence[Confirmed]) -> Table:
    return Table(
        f"Confirmation on fresh seeds: {scoring.SCORES[study.asked['score']]}. {_METHOD}",
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
                f"{trial.number}{f' ({PREVIOUS})' * bool(trial.user_attrs.get('previous'))}",
                scoring.describe(study.asked["score"], trial.value or 0.0),
                *(_cell(trial.params.get(name)) for name in names),
            )
            for trial in trials
        ),
        heads=1,
    )


def _cell(value: Any) -> str:
    return "" if value is None else number(value) if isinstance(value, float) else str(value)


def _ended(study: optuna.Study) -> Table:
    return Table(
        "Trials that did not come to their end, and why.",
        ("trial", "state", "reason"),
        tuple(
            (str(trial.number), trial.state.name.lower(), trial.user_attrs.get(REASON, "its worker died, each time"))
            for trial in chains(study.trials).values()
            if trial.state.is_finished() and (trial.state.name == "FAIL" or REASON in trial.user_attrs)
        ),
        heads=1,
    )


def _figures(found: optuna.Study, study: Study) -> list[Figure]:
    figures, script = [], True
    for title, plot in _PLOTS.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # some are experimental
                picture = plot(found, **({} if "Importance" in title else {"target_name": _axis(study)}))
                html = picture.to_html(full_html=False, include_plotlyjs=script)
        except (ValueError, RuntimeError) as error:  # too few trials, or all with one value
            figures.append(Figure(title, reason=f"Not enough trials: {error}"))
        else:
            figures.append(Figure(title, html))
            script = False
    return figures


def _axis(study: Study) -> str:
    return {"steps": "times per million steps", "seconds": "times per hour"}.get(
        study.asked["score"], scoring.SCORES[study.asked["score"]]
    )
