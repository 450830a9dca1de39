"""Writes checkpoints during training."""

import warnings
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_ddpg_ext.checkpoint.model_state import Resumption
from sb3_ddpg_ext.checkpoint.saving import resume, save_checkpoint
from sb3_ddpg_ext.checkpoint.store import CheckpointError
from sb3_ddpg_ext.safe_files.loading import load_model

AnyModel = TypeVar("AnyModel", bound=OffPolicyAlgorithm)


class ResumableCheckpointCallback(BaseCallback):
    """
    Write checkpoints from which :meth:`CustomDDPG.resume` goes on exactly where they were written.

    If one cannot be written, for instance because the disk is full, a warning says so, training goes on, and the last
    one stays.

    SB3's other off-policy algorithms can be trained with it, too, and go on with :meth:`resume`. The episodes of their
    environment have to be recorded from its first reset on: call :func:`record_episodes` before ``learn``.

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
        self._resumption = Resumption()

    def _init_callback(self) -> None:
        # CustomDDPG keeps this itself. For other algorithms the callback does it
        self._resumption = getattr(self.model, "_resumption", self._resumption)

    @property
    def _is_models_own(self) -> bool:
        return hasattr(self.model, "_resumption")

    def _on_training_start(self) -> None:
        self._last_try = self.model.num_timesteps
        if self.directory.resolve() in self._resumption.directories:  # the model was resumed from there
            self._last_saved = self.model.num_timesteps
        if not self._is_models_own:
            self._resumption.begin(self.locals["callback"])

    def _on_rollout_start(self) -> None:
        if not self._is_models_own:
            self._resumption.restore(cast(OffPolicyAlgorithm, self.model))
        if self.model.num_timesteps // self.every > self._last_try // self.every:
            self.save()

    def _on_step(self) -> bool:
        if not self._is_models_own:
            self._resumption.at_boundary = False
        return True

    def _on_rollout_end(self) -> None:  # is not called if training is stopped in the middle of a step
        if not self._is_models_own:
            self._resumption.at_boundary = True

    def _on_training_end(self) -> None:
        self._resumption.restore(cast(OffPolicyAlgorithm, self.model))  # in case there was nothing left to do
        if self.model.num_timesteps > self._last_try:
            self.save()

    def save(self) -> bool:
        """
        Write a checkpoint now, if the model is not in the middle of a step.

        :return: Whether it was written
        """
        model = cast(Any, self.model)
        if not self._resumption.at_boundary:  # training was stopped in the middle of a step
            return False
        step = self._last_try = self.model.num_timesteps
        try:
            if self._is_models_own:
                path = model.save_checkpoint(self.directory, keep=self.keep)
            else:
                path = save_checkpoint(model, self._resumption, self.directory, self.keep)
        except (OSError, RuntimeError, CheckpointError) as error:  # PyTorch raises a RuntimeError for a full disk
            last = "" if self._last_saved is None else f"; the last one is of step {self._last_saved}"
            warnings.warn(f"The checkpoint of step {step} was not saved: {error}{last}.", stacklevel=2)
            return False
        self._last_saved = step
        if self.verbose >= 1:
            self.logger.info(f"Saved the checkpoint {path}")
        return True

    def resume(self, algorithm: type[AnyModel], env: VecEnv, **kwargs: Any) -> AnyModel:
        """
        Make a model from the newest checkpoint that is intact, which is then to be trained with this callback. See
        :meth:`CustomDDPG.resume`, which does the same for ``CustomDDPG``.

        :param algorithm: An off-policy algorithm of SB3, sb3-contrib or this package
        :param env: The environment, made as for the first part of the run
        :param kwargs: Further arguments for loading the model, such as ``device``
        :return: The model
        :raises CheckpointError: If there is no intact checkpoint, or it was made with another kind of environment
        """
        load = partial(load_model, algorithm, **kwargs)
        return resume(load, self.directory, env, lambda model: getattr(model, "_resumption", self._resumption))
