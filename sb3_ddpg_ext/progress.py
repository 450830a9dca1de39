"""The progress bar of a run: how far it is, and how well it does."""

import time
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter

from sb3_ddpg_ext.callbacks import Evaluation

_SECONDS_BETWEEN_DRAWINGS = 0.2


class _Latest(KVWriter):
    """What was logged last, by key."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def write(self, key_values: dict[str, Any], *_: Any, **__: Any) -> None:
        self.values |= key_values

    def close(self) -> None:
        pass


class ProgressBar(BaseCallback):
    """
    Shows steps, mean returns (of the last evaluation and the best; of training if there is none), and what CustomDDPG
    logs of its exploration: the noise's standard deviation, and the share of actions at a bound.

    :param evaluation: The evaluations of the run
    """

    def __init__(self, evaluation: Evaluation) -> None:
        super().__init__()
        self._evaluation, self._latest = evaluation, _Latest()
        numbers = TextColumn("{task.description}", table_column=Column())  # wrapped, not cut off
        columns = BarColumn(8), MofNCompleteColumn(), TimeRemainingColumn(), numbers
        # Without a thread: drawn at steps, and not in the middle of what an error prints
        self._progress = Progress(*columns, auto_refresh=False)
        self._drawn = 0.0

    def _on_training_start(self) -> None:
        self.logger.output_formats.append(self._latest)
        self._progress.add_task("", total=self.locals["total_timesteps"], completed=self.model.num_timesteps)
        self._progress.start()

    def _on_step(self) -> bool:
        if time.perf_counter() - self._drawn > _SECONDS_BETWEEN_DRAWINGS:
            self._draw()
        return True

    def _draw(self) -> None:
        task = self._progress.task_ids[0]
        self._progress.update(task, completed=self.model.num_timesteps, description=self._description())
        self._progress.refresh()
        self._drawn = time.perf_counter()

    def _description(self) -> str:
        logged, evaluations = self._latest.values, self._evaluation.evaluations()
        numbers = []
        if evaluations is not None:
            numbers += [f"last {evaluations.means[-1]:.1f}", f"best {evaluations.means.max():.1f}"]
        elif (mean := logged.get("rollout/ep_rew_mean")) is not None:
            numbers.append(f"training {mean:.1f}")
        if (std := logged.get("rollout/noise_std")) is not None:
            numbers.append(f"noise {std:.2g}")
        if (share := logged.get("rollout/action_saturation")) is not None:
            numbers.append(f"bounds {share:.0%}")
        return ", ".join(numbers)

    def close(self, *, failed: bool) -> None:
        """
        End the bar.

        :param failed: Whether it is removed, so that the error is the last thing on the screen
        """
        if not self._progress.task_ids:
            return
        if failed:
            self._progress.live.transient = True
        else:
            self._draw()
        self._progress.stop()
