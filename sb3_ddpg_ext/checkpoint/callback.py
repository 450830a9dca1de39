"""Writes checkpoints during training."""

import warnings
from pathlib import Path
from typing import Any, cast

from stable_baselines3.common.callbacks import BaseCallback

from sb3_ddpg_ext.checkpoint.store import CheckpointError


class ResumableCheckpointCallback(BaseCallback):
    """
    Write checkpoints from which :meth:`CustomDDPG.resume` goes on exactly where they were written.

    If one cannot be written, for instance because the disk is full, a warning says so, training goes on, and the last
    one stays.

    >>> import tempfile
    >>> from sb3_ddpg_ext import CustomDDPG, ResumableCheckpointCallback
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     model = CustomDDPG("MlpPolicy", "Pendulum-v1", seed=0)
    ...     _ = model.learn(120, callback=ResumableCheckpointCallback(directory, every=50))
    ...     resumed = CustomDDPG.resume(directory, "Pendulum-v1")
    >>> resumed.num_timesteps
    120

    :param directory: The directory of checkpoints
    :param every: Environment steps between two checkpoints. They are written between two rollouts, so that with
        ``train_freq=(1, "episode")`` it is the end of the episode. Another one is written at the end of training
    :param keep: How many checkpoints to keep
    :param verbose: 1 to print where each one is
    :raises ValueError: If ``every`` or ``keep`` is less than 1
    """

    def __init__(self, directory: str | Path, every: int = 10_000, keep: int = 2, verbose: int = 0) -> None:
        super().__init__(verbose)
        if every < 1 or keep < 1:
            raise ValueError(f"every and keep must be 1 or more, got {every} and {keep}")
        self.directory, self.every, self.keep = Path(directory), every, keep
        self._last_try = 0
        self._last_saved: int | None = None

    def _on_training_start(self) -> None:
        self._last_try = self.model.num_timesteps

    def _on_rollout_start(self) -> None:
        if self.model.num_timesteps // self.every > self._last_try // self.every:
            self.save()

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        if self.model.num_timesteps > self._last_try:
            self.save()

    def save(self) -> bool:
        """
        Write a checkpoint now, if the model is not in the middle of a step.

        :return: Whether it was written
        """
        model = cast(Any, self.model)
        if not model._resumption.at_boundary:  # training was stopped in the middle of a step
            return False
        step = self._last_try = self.model.num_timesteps
        try:
            path = model.save_checkpoint(self.directory, keep=self.keep)
        except (OSError, RuntimeError, CheckpointError) as error:  # PyTorch raises a RuntimeError for a full disk
            last = "" if self._last_saved is None else f"; the last one is of step {self._last_saved}"
            warnings.warn(f"The checkpoint of step {step} was not saved: {error}{last}.", stacklevel=2)
            return False
        self._last_saved = step
        if self.verbose >= 1:
            self.logger.info(f"Saved the checkpoint {path}")
        return True
