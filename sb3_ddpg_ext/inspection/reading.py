"""The files of a run directory -> series of numbers over environment steps."""

import contextlib
import csv
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sb3_ddpg_ext.errors import SettingsError, one_line
from sb3_ddpg_ext.report.curve import training_episodes
from sb3_ddpg_ext.results.result_file import read_run

Array = npt.NDArray[np.float64]
_STEP = "time/total_timesteps"


@dataclass(frozen=True, eq=False)
class Series:
    """
    Numbers over environment steps.

    :param steps: ``[n]``
    :param values: ``[n]``, or ``[n, episodes]`` for evaluations
    """

    steps: Array = field(default_factory=lambda: np.empty(0))
    values: Array = field(default_factory=lambda: np.empty(0))

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def beginning(self) -> Array:
        """The first quarter of the values, at least one if there is one"""
        return self.values[: max(len(self) // 4, 1)]

    @property
    def end(self) -> Array:
        """The last quarter of the values, at least one if there is one"""
        return self.values[-max(len(self) // 4, 1) :]


@dataclass(frozen=True, eq=False)
class InspectedRun:
    """
    The numbers of a run.

    :param title: Algorithm and environment, as the directories are called
    :param episodes: Returns of the training episodes
    :param evaluations: Returns of the evaluations, ``[n, episodes]``
    :param q_values: What the critic expected in the evaluations, on average
    :param discounted_returns: What it would have been right to expect
    :param log: What was logged, by SB3's keys
    :param missing: What is not there, in words
    :param error: What has ended the run, in one line; None if that was no error
    :param interrupted: The steps that it had done when it was interrupted, and those it was to do; None if it was not
    """

    title: str
    episodes: Series = field(default_factory=Series)
    evaluations: Series = field(default_factory=Series)
    q_values: Series = field(default_factory=Series)
    discounted_returns: Series = field(default_factory=Series)
    log: Mapping[str, Series] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    error: str | None = None
    interrupted: tuple[int, int] | None = None

    @property
    def length(self) -> float:
        """The last step of which there is a number, at least 1"""
        series = (self.episodes, self.evaluations, *self.log.values())
        return max((float(each.steps.max()) for each in series if len(each)), default=1.0)

    def logged(self, key: str) -> Series:
        """:return: What was logged under a key, empty if nothing was"""
        return self.log.get(key, Series())


def read(directory: Path) -> InspectedRun:
    """
    Read a run directory.

    :param directory: The directory
    :return: What is in it
    :raises SettingsError: If it is not a run directory, or if a file in it cannot be read
    """
    evaluations, log = directory / "evaluations.npz", directory / "progress.csv"
    if not (evaluations.exists() or log.exists() or [*directory.glob("*.monitor.csv")]):
        raise SettingsError(
            f"{directory} is not a run directory: it holds no progress.csv, evaluations.npz or *.monitor.csv"
        )
    with _naming("*.monitor.csv", directory):
        episodes = Series(*training_episodes(directory))
    with _naming(evaluations.name, directory):
        arrays = _read_arrays(evaluations) if evaluations.exists() else {}
    with _naming(log.name, directory):
        logged = _read_log(log) if log.exists() else {}
    steps, record = arrays.pop("timesteps", np.empty(0)), read_run(directory)
    evaluated = {name: Series(steps, values) for name, values in arrays.items()}
    missing = {
        "training episodes (*.monitor.csv)": len(episodes) == 0,
        "evaluations (evaluations.npz)": not arrays,
        "the critic's values beside the returns (in evaluations.npz)": bool(arrays) and "q_values" not in arrays,
        "what was logged (progress.csv)": not logged,
        "statistics of the networks, which CustomDDPG logs (in progress.csv)": bool(logged)
        and "train/actor_weight_norm" not in logged,
    }
    return InspectedRun(
        " ".join(directory.resolve().parts[-2:]),
        episodes,
        evaluated.get("results", Series()),
        evaluated.get("q_values", Series()),
        evaluated.get("discounted_returns", Series()),
        logged,
        tuple(what for what, is_missing in missing.items() if is_missing),
        record.reason if record.status == "failed" else None,
        (record.steps, record.planned_steps) if record.status == "interrupted" else None,
    )


@contextlib.contextmanager
def _naming(name: str, directory: Path) -> Iterator[None]:
    """Errors of the block name the file."""
    try:
        yield
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise SettingsError(f"{directory}: {name} cannot be read: {one_line(error)}") from error


def _read_arrays(file: Path) -> dict[str, Array]:
    """:return: The arrays that are there, each with one row for each evaluation"""
    names = ("timesteps", "results", "q_values", "discounted_returns")
    with np.load(file) as content:
        arrays = {name: content[name].astype(np.float64) for name in names if name in content}
    if len({len(array) for array in arrays.values()}) > 1:
        raise ValueError("its arrays differ in length")
    return arrays


def _read_log(file: Path) -> dict[str, Series]:
    """:return: The columns of numbers, without the cells that are empty. A last line that is cut off is left out"""
    text = file.read_text()
    rows = list(csv.DictReader(text[: text.rfind("\n") + 1].splitlines()))
    if rows and _STEP not in rows[0]:
        raise ValueError(f"it has no column {_STEP}")
    columns: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        for key, cell in row.items():
            if isinstance(cell, str) and cell and row[_STEP] and (number := _number(cell)) is not None:
                columns.setdefault(key, []).append((float(row[_STEP]), number))
    return {key: Series(*np.transpose(pairs)) for key, pairs in columns.items()}


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:  # texts can be logged, too
        return None
