"""``progress.csv``: what SB3's logger is given during a run, row by row, also of one that is resumed."""

import contextlib
from pathlib import Path

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import CSVOutputFormat

from sb3_ddpg_ext.files import atomic

LOG_FILE = "progress.csv"
"""Its name in a run directory, the one that SB3 gives it."""


class _Csv(CSVOutputFormat):
    """
    SB3's format, which goes on with a file that is there.

    :param path: The file, which is replaced or made
    :param n_rows: How many of its rows are kept
    """

    def __init__(self, path: Path, n_rows: int) -> None:
        lines = path.read_text().splitlines(keepends=True)[: 1 + n_rows] if n_rows and path.exists() else []
        with atomic(path) as partial:  # whose new name does not matter to an open file
            super().__init__(str(partial))
            self.file.writelines(lines)
            self.file.flush()
        self.keys = lines[0].rstrip("\n").split(",") if lines else []
        self.n_rows = max(len(lines) - 1, 0)
        self._path = path

    def write(self, *args: object, **kwargs: object) -> None:
        """:raises OSError: If the row cannot be written. It has the file's name, which the system leaves out"""
        try:
            super().write(*args, **kwargs)  # type: ignore[arg-type]
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from error
        self.n_rows += 1

    def close(self) -> None:
        # Each row is flushed, so what is still to be written is a row whose error was raised
        with contextlib.suppress(OSError):
            super().close()


class LogFile(BaseCallback):
    """
    Writes SB3's log to a CSV file. A run that goes on from a checkpoint goes on with the rows that there were at that
    time.

    :param directory: The run directory
    """

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._path = directory / LOG_FILE
        self._csv: _Csv | None = None
        self._rows_before = 0

    def _on_rollout_start(self) -> None:
        if self._csv is None:  # at the first one, when the state of a checkpoint has been put back
            self._csv = _Csv(self._path, self._rows_before)
            self.logger.output_formats.append(self._csv)

    def _on_step(self) -> bool:
        return True

    def close(self) -> None:
        """Nothing is written any more."""
        if self._csv is not None:
            self.logger.output_formats.remove(self._csv)
            self._csv.close()

    def get_state(self) -> dict[str, int]:
        """:return: How many rows there are"""
        return {"rows": self._rows_before if self._csv is None else self._csv.n_rows}

    def set_state(self, state: dict[str, int]) -> None:
        """:param state: What :meth:`get_state` returned"""
        self._rows_before = state["rows"]
