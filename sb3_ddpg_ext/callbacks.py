"""What happens during training: evaluations, the clock that leaves them out, and signals that end it early."""

import contextlib
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_ddpg_ext.episodes import EVAL_SEED, check_returns
from sb3_ddpg_ext.files import atomic
from sb3_ddpg_ext.results.records import BestEvaluation, Evaluations
from sb3_ddpg_ext.safe_files.loading import is_sb3s
from sb3_ddpg_ext.safe_files.model_file import write_model
from sb3_ddpg_ext.safe_files.statistics import save_vecnormalize


class InterruptedEvaluationError(Exception):
    """A signal arrived in the middle of an evaluation."""


class StopOnSignal(BaseCallback):
    """
    End training when Ctrl-C or SIGTERM arrives: training after the current step, so that what is saved is consistent,
    and an evaluation at once. Used as a context manager it handles these signals; a second one has the effect that it
    had before.
    """

    def __init__(self) -> None:
        super().__init__()
        self.received = False
        self._handlers_before: dict[int, Any] = {}

    def __enter__(self) -> "StopOnSignal":
        with contextlib.suppress(ValueError):  # signals can be handled in the main thread only
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers_before[number] = signal.signal(number, lambda *_: self._receive())
        return self

    def __exit__(self, *_: object) -> None:
        while self._handlers_before:
            signal.signal(*self._handlers_before.popitem())

    def _receive(self) -> None:
        self.received = True
        self.__exit__()

    def _on_step(self) -> bool:
        return not self.received

    def check(self, *_: object) -> None:
        """
        To be called at each step of an evaluation.

        :raises InterruptedEvaluationError: If a signal has arrived
        """
        if self.received:
            raise InterruptedEvaluationError


class TrainingClock:
    """Wall-clock and CPU seconds of this process since the clock was made, without those spent on evaluations."""

    def __init__(self) -> None:
        self._start = self._now()
        self.evaluations = np.zeros(2)

    @staticmethod
    def _now() -> npt.NDArray[np.float64]:
        return np.array([time.perf_counter(), time.process_time()])

    def read(self) -> tuple[float, float]:
        """:return: Wall-clock and CPU seconds"""
        wall, cpu = self._now() - self._start - self.evaluations
        return float(wall), float(cpu)

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """The time of the block does not count."""
        start = self._now()
        try:
            yield
        finally:
            self.evaluations += self._now() - start


class Evaluation(EvalCallback):
    """
    SB3's evaluation with three differences: the same seeds each time; its time does not count as training; and its
    files are complete whenever they exist, the best model together with its VecNormalize statistics.

    :param directory: The run directory
    :param eval_env: Where the episodes are played
    :param eval_freq: Steps of the vectorized environment between two evaluations, 0 for none
    :param episodes: Episodes of each evaluation
    :param stop: Interrupts an evaluation when a signal arrives
    :param on_evaluation: Called after each one with all evaluations so far; an exception from it ends training
    """

    def __init__(
        self,
        directory: Path,
        eval_env: VecEnv,
        eval_freq: int,
        episodes: int,
        stop: StopOnSignal,
        on_evaluation: Callable[[Evaluations], object] = lambda _: None,
    ) -> None:
        super().__init__(eval_env, n_eval_episodes=episodes, eval_freq=eval_freq, verbose=0, log_path=str(directory))
        self.directory = directory
        self.stop = stop
        self.on_evaluation = on_evaluation
        self.clock = TrainingClock()
        self.clock_readings: list[tuple[float, float]] = []

    def _on_training_start(self) -> None:
        self.clock = TrainingClock()

    def _init_callback(self) -> None:
        with warnings.catch_warnings():
            # Training environments may run in processes of their own, those of the evaluation never do
            warnings.filterwarnings("ignore", "Training and eval env are not of the same type")
            super()._init_callback()

    def _log_success_callback(self, locals_: dict[str, Any], globals_: dict[str, Any]) -> None:
        self.stop.check()
        super()._log_success_callback(locals_, globals_)

    def _on_step(self) -> bool:
        if self.eval_freq <= 0 or self.n_calls % self.eval_freq:
            return True
        reading = self.clock.read()
        with self.clock.stopped():
            return self._evaluate(reading)

    def _evaluate(self, reading: tuple[float, float]) -> bool:
        best_mean_reward = self.best_mean_reward
        self.eval_env.seed(EVAL_SEED)
        try:
            with atomic(self.directory / "evaluations.npz") as partial:
                self.log_path = str(partial)
                super()._on_step()
        except InterruptedEvaluationError:
            return False
        self.clock_readings.append(reading)
        check_returns(self.evaluations_results[-1], f"An episode of the evaluation at step {self.num_timesteps}")
        if self.best_mean_reward > best_mean_reward:
            save_model(self.model, self.directory / "best_model.zip", self.directory / "best_model_vecnormalize.pkl")
        evaluations = self.evaluations()
        assert evaluations is not None
        self.on_evaluation(evaluations)
        return True

    def evaluations(self) -> Evaluations | None:
        """:return: The evaluations so far, None if there were none"""
        if not self.evaluations_results:
            return None
        seconds, cpu_seconds = np.transpose(self.clock_readings)
        steps = np.array(self.evaluations_timesteps, dtype=np.float64)
        return Evaluations(steps, seconds, cpu_seconds, np.array(self.evaluations_results, dtype=np.float64))

    def best(self) -> BestEvaluation | None:
        """:return: The evaluation that chose the best model, None if there was none"""
        evaluations = self.evaluations()
        if evaluations is None:
            return None
        best = int(np.argmax(evaluations.means))
        return BestEvaluation(float(evaluations.means[best]), int(evaluations.steps[best]), EVAL_SEED)


def save_model(model: Any, path: Path, vecnormalize: Path) -> None:
    """
    Save a model and, if it has any, its VecNormalize statistics: all files are complete, or none is replaced. They are
    read without pickle, but for SBX's models; RL Zoo's tools read the ``.pkl`` of the statistics.

    :param model: An SB3 algorithm
    :param path: File of the model
    :param vecnormalize: File of the statistics for RL Zoo, ``.pkl``; what this package reads is beside it, ``.json``
    """
    normalize = model.get_vec_normalize_env()
    with contextlib.ExitStack() as files:  # all are written, then all are renamed
        write = write_model if is_sb3s(type(model)) else type(model).save
        write(model, files.enter_context(atomic(path)))
        if normalize is not None:
            normalize.save(str(files.enter_context(atomic(vecnormalize))))
            save_vecnormalize(normalize, files.enter_context(atomic(vecnormalize.with_suffix(".json"))))
