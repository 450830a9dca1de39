"""From functions that make environments to SB3's vectorized environments, with the checks around each of them."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit
from stable_baselines3.common.env_util import unwrap_wrapper
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from sb3_ddpg_ext.env_checks.processes import CheckedSubprocVecEnv, EnvFn
from sb3_ddpg_ext.env_checks.wrappers import CheckedEnv, OutermostEnv, full_disk_error

_TRANSPARENT = Monitor, TimeLimit, OrderEnforcing, PassiveEnvChecker  # they pass on what an environment returns


def vectorized(
    env_fns: Sequence[EnvFn],
    *,
    name: str,
    monitor_dir: Path | None,
    subprocesses: bool,
    max_steps: int | None = None,
) -> VecEnv:
    """
    Make SB3's vectorized environment, and check each of its environments at every step.

    :param env_fns: Functions that make one environment each, with all of its wrappers
    :param name: The environment's name in error messages
    :param monitor_dir: Folder in which SB3's monitors log episodes, or None
    :param subprocesses: Whether each environment runs in a process of its own
    :param max_steps: Ends episodes after so many steps, if they have not ended by then
    :return: The vectorized environment
    """
    monitors = [None if monitor_dir is None else monitor_dir / f"{i}.monitor.csv" for i in range(len(env_fns))]
    checked: list[EnvFn] = [
        partial(_make, env_fn, name, i, monitors[i], subprocesses, max_steps) for i, env_fn in enumerate(env_fns)
    ]
    return CheckedSubprocVecEnv(checked, name) if subprocesses else DummyVecEnv(checked)


def inside_monitor(
    env: gym.Env[Any, Any], wrapper: type[gym.Wrapper[Any, Any, Any, Any]], **kwargs: Any
) -> gym.Env[Any, Any]:
    """
    Put a wrapper that ends episodes where SB3's monitor sees that they are over; outside of it, evaluations would count
    no episode, and play on for ever.

    :param env: The environment
    :param wrapper: Class of the wrapper
    :param kwargs: Its arguments
    :return: The environment with the wrapper
    """
    monitor = unwrap_wrapper(env, Monitor)
    if monitor is None:
        return wrapper(env, **kwargs)
    monitor.env = wrapper(monitor.env, **kwargs)
    return env


def _make(
    env_fn: EnvFn, name: str, index: int, monitor: Path | None, return_errors: bool, max_steps: int | None
) -> gym.Env[Any, Any]:
    """
    Make an environment and add checks in two places: outside of all wrappers, and inside of Gymnasium's and SB3's
    standard wrappers, which would fail on wrong values with a message of their own. Wrappers inside of these belong to
    the environment.
    """
    try:
        env = env_fn()
    except OSError as error:
        if (full_disk := full_disk_error(error, monitor)) is not None:
            raise full_disk from error
        raise
    if max_steps is not None:
        env = inside_monitor(env, TimeLimit, max_episode_steps=max_steps)
    innermost_standard, wrapper = None, env
    while isinstance(wrapper, gym.Wrapper):
        if isinstance(wrapper, _TRANSPARENT):
            innermost_standard = wrapper
        wrapper = wrapper.env
    if innermost_standard is not None:
        innermost_standard.env = CheckedEnv(innermost_standard.env, name, index)
    return OutermostEnv(env, name, index, monitor, return_errors)
