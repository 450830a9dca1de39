"""Writes a checkpoint of a model, and makes a model from one."""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.utils import check_for_correct_spaces
from stable_baselines3.common.vec_env import VecEnv

from sb3_ddpg_ext.checkpoint.codec import NoDataError
from sb3_ddpg_ext.checkpoint.model_state import Resumption, model_state, restore_now
from sb3_ddpg_ext.checkpoint.segments import BufferLog, buffer_state, restore_buffer
from sb3_ddpg_ext.checkpoint.store import (
    ROWS,
    Checkpoint,
    CheckpointDirectory,
    CheckpointError,
    InexactResumeWarning,
    write_state,
)
from sb3_ddpg_ext.safe_files.model_file import write_model

AnyModel = TypeVar("AnyModel", bound=OffPolicyAlgorithm)


def save_checkpoint(model: OffPolicyAlgorithm, resumption: Resumption, path: Path, keep: int) -> Path:
    """
    Write a checkpoint.

    :param model: The model
    :param resumption: What it keeps for the sake of checkpoints
    :param path: The directory of checkpoints
    :param keep: How many checkpoints to keep in it
    :return: The folder of the new one
    :raises CheckpointError: If the model is in the middle of a step, or holds what is no plain data
    :raises OSError: If it cannot be written
    """
    if keep < 1:
        raise ValueError(f"keep must be 1 or more, got {keep}")
    if not resumption.at_boundary:
        raise CheckpointError(
            "a checkpoint cannot be written in the middle of a step, before its transition is stored; a callback can "
            "write it in _on_rollout_start, as ResumableCheckpointCallback does, and not in _on_step"
        )
    if model.use_sde:
        raise CheckpointError("exploration that depends on the state (use_sde=True) cannot be resumed exactly")
    buffer = model.replay_buffer
    assert buffer is not None
    directory, log = resumption.directory(path)
    (path / ROWS).mkdir(parents=True, exist_ok=True)
    step = model.num_timesteps
    try:
        state = {"model": model_state(model, resumption), "buffer": buffer_state(buffer)}
        segments = log.write(path, buffer, step, directory.next_number())

        def fill(folder: Path) -> None:
            write_state(folder, state)
            write_model(model, folder / "model.zip")

        checkpoint = directory.write(fill, segments, keep, step)
    except BaseException as error:
        directory.discard()
        if not isinstance(error, NoDataError):
            raise
        raise CheckpointError(f"the model holds what a checkpoint cannot: {error}") from error
    log.follow(buffer, step, segments)
    return checkpoint.path


def resume(
    load: Callable[..., AnyModel], path: Path, env: VecEnv, resumption_of: Callable[[AnyModel], Resumption]
) -> AnyModel:
    """
    Make a model from the newest checkpoint that is intact.

    :param load: Loads a model's file for an environment
    :param path: The directory of checkpoints
    :param env: An environment like the one that the checkpoint was made with
    :param resumption_of: Returns what a model keeps for the sake of checkpoints
    :return: The model
    :raises CheckpointError: If there is no checkpoint that can be used
    """
    directory = CheckpointDirectory(path)
    checkpoint, damages = directory.newest()
    if damages:
        step = checkpoint.manifest["step"]
        warnings.warn(f"Resuming from step {step}, not from the last checkpoint: {'; '.join(damages)}", stacklevel=3)
    state = checkpoint.state()
    with _from_a_stranger(checkpoint):
        n_envs = state["model"]["n_envs"]
    if env.num_envs != n_envs:
        raise CheckpointError(f"the checkpoint was made with {n_envs} environments, got {env.num_envs}")
    model = load(checkpoint.path / "model.zip", env=env)
    buffer = model.replay_buffer
    assert buffer is not None
    check_for_correct_spaces(env, model.observation_space, model.action_space)
    # One object again, as before: environments may sample from it
    model.action_space = env.action_space
    with _from_a_stranger(checkpoint):
        restore_buffer(buffer, state["buffer"], checkpoint)
        restore_now(model, state["model"])
    resumption = resumption_of(model)
    resumption.restore_later(state["model"])
    resumption.directories[path.resolve()] = directory, log = directory, BufferLog()
    if checkpoint.damage:  # all rows are written again the next time
        warnings.warn(
            f"The replay buffer has lost its oldest transitions, and has {buffer.size() * n_envs} left: "
            f"{checkpoint.damage}, and no other checkpoint is intact. Training goes on from step "
            f"{model.num_timesteps}, but not exactly as it would have.",
            InexactResumeWarning,
            stacklevel=3,
        )
    else:
        log.follow(buffer, model.num_timesteps, checkpoint.segments())
    return model


@contextlib.contextmanager
def _from_a_stranger(checkpoint: Checkpoint) -> Iterator[None]:
    """One clear error for whatever comes of a state that nobody has written as it is."""
    try:
        yield
    except CheckpointError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, MemoryError, RuntimeError) as error:
        raise CheckpointError(f"{checkpoint.path.name} does not hold the state of such a model: {error!r}") from error
