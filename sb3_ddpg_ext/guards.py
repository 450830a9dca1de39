"""
What must be finite is looked at before it is stored: one NaN in the replay buffer turns all weights into NaN, some time
later, and nothing tells where it came from.
"""

import math
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ddpg_ext.errors import NonFiniteError

Observations = np.ndarray | dict[str, np.ndarray]

_BY_STATISTICS = ", with VecNormalize's statistics"
_HINT = "(stable_baselines3's VecCheckNan helps to find the cause)"


def check_transition(
    actions: np.ndarray,
    observations: Observations,
    rewards: np.ndarray,
    dones: np.ndarray,
    infos: list[dict[str, Any]],
    step: int,
    normalize: VecNormalize | None,
) -> None:
    """
    One step of all environments.

    :param actions: Actions of the policy, with noise, ``[n_envs, *action_shape]``
    :param observations: What the environments returned, ``[n_envs, *observation_shape]``, or one such array for each
        key of a Dict space; where an episode is over, the first one of the next
    :param rewards: ``[n_envs]``
    :param dones: Which episodes are over, ``[n_envs]``
    :param infos: One for each environment, with the last observation where an episode is over
    :param step: Number of environment steps up to now
    :param normalize: What normalised observations and rewards, and knows what they were before, if anything did
    :raises NonFiniteError: If an action, an observation or a reward is NaN or infinite
    """
    given: Any = observations if normalize is None else normalize.old_obs
    plain = isinstance(given, np.ndarray) and given.dtype.kind == "f" and normalize is None and not any(dones.tolist())
    # Where the sum of all squares is finite, everything is: the common case, at the cost of one check
    if plain and math.isfinite(np.vdot(given, given) + np.vdot(actions, actions) + np.vdot(rewards, rewards)):
        return
    if not _is_finite(actions):
        raise NonFiniteError(
            f"The policy's action at step {step} is {actions.tolist()}: its weights have diverged; a lower "
            "learning_rate may help."
        )
    # VecNormalize spreads one environment's NaN over the observations of all, so what it was given comes first
    _check_observations(given, dones, step)
    for env, done in enumerate(dones.tolist()):
        if done and (last := infos[env].get("terminal_observation")) is not None:
            _check_observations(_of_one(last), np.array([False]), step, first_env=env)
    if normalize is not None:
        _check_observations(observations, dones, step, _BY_STATISTICS)
    rewards = rewards if normalize is None else normalize.old_reward
    if not _is_finite(rewards):
        env = int(np.argmin(np.isfinite(rewards)))
        raise NonFiniteError(
            f"Environment {env} returned the reward {rewards[env]} at step {step}; rewards must be finite {_HINT}."
        )


def check_observations(
    observations: Observations, from_reset: np.ndarray, step: int, normalize: VecNormalize | None
) -> None:
    """
    :param observations: ``[n_envs, *observation_shape]``, or one such array for each key of a Dict space
    :param from_reset: Which of them are the first of an episode, ``[n_envs]``
    :param step: Number of environment steps up to now
    :param normalize: What normalised them and knows what they were before, if anything did
    :raises NonFiniteError: If one is NaN or infinite
    """
    _check_observations(observations if normalize is None else normalize.old_obs, from_reset, step)
    if normalize is not None:
        _check_observations(observations, from_reset, step, _BY_STATISTICS)


def _of_one(observation: Any) -> Observations:
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
            place = "".join([f" of {key!r}" if key else "", f" in component {_index(component)}" if component else ""])
            source = "reset" if from_reset[env] else "step"
            raise NonFiniteError(
                f"Environment {first_env + env} returned the observation {array[(env, *component)]}{place} from "
                f"{source}() at step {step}{remark}; observations must be finite {_HINT}."
            )


def _index(component: list[int]) -> str:
    return str(component[0]) if len(component) == 1 else str(component)


def _is_finite(array: np.ndarray) -> bool:
    # The sum of squares takes a third of the time; where it overflows, each number has to be looked at
    return math.isfinite(np.vdot(array, array)) or bool(np.isfinite(array).all())
