"""Wrappers that check what an environment returns, and report what it raises."""

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym

from sb3_ddpg_ext.env_checks.messages import (
    code_location,
    make_observation_check,
    wrong_flag,
    wrong_info,
    wrong_number_of_values,
    wrong_reward,
)
from sb3_ddpg_ext.errors import FaultyEnvironmentError, describe, is_full_disk, trace


class CheckedEnv(gym.Wrapper[Any, Any, Any, Any]):
    """
    Raises :class:`FaultyEnvironmentError` if an environment raises an error or returns something that Gymnasium's
    interface does not allow. Numbers that are not finite are left to the algorithm.

    :param env: The environment
    :param name: Its name in error messages
    :param index: Its index in the vectorized environment
    """

    def __init__(self, env: gym.Env[Any, Any], name: str, index: int) -> None:
        super().__init__(env)
        self._name, self._index = name, index
        self._n_steps = [0]  # a list, because `OutermostEnv.__setattr__` makes setting attributes slow
        self._wrong_observation = make_observation_check(env.observation_space)

    @property
    def spec(self) -> Any:  # type: ignore[override]
        """The environment's own spec, without this wrapper"""
        return self.env.spec

    def step(self, action: Any) -> Any:
        """:raises FaultyEnvironmentError: If the environment raises an error or returns a wrong value"""
        self._n_steps[0] += 1
        try:
            result = self.env.step(action)
        except FaultyEnvironmentError:
            raise
        except (Exception, SystemExit) as error:
            raise self._raised(error, "step") from error
        try:
            observation, reward, terminated, truncated, info = result
        except (TypeError, ValueError):
            expected = "five values: observation, reward, terminated, truncated, info"
            raise self._fault(wrong_number_of_values(result, expected), "step") from None
        wrong = (
            self._wrong_observation(observation)
            or (None if type(reward) is float else wrong_reward(reward))
            or (None if type(terminated) is bool else wrong_flag("terminated", terminated))
            or (None if type(truncated) is bool else wrong_flag("truncated", truncated))
            or (None if type(info) is dict else wrong_info(info))
        )
        if wrong is not None:
            raise self._fault(f"returned {wrong}", "step")
        return result

    def reset(self, **kwargs: Any) -> Any:
        """:raises FaultyEnvironmentError: If the environment raises an error or returns a wrong value"""
        try:
            result = self.env.reset(**kwargs)
        except FaultyEnvironmentError:
            raise
        except (Exception, SystemExit) as error:
            raise self._raised(error, "reset") from error
        if not (isinstance(result, tuple) and len(result) == 2):
            raise self._fault(wrong_number_of_values(result, "two values: observation, info"), "reset")
        observation, info = result
        if (wrong := self._wrong_observation(observation) or wrong_info(info)) is not None:
            raise self._fault(f"returned {wrong}", "reset")
        return result

    def _raised(self, error: BaseException, method: str) -> Exception:
        return self._fault(describe(error), method, code_location(error), trace(error))

    def _fault(self, what: str, method: str, location: str = "", trace: str = "") -> FaultyEnvironmentError:
        (n_steps,) = self._n_steps
        when = f"step {n_steps}" if method == "step" else f"reset() after {n_steps} steps"
        return FaultyEnvironmentError(self._name, self._index, when + location, what, trace)


class OutermostEnv(CheckedEnv):
    """
    The outermost wrapper of an environment.

    :param env: The environment with its other wrappers
    :param name: Its name in error messages
    :param index: Its index in the vectorized environment
    :param monitor: The file in which SB3's monitor logs its episodes, or None
    :param return_errors: Whether errors are returned in place of the observation. That is how they leave a process:
        if they were raised there, SB3's process would just die
    """

    def __init__(
        self, env: gym.Env[Any, Any], name: str, index: int, monitor: Path | None = None, return_errors: bool = False
    ) -> None:
        super().__init__(env, name, index)
        self._failed, self._return_errors = False, return_errors
        self._monitor = monitor

    def __setattr__(self, name: str, value: Any) -> None:
        # `VecEnv.set_attr` sets attributes on the outermost wrapper, but users mean their own environment
        own = "_monitor" not in self.__dict__ or name in self.__dict__
        (super().__setattr__ if own else partial(setattr, self.env))(name, value)

    def step(self, action: Any) -> Any:
        """
        :raises FaultyEnvironmentError: If the environment raises an error or returns a wrong value
        :raises OSError: If the disk is full, so that the episode cannot be logged
        """
        try:
            return super().step(action)
        except (FaultyEnvironmentError, OSError) as error:
            self._failed = True
            if not self._return_errors:
                raise
            return error, 0.0, False, False, {}

    def reset(self, **kwargs: Any) -> Any:
        """:raises FaultyEnvironmentError: If the environment raises an error or returns a wrong value"""
        try:
            return super().reset(**kwargs)
        except (FaultyEnvironmentError, OSError) as error:
            self._failed = True
            if not self._return_errors:
                raise
            return error, {}

    def close(self) -> None:
        """Close the environment. If that fails, it is only a warning, or nothing after an earlier error."""
        try:
            super().close()
        except (Exception, SystemExit) as error:
            if not self._failed:
                message = f"{self._name} (index {self._index}), close(){code_location(error)}: {describe(error)}"
                warnings.warn(message, stacklevel=2)

    def _raised(self, error: BaseException, method: str) -> Exception:
        # A full disk here concerns the monitor's file: errors of the environment's own files come from the inner check
        return full_disk_error(error, self._monitor) or super()._raised(error, method)


def full_disk_error(error: BaseException, monitor: Path | None) -> OSError | None:
    """:return: For a full disk, the same error with the monitor's file name, which the original does not have"""
    if not is_full_disk(error) or error.filename is not None or monitor is None:
        return None
    return OSError(error.errno, error.strerror, str(monitor))
