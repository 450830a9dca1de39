"""Run directories -> statistics, tables, pictures and pages. It reads files only, and does not import torch."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from sb3_ddpg_ext.errors import SettingsError
from sb3_ddpg_ext.report.curve import learning_curve
from sb3_ddpg_ext.results.scales import SCALES, Scale

if TYPE_CHECKING:
    from sb3_ddpg_ext.report.analysis import Comparison
    from sb3_ddpg_ext.report.groups import Equal

__all__ = ["analyse", "figures", "learning_curve", "write", "write_report"]


def analyse(
    log_dir: Path,
    *,
    baseline: str | None = None,
    order: Sequence[str] = (),
    seed: int = 0,
    scales: Mapping[str, Scale] = SCALES,
    equal: "Equal" = "steps",
) -> "Comparison":
    """
    Compare the runs in a directory, finished or not.

    :param log_dir: Directory of a comparison, with a directory ``<algorithm>/<environment>_<seed>/`` for each run
    :param baseline: Label of the algorithm that the others are compared with; by default ``ddpg``, or the first label
        if there is no ``ddpg``
    :param order: The labels as the user ordered them, of which the first may be the baseline; otherwise they are sorted
    :param seed: Seed of the bootstrap: the same runs and seed give the same numbers
    :param scales: What scores are measured against, by the ids of the environments
    :param equal: ``"steps"`` to compare algorithms after the same number of steps, ``"seconds"`` to compare them after
        the same CPU seconds of training, with steps of their own
    :return: Everything that a report says in numbers
    :raises SettingsError: If there are no runs, or no such baseline, or scipy or jinja2 is not installed
    """
    try:
        from sb3_ddpg_ext.report import analysis, pages  # noqa: F401 (what is missing for it is said before it is used)
        from sb3_ddpg_ext.results.result_file import read_runs
    except ModuleNotFoundError as error:
        raise SettingsError(f"{error.name} is not installed: pip install 'sb3_ddpg_ext[compare]'") from error
    return analysis.compare(read_runs(log_dir), baseline, seed, order, scales, equal)


def figures(comparison: "Comparison") -> dict[str, Figure]:
    """
    Draw the pictures of a report.

    :param comparison: From :func:`analyse`
    :return: Those that show something, by the names of their files
    """
    from sb3_ddpg_ext.report import pages

    return pages.figures(comparison)


def write(comparison: "Comparison", log_dir: Path, formats: Collection[str] = ()) -> Path:
    """
    Write a report: ``report.html`` (one self-contained file), ``report.md`` with its pictures ``*.png``, ``runs.csv``
    and ``evaluations.csv``.

    :param comparison: From :func:`analyse`
    :param log_dir: The directory to write to
    :param formats: What else to write: the pictures as ``"pdf"`` or ``"svg"``, the tables as ``"latex"``
    :return: Path of ``report.html``
    """
    from sb3_ddpg_ext.report import pages

    return pages.write(comparison, log_dir, formats)


def write_report(log_dir: Path, *, baseline: str | None = None, seed: int = 0) -> Path:
    """
    Compare the runs in a directory, and write the report into that directory.

    :param log_dir: See :func:`analyse`
    :param baseline: Likewise
    :param seed: Likewise
    :return: Path of ``report.html``
    :raises SettingsError: As :func:`analyse`
    """
    return write(analyse(log_dir, baseline=baseline, seed=seed), log_dir)
