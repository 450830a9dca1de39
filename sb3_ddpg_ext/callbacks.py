"""What happens during training: evaluations, the clock that leaves them out, checkpoints, signals that end it early."""

import contextlib
import os
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_ddpg_ext.checkpoint import ResumableCheckpointCallback
from sb3_ddpg_ext.critic_bias import CriticBias
from sb3_ddpg_ext.episodes import check_returns
from sb3_ddpg_ext.errors import one_line
from sb3_ddpg_ext.files import atomic
from sb3_ddpg_ext.protocol import EVAL_SEED
from sb3_ddpg_ext.results.records import BestEvaluation, Evaluations
from sb3_ddpg_ext.safe_files.loading import is_sb3s
from sb3_ddpg_ext.safe_files.model_file import write_model
from sb3_ddpg_ext.safe_files.statistics import save_vecnormalize

CHECKPOINTS = "checkpoints"
"""The directory of checkpoints in a run directory."""
_REPLACED = "evaluations.npz", "best_model.zip", "best_model_vecnormalize.pkl", "best_model_vecnormalize.json"
"""Files that are written anew during training."""


class InterruptedEvaluationError(Exception):
    """A signal arrived in the middle of an evaluation."""


class StopOnSignal(BaseCallback):
    """
    End training when Ctrl-C or SIGTERM arrives: training after the current rollout and its gradient steps, since a
    checkpoint can be written only there, and an evaluation at once. Used as a context manager it handles these signals;
    a second one has the effect that it had before.
    """

    def __init__(self) -> None:
        super().__init__()
        self.received = False
        self.checkpoints: Checkpoints | None = None
        self._ends = False
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

    def _on_rollout_start(self) -> None:
        if self.received:
            self._ends = True
            if self.checkpoints is not None:
                self.checkpoints.save()

    def _on_step(self) -> bool:
        return not self._ends

    def check(self, *_: object) -> None:
        """
        To be called at each step of an evaluation.

        :raises InterruptedEvaluationError: If a signal has arrived
        """
        if self.received:
            raise InterruptedEvaluationError


class TrainingClock:
    """
    Wall-clock and CPU seconds of training: those of this process, without evaluations and checkpoints, and those of the
    parts of the run before it.
    """

    def __init__(self) -> None:
        self._start = self._now()
        self.evaluations = np.zeros(2)
        self._checkpoints = np.zeros(2)

    @staticmethod
    def _now() -> npt.NDArray[np.float64]:
        return np.array([time.perf_counter(), time.process_time()])

    def read(self) -> tuple[float, float]:
        """:return: Wall-clock and CPU seconds"""
        wall, cpu = self._now() - self._start - self.evaluations - self._checkpoints
        return float(wall), float(cpu)

    def set(self, reading: Sequence[float], evaluations: Sequence[float]) -> None:
        """
        Go on from another clock.

        :param reading: What it read
        :param evaluations: Its seconds of evaluations
        """
        self._checkpoints[:] = 0
        self.evaluations[:] = evaluations
        self._start = self._now() - self.evaluations - reading

    def evaluating(self) -> contextlib.AbstractContextManager[None]:
        """The time of the block counts as that of evaluations."""
        return self._added_to(self.evaluations)

    def stopped(self) -> contextlib.AbstractContextManager[None]:
        """The time of the block does not count."""
        return self._added_to(self._checkpoints)

    @contextlib.contextmanager
    def _added_to(self, total: npt.NDArray[np.float64]) -> Iterator[None]:
        start = self._now()
        try:
            yield
        finally:
            total += self._now() - start


class Evaluation(EvalCallback):
    """
    SB3's evaluation with four differences: the same seeds each time; its time does not count as training; its files are
    complete whenever they exist, the best model together with its VecNormalize statistics; and the critic's values are
    compared with the returns (:mod:`sb3_ddpg_ext.critic_bias`), as ``eval/q_value``, ``eval/discounted_return`` and
    their difference ``eval/q_bias``, the first two also in ``evaluations.npz``.

    :param directory: The run directory
    :param eval_env: Where the episodes are played
    :param eval_freq: Steps of the vectorized environment between two evaluations, 0 for none
    :param episodes: Episodes of each evaluation
    :param max_steps: Steps after which ``eval_env`` ends them, 0 for never
    :param stop: Interrupts an evaluation when a signal arrives
    :param on_evaluation: Called after each one with all evaluations so far; an exception from it ends training
    """

    def __init__(
        self,
        directory: Path,
        eval_env: VecEnv,
        eval_freq: int,
        episodes: int,
        max_steps: int,
        stop: StopOnSignal,
        on_evaluation: Callable[[Evaluations], object] = lambda _: None,
    ) -> None:
        super().__init__(eval_env, n_eval_episodes=episodes, eval_freq=eval_freq, verbose=0, log_path=str(directory))
        self.directory = directory
        self.max_steps = max_steps
        self._says_what_is_cut_off = max_steps > 0  # once
        self.stop = stop
        self.on_evaluation = on_evaluation
        self.clock = TrainingClock()
        self.clock_readings: list[tuple[float, float]] = []
        self._critic_bias: CriticBias | None = None  # of the evaluation that is played
        self._compares = True
        # By the step of the evaluation: the critic's mean value, and the mean of the discounted returns
        self._values: dict[int, tuple[float, float]] = {}

    def _on_training_start(self) -> None:
        self.clock.set((0, 0), (0, 0))

    def _init_callback(self) -> None:
        with warnings.catch_warnings():
            # Training environments may run in processes of their own, those of the evaluation never do
            warnings.filterwarnings("ignore", "Training and eval env are not of the same type")
            super()._init_callback()

    def _log_success_callback(self, locals_: dict[str, Any], globals_: dict[str, Any]) -> None:
        self.stop.check()
        super()._log_success_callback(locals_, globals_)
        if self._critic_bias is not None:
            self._critic_bias.see(locals_)
            # Logged here, since SB3 writes the log's row before its `_on_step` returns
            if "episode" in locals_["info"] and locals_["episode_counts"].sum() == self.n_eval_episodes - 1:
                self._record_critic_bias(self._critic_bias)

    def _record_critic_bias(self, critic_bias: CriticBias) -> None:
        try:
            q_value, discounted_return = critic_bias.means()
        except Exception as error:  # a critic of a user that is called in another way must not end training
            self._compares = False
            warnings.warn(f"The critic's values are not compared with returns: {one_line(error)}", stacklevel=2)
            return
        if np.isfinite([q_value, discounted_return]).all():
            self._values[self.num_timesteps] = q_value, discounted_return
            self.logger.record("eval/q_value", q_value)
            self.logger.record("eval/discounted_return", discounted_return)
            self.logger.record("eval/q_bias", q_value - discounted_return)

    def _add_values(self, file: Path) -> None:
        """Add the critic's values and the discounted returns to SB3's arrays, ``[k]`` each; NaN for none."""
        if self._values:
            values = [self._values.get(step, (np.nan, np.nan)) for step in self.evaluations_timesteps]
            q_values, discounted_returns = np.transpose(values)
            with np.load(file) as arrays:
                content = dict(arrays)
            np.savez(file, **content, q_values=q_values, discounted_returns=discounted_returns)

    def _on_step(self) -> bool:
        if self.eval_freq <= 0 or self.n_calls % self.eval_freq:
            return True
        reading = self.clock.read()
        with self.clock.evaluating():
            return self._evaluate(reading)

    def _evaluate(self, reading: tuple[float, float]) -> bool:
        best_mean_reward = self.best_mean_reward
        self.eval_env.seed(EVAL_SEED)
        compares = self._compares and CriticBias.is_defined_for(self.model)
        self._critic_bias = CriticBias(cast(OffPolicyAlgorithm, self.model)) if compares else None
        try:
            with atomic(self.directory / "evaluations.npz") as partial:
                self.log_path = str(partial)
                super()._on_step()
                self._add_values(partial)
        except InterruptedEvaluationError:
            return False
        self.clock_readings.append(reading)
        check_returns(self.evaluations_results[-1], f"An episode of the evaluation at step {self.num_timesteps}")
        if self._says_what_is_cut_off and max(self.evaluations_length[-1]) >= self.max_steps:
            self._says_what_is_cut_off = False
            warnings.warn(
                f"Episodes of an evaluation were cut off after {self.max_steps:,} steps (--eval-max-steps)",
                stacklevel=2,
            )
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

    def get_state(self) -> dict[str, Any]:
        """:return: For a checkpoint: what SB3's callback does not count"""
        seconds = list(self.clock.read()), self.clock.evaluations.tolist()
        readings = [list(reading) for reading in self.clock_readings]
        return {"seconds": seconds, "readings": readings, "values": [[step, *v] for step, v in self._values.items()]}

    def set_state(self, state: dict[str, Any]) -> None:
        """:param state: What :meth:`get_state` returned"""
        self.clock.set(*state["seconds"])
        self.clock_readings = [(wall, cpu) for wall, cpu in state["readings"]]
        # Checkpoints of early versions have none
        self._values = {step: (q_value, ret) for step, q_value, ret in state.get("values", [])}


class Checkpoints(ResumableCheckpointCallback):
    """
    Checkpoints of a run, in its directory. They also hold its files that change during training: after
    resuming, these are as they were, also if the run had gone on for a while before it was killed.

    :param directory: The run directory
    :param every: Environment steps between two checkpoints
    :param clock: The clock, which stands still while a checkpoint is written
    """

    def __init__(self, directory: Path, every: int, clock: TrainingClock) -> None:
        super().__init__(directory / CHECKPOINTS, every)
        self._run_directory, self._clock = directory, clock

    def save(self) -> bool:
        """:return: Whether a checkpoint was written"""
        with self._clock.stopped():
            return super().save()

    def get_state(self) -> dict[str, Any]:
        """:return: The files of the best model and the evaluations, and how long the monitors' files are"""
        directory = self._run_directory
        return {
            "files": {name: _content(directory / name) for name in _REPLACED if (directory / name).exists()},
            "lengths": {path.name: path.stat().st_size for path in directory.glob("*.monitor.csv")},
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """:param state: What :meth:`get_state` returned"""
        for name in _REPLACED:
            path = self._run_directory / name
            if name not in state["files"]:
                path.unlink(missing_ok=True)
            elif not (path.exists() and np.array_equal(_content(path), state["files"][name])):
                with atomic(path) as partial:
                    partial.write_bytes(state["files"][name].tobytes())
        for name, length in state["lengths"].items():
            path = self._run_directory / Path(name).name
            if path.exists() and path.stat().st_size > length:
                os.truncate(path, length)


def _content(path: Path) -> npt.NDArray[np.uint8]:
    return np.frombuffer(path.read_bytes(), np.uint8)


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
