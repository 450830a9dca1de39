"""
Checks that actions, observations and rewards are finite before they are stored. A single NaN in the replay buffer would
turn all weights into NaN some time later, without any hint where it came from.
"""

import math
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ddpg_ext.errors import NonFiniteError

Observations = np.ndarray | dict[str, np.ndarray]

_AFTER_NORMALIZATION = ", normalised by VecNormalize"
_HINT = "(stable_baselines3's VecCheckNan helps to find the cause)"


def check_transition(
    actions: np.ndarray,
    observations: Observations,
    rewards: np.ndarray,
    dones: np.ndarray,
    infos: list[dict[str, Any]],
    step: int,
    normalize: VecNormalize | None,
) -> float:
    """
    Check one step of all environments.

    :param actions: Actions of the policy, with noise, ``[n_envs, *action_shape]``
    :param observations: New observations, ``[n_envs, *observation_shape]``, or one such array for each key of a Dict
        space. After the end of an episode, the first observation of the next one
    :param rewards: ``[n_envs]``
    :param dones: Which episodes have ended, ``[n_envs]``
    :param infos: One for each environment. After the end of an episode, with its last observation
    :param step: Number of environment steps up to now
    :param normalize: The VecNormalize wrapper of the environments, or None
    :return: The sum of squares of the new observations, which may have overflowed; 0 where they are no array of floats
    :raises NonFiniteError: If an action, an observation or a reward is NaN or infinite
    """
    original: Any = observations if normalize is None else normalize.old_obs
    is_float_array = isinstance(original, np.ndarray) and original.dtype.kind == "f"
    # In the most common case one check is enough: if a sum of squares is finite, all numbers are
    if (
        is_float_array
        and normalize is None
        and not any(dones.tolist())
        and math.isfinite(
            (squares := np.vdot(original, original)) + np.vdot(actions, actions) + np.vdot(rewards, rewards)
        )
    ):
        return float(squares)
    if not _is_finite(actions):
        raise NonFiniteError(
            f"The policy's action at step {step} is {actions.tolist()}: its weights have diverged; a lower "
            "learning_rate may help."
        )
    # Original observations first: VecNormalize spreads a NaN in one environment over the observations of all
    _check_observations(original, dones, step)
    for env, done in enumerate(dones.tolist()):
        if done and (last := infos[env].get("terminal_observation")) is not None:
            _check_observations(_add_env_dimension(last), np.array([False]), step, first_env=env)
    if normalize is not None:
        _check_observations(observations, dones, step, _AFTER_NORMALIZATION)
    rewards = rewards if normalize is None else normalize.old_reward
    if not _is_finite(rewards):
        env = int(np.argmin(np.isfinite(rewards)))
        raise NonFiniteError(
            f"Environment {env} returned the reward {rewards[env]} at step {step}; rewards must be finite {_HINT}."
        )
    if isinstance(observations, np.ndarray) and observations.dtype.kind == "f":
        return float(np.vdot(observations, observations))
    return 0.0


def check_observations(
    observations: Observations, from_reset: np.ndarray, step: int, normalize: VecNormalize | None
) -> None:
    """
    Check observations.

    :param observations: ``[n_envs, *observation_shape]``, or one such array for each key of a Dict space
    :param from_reset: Which of them were returned by ``reset()``, ``[n_envs]``
    :param step: Number of environment steps up to now
    :param normalize: The VecNormalize wrapper of the environments, or None
    :raises NonFiniteError: If an observation is NaN or infinite
    """
    _check_observations(observations if normalize is None else normalize.old_obs, from_reset, step)
    if normalize is not None:
        _check_observations(observations, from_reset, step, _AFTER_NORMALIZATION)


def _add_env_dimension(observation: Any) -> Observations:
    if isinstance(observation, dict):
        return {key: np.asarray(value)[None] for key, value in observation.items()}
    return np.asarray(observation)[None]


def _check_observations(
    observations: Observations, from_reset: np.ndarray, step: int, remark: str = "", first_env: int = 0
) -> None:
    arrays = observations.items() if isinstance(observations, dict) else [("", observations)]
    for key, array in arrays:
        if array.dtype.kind == "f" and not _is_finite(array):
            env, *component = (int(i) for i in np.argwhere(~np.isfinite(array))[0])
            position = f" of {key!r}" * bool(key) + f" in component {_format_index(component)}" * bool(component)
            source = "reset" if from_reset[env] else "step"
            raise NonFiniteError(
                f"Environment {first_env + env} returned the observation {array[(env, *component)]}{position} from "
                f"{source}() at step {step}{remark}; observations must be finite {_HINT}."
            )


def _format_index(component: list[int]) -> str:
    return str(component[0]) if len(component) == 1 else str(component)


def _is_finite(array: np.ndarray) -> bool:
    # The sum of squares is three times as fast. If it overflows, each number has to be checked
    return math.isfinite(np.vdot(array, array)) or bool(np.isfinite(array).all())
