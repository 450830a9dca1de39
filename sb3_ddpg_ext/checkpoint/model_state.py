"""Everything of a model that the rest of its training depends on, but for networks, optimizers and replay buffer."""

import random
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from sb3_ddpg_ext.checkpoint.callback_state import callback_states, restore_callbacks
from sb3_ddpg_ext.checkpoint.codec import is_data
from sb3_ddpg_ext.checkpoint.object_state import set_space_states, space_states, state_of, with_state
from sb3_ddpg_ext.checkpoint.recorder import episodes, put_back
from sb3_ddpg_ext.checkpoint.segments import BufferLog
from sb3_ddpg_ext.checkpoint.store import CheckpointDirectory, CheckpointError, InexactResumeWarning

_PROGRESS = (
    *("num_timesteps", "_total_timesteps", "_num_timesteps_at_start", "_episode_num", "_n_updates"),
    *("_current_progress_remaining", "_last_obs", "_last_original_obs", "_last_episode_starts"),
    *("ep_info_buffer", "ep_success_buffer", "_n_actions", "_n_saturated", "_actions"),
)
_OF_NO_WRAPPER_STATE = {
    *("venv", "class_attributes", "observation_space", "action_space", "obs_spaces", "metadata", "render_mode"),
    *("results_writer", "t_start", "num_envs", "_seeds", "_options", "reset_infos", "info_keywords", "spec", "actions"),
}


class Resumption:
    """
    What one model keeps for the sake of checkpoints.

    :ivar at_boundary: Whether the model is between two rollouts, with all gradient steps taken. Only then what it
        holds is all that there is: in the middle of a step an action has been taken and not been stored yet
    :ivar in_learn: Whether ``learn`` has begun and not ended
    :ivar callback: The callback of the last ``learn``, in SB3's form
    :ivar directories: Where it has written checkpoints, and what is in them already
    """

    def __init__(self) -> None:
        self.at_boundary = True
        self.in_learn = False
        self.callback: BaseCallback | None = None
        self.directories: dict[Path, tuple[CheckpointDirectory, BufferLog]] = {}
        self._pending: dict[str, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        # A copy of a model writes checkpoints of its own. Callbacks refer to anything, and cannot be copied
        return {**vars(self), "callback": None, "directories": {}}

    def directory(self, path: Path) -> tuple[CheckpointDirectory, BufferLog]:
        """:return: A directory of checkpoints, and what of the replay buffer is in it"""
        return self.directories.setdefault(path.resolve(), (CheckpointDirectory(path), BufferLog()))

    def before_learn(self, model: OffPolicyAlgorithm, *, from_scratch: bool, reset: bool) -> None:
        """
        To be called at the beginning of ``learn``, before anything else.

        :param model: The model
        :param from_scratch: Whether the count of steps begins anew
        :param reset: Whether the environment will be reset
        """
        self.at_boundary |= reset
        if from_scratch:
            self._pending = None
            for _, log in self.directories.values():
                log.forget()
        if self._pending is not None and not self._pending["in_learn"]:
            _restore_random(model, self._pending)

    def begin(self, callback: BaseCallback) -> None:
        """
        To be called when ``learn`` has been set up.

        :param callback: Its callback, in SB3's form
        """
        self.callback, self.in_learn = callback, True

    def restore_later(self, state: dict[str, Any]) -> None:
        """
        Restore a state when training goes on. If it is from the middle of ``learn``, this is at the beginning of the
        next rollout: ``learn`` resets clocks and SB3's noise, and whatever happens until then may draw random numbers.

        :param state: What :func:`model_state` returned
        """
        self._pending = state

    def restore(self, model: OffPolicyAlgorithm) -> None:
        """
        Restore what is left to be restored.

        :param model: The model, at the beginning of a rollout
        """
        if self._pending is None:
            return
        state, self._pending = self._pending, None
        if self.callback is not None:
            restore_callbacks(self.callback, state["callbacks"])
        if state["in_learn"]:
            vars(model)["start_time"] = time.time_ns() - state["elapsed"]
            vars(model)["_num_timesteps_at_start"] = state["progress"]["_num_timesteps_at_start"]
            for name, values in state["logger"].items():
                vars(model.logger)[name].update(values)
            _restore_random(model, state)


def _restore_random(model: OffPolicyAlgorithm, state: dict[str, Any]) -> None:
    if state["noise_class"] == type(model.action_noise).__name__:  # the user may have chosen another one since
        with_state(model.action_noise, state["noise"])
    set_space_states([model.action_space, model.observation_space], state["spaces"])
    _set_global_generators(state["generators"])


def model_state(model: OffPolicyAlgorithm, resumption: Resumption) -> dict[str, Any]:
    """
    :param model: The model, between two rollouts
    :param resumption: What it keeps for the sake of checkpoints
    :return: Its state as plain data
    """
    env = model.get_env()
    attributes = vars(model)
    logger = vars(attributes["_logger"]) if "_logger" in attributes else {}
    return {
        "progress": {name: attributes[name] for name in _PROGRESS if name in attributes},
        "elapsed": time.time_ns() - getattr(model, "start_time", time.time_ns()),
        "noise": state_of(model.action_noise),
        "noise_class": type(model.action_noise).__name__,
        "generators": _global_generators(),
        "spaces": space_states([model.action_space, model.observation_space]),
        "callbacks": callback_states(resumption.callback),
        # Values that were recorded, and not written yet
        "logger": {
            name: {key: value for key, value in logger[name].items() if is_data(value)}
            for name in ("name_to_value", "name_to_count", "name_to_excluded")
            if name in logger
        },
        "wrappers": [] if env is None else [[type(w).__name__, _wrapper_state(w)] for w in _wrappers(env)],
        "seeds": [] if env is None else list(env.unwrapped._seeds),
        "episodes": [] if env is None else episodes(env),
        "n_envs": model.n_envs,
        "in_learn": resumption.in_learn,
    }


def restore_now(model: OffPolicyAlgorithm, state: dict[str, Any]) -> None:
    """
    Restore everything that can be restored before ``learn`` is called: progress, environments and their wrappers.

    :param model: A model that was loaded
    :param state: What :func:`model_state` returned
    :raises CheckpointError: If its environment is not like the one that the checkpoint was made with
    """
    env = model.get_env()
    assert env is not None
    wrappers = list(_wrappers(env))
    names = [type(wrapper).__name__ for wrapper in wrappers]
    expected = [name for name, _ in state["wrappers"]]
    if names != expected:
        had, has = (" in ".join(each) or "none" for each in (expected, names))
        raise CheckpointError(f"the environment of the checkpoint had the VecEnv wrappers {had}; this one has {has}")
    vars(model).update(state["progress"])
    for wrapper, (_, wrapper_state) in zip(wrappers, state["wrappers"], strict=True):
        with_state(wrapper, wrapper_state)
    env.unwrapped._seeds[:] = state["seeds"]
    if state["progress"].get("_last_obs") is None:
        return
    reasons = put_back(env, state["episodes"])
    lost = [f"environment {i}: {reason}" for i, reason in enumerate(reasons) if reason is not None]
    if lost:
        vars(model)["_last_obs"] = None  # `learn` then resets all environments
        _end_episodes(model.replay_buffer)
        warnings.warn(
            f"Training goes on with new episodes, and not exactly as it would have, since the running one could not be "
            f"put back: {'; '.join(lost)}. An environment can offer get_state() and set_state().",
            InexactResumeWarning,
            stacklevel=4,
        )


def _end_episodes(buffer: ReplayBuffer | None) -> None:
    """Mark the last transitions as cut off by a time limit: returns over several steps end there."""
    if buffer is None or buffer.size() == 0:
        return
    if isinstance(buffer, HerReplayBuffer):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The last trajectory")
            buffer.truncate_last_trajectory()
        return
    buffer.dones[buffer.pos - 1] = 1
    if buffer.handle_timeout_termination:
        buffer.timeouts[buffer.pos - 1] = 1


def _wrappers(env: VecEnv) -> list[VecEnvWrapper]:
    found = []
    while isinstance(env, VecEnvWrapper):
        found.append(env)
        env = env.venv
    return found


def _wrapper_state(wrapper: VecEnvWrapper) -> Any:
    return state_of(wrapper, skip=_OF_NO_WRAPPER_STATE)


def _global_generators() -> dict[str, Any]:
    return {
        "torch": th.get_rng_state(),
        "cuda": th.cuda.get_rng_state_all() if th.cuda.is_available() and th.cuda.is_initialized() else [],
        "numpy": np.random.get_state(legacy=False),  # noqa: NPY002 (SB3's generator)
        "random": random.getstate(),
    }


def _set_global_generators(states: dict[str, Any]) -> None:
    th.set_rng_state(states["torch"])
    if states["cuda"]:
        th.cuda.set_rng_state_all(states["cuda"])
    np.random.set_state(states["numpy"])  # noqa: NPY002
    random.setstate(states["random"])
