"""Run directories -> statistics, tables, pictures and pages. It reads files only, and does not import torch."""

from pathlib import Path

from sb3_ddpg_ext.errors import SettingsError
from sb3_ddpg_ext.report.curve import learning_curve

__all__ = ["learning_curve", "write_report"]


def write_report(log_dir: Path, *, baseline: str | None = None, seed: int = 0) -> Path:
    """
    Compare the runs in a directory, finished or not, and write a report into that directory: ``report.html`` (one
    self-contained file), ``report.md`` with its pictures ``*.png``, ``runs.csv`` and ``evaluations.csv``.

    :param log_dir: Directory of a comparison, with a directory ``<algorithm>/<environment>_<seed>/`` for each run
    :param baseline: Label of the algorithm that the others are compared with; by default ``ddpg``, or the first label
        if there is no ``ddpg``
    :param seed: Seed of the bootstrap: the same runs and seed give the same files
    :return: Path of ``report.html``
    :raises SettingsError: If there are no runs, or no such baseline, or scipy or jinja2 is not installed
    """
    try:
        from sb3_ddpg_ext.report import analysis, pages
        from sb3_ddpg_ext.results.result_file import read_runs
    except ModuleNotFoundError as error:
        raise SettingsError(f"{error.name} is not installed: pip install 'sb3_ddpg_ext[compare]'") from error
    return pages.write(analysis.compare(read_runs(log_dir), baseline, seed), log_dir)
