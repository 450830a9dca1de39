"""The callback that sends what SB3's logger logs to a tracker."""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter

from sb3_ddpg_ext.errors import describe, require
from sb3_ddpg_ext.tracking.mlflow import MLflow, check_store
from sb3_ddpg_ext.tracking.tracker import Tracker
from sb3_ddpg_ext.tracking.trackio import Trackio
from sb3_ddpg_ext.tracking.wandb import WeightsAndBiases

_TRACKERS: dict[str, type[Tracker]] = {"wandb": WeightsAndBiases, "mlflow": MLflow, "trackio": Trackio}


def check_tracker(name: str) -> None:
    """
    :param name: Name of a tracker
    :raises SettingsError: If it is not installed, or has nowhere to write to
    """
    require(name, name)
    if name == "mlflow":
        check_store()


class _Numbers(KVWriter):
    """
    Hands on the numbers among what is logged, with their step.

    :param log: What takes them
    """

    def __init__(self, log: Callable[[dict[str, float], int], None]) -> None:
        self._log = log

    def write(self, key_values: dict[str, Any], _: dict[str, tuple[str, ...]], step: int = 0) -> None:
        self._log({key: float(value) for key, value in key_values.items() if isinstance(value, Real)}, step)

    def close(self) -> None:
        pass


class Tracking(BaseCallback):
    """
    Sends all numbers that are logged to a tracker, those of evaluations (``eval/mean_reward``) among them. If that
    fails, a warning says so once, and training goes on without it.

    :param name: Name of the tracker
    :param directory: The run directory
    :param config: Returns the settings and arguments of the run, as plain data; called when training starts
    """

    def __init__(self, name: str, directory: Path, config: Callable[[], Mapping[str, Any]]) -> None:
        super().__init__()
        self._name, self._directory, self._config = name, directory, config
        self._tracker: Tracker | None = None

    def _on_training_start(self) -> None:
        with self._going_on_without_it():
            self._tracker = _TRACKERS[self._name]()
            self._tracker.start(self._directory, self._config())
        self.logger.output_formats.append(_Numbers(self._log))

    def _on_step(self) -> bool:
        return True

    def _log(self, numbers: dict[str, float], step: int) -> None:
        if self._tracker is not None:
            with self._going_on_without_it():
                self._tracker.log(numbers, step)

    def end(self, status: str, final_return: float | None = None) -> None:
        """
        Say how the run has ended, and wait until everything is written or sent.

        :param status: finished, interrupted or failed
        :param final_return: Mean return of the last model; None if it was not evaluated
        """
        if self._tracker is not None:
            final = {} if final_return is None else {"final/mean_reward": final_return}
            with self._going_on_without_it():
                self._tracker.end(status, final, self.model.num_timesteps)

    @contextlib.contextmanager
    def _going_on_without_it(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of the disk, the network, the tracker's process or server
            self._tracker = None
            warnings.warn(f"{self._name} failed, and does not track this run any more: {describe(error)}", stacklevel=2)
