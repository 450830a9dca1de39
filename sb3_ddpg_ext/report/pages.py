"""Sections -> files: a self-contained HTML page; the same in Markdown, with its pictures; the data as CSV; LaTeX."""

import base64
import csv
import io
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from sb3_ddpg_ext.files import atomic
from sb3_ddpg_ext.report.analysis import Comparison
from sb3_ddpg_ext.report.latex import latex
from sb3_ddpg_ext.report.pictures import Picture
from sb3_ddpg_ext.report.rendering import environment
from sb3_ddpg_ext.report.sections import Section, sections
from sb3_ddpg_ext.report.tables import Table
from sb3_ddpg_ext.results.records import RunRecord


def write(comparison: Comparison, directory: Path, formats: Collection[str] = ()) -> Path:
    """
    Write the report.

    :param comparison: The comparison
    :param directory: The directory to write to
    :param formats: ``"pdf"`` and ``"svg"`` for the pictures, ``"latex"`` for the tables, beside the pages
    :return: Path of ``report.html``
    """
    all_sections = sections(comparison)
    all_pictures = _pictures(all_sections)
    drawn = _draw(comparison, all_pictures)
    pictures = {name: _saved(figure, "png") for name, figure in drawn.items()}
    content = [
        section
        for section in all_sections
        if section.points or any(not isinstance(item, Picture) or item.name in pictures for item in section.content)
    ]
    for name, png in pictures.items():
        with atomic(directory / f"{name}.png") as partial:
            partial.write_bytes(png)
    for form in ("pdf", "svg"):
        if form in formats:
            for name, figure in drawn.items():
                with atomic(directory / f"{name}.{form}") as partial:
                    partial.write_bytes(_saved(figure, form))
    if "latex" in formats:
        for table in (item for section in content for item in section.content if isinstance(item, Table)):
            with atomic(directory / f"{table.name}.tex") as partial:
                partial.write_text(latex(table), encoding="utf-8")
    # Pictures of an earlier report, in which there was something to show
    for name in {picture.name for picture in all_pictures} - pictures.keys():
        (directory / f"{name}.png").unlink(missing_ok=True)
    pages = {
        "runs.csv": _csv(_RUNS, map(_run_row, comparison.runs)),
        "evaluations.csv": _csv(_EVALUATIONS, (row for run in comparison.runs for row in _evaluation_rows(run))),
        "report.md": _render("report.md.j2", comparison, content, pictures),
        "report.html": _render("report.html.j2", comparison, content, pictures),
    }
    for name, page in pages.items():
        with atomic(directory / name) as partial:
            partial.write_text(page, encoding="utf-8")
    return directory / "report.html"


def figures(comparison: Comparison) -> dict[str, Figure]:
    """
    :param comparison: The comparison
    :return: The pictures of its report that show something, by the names of their files
    """
    return _draw(comparison, _pictures(sections(comparison)))


def _pictures(all_sections: Sequence[Section]) -> list[Picture]:
    return [item for section in all_sections for item in section.content if isinstance(item, Picture)]


def _draw(comparison: Comparison, pictures: Sequence[Picture]) -> dict[str, Figure]:
    return {p.name: figure for p in pictures if (figure := p.draw(comparison)) is not None}


_METADATA = {"png": {"Software": None}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}  # equal files, if equal


def _saved(figure: Figure, form: str) -> bytes:
    """:return: The content of a picture's file. Its letters stay letters, as journals ask for"""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "sb3_ddpg_ext"}):
        figure.savefig(buffer, format=form, metadata=_METADATA[form])
    return buffer.getvalue()


def _render(template: str, comparison: Comparison, content: Sequence[Section], pictures: dict[str, bytes]) -> str:
    templates = environment()
    templates.filters["md"] = _markdown
    templates.filters["base64"] = lambda png: base64.b64encode(png).decode()
    templates.tests["picture"] = lambda item: isinstance(item, Picture)
    return templates.get_template(template).render(comparison=comparison, sections=content, pictures=pictures)


def _markdown(text: str) -> str:
    """Escape a text, so that Markdown shows it as it is, also in the cell of a table."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&$])", r"\\\1", " ".join(text.split()))


_RUNS = (
    *("label", "env", "seed", "directory", "status", "reason", "steps", "planned_steps", "updates", "final_score"),
    *("final_episodes", "evaluations", "seconds", "cpu_seconds", "threads", "device"),
)
_EVALUATIONS = ("label", "env", "seed", "directory", "status", "step", "mean", "seconds", "cpu_seconds", "episodes")


def _run_row(run: RunRecord) -> tuple[object, ...]:
    final = ("", 0) if run.score is None else (run.score.mean, len(run.score.returns))
    evaluations = 0 if run.evaluations is None else len(run.evaluations.steps)
    training = (run.seconds.train, run.seconds.cpu, run.threads, run.device) if run.steps else ("", "", "", "")
    return (
        *(run.label, run.env, run.seed, run.name, run.status, run.reason, run.steps, run.planned_steps, run.updates),
        *(*final, evaluations, *training),
    )


def _evaluation_rows(run: RunRecord) -> Iterable[tuple[object, ...]]:
    if run.evaluations is not None:
        e = run.evaluations
        rows = zip(e.steps.astype(int), e.means, e.seconds, e.cpu_seconds, strict=True)
        for step, mean, seconds, cpu in rows:
            yield run.label, run.env, run.seed, run.name, run.status, step, mean, seconds, cpu, e.returns.shape[1]


def _csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
