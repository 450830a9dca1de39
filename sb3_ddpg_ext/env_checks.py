"""
Environments that say what is wrong with them: one line with the environment and the step in place of a traceback from
three libraries down, and in place of SB3's broadcasting of observations that have a wrong shape.
"""

import contextlib
import errno
import itertools
import reprlib
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import SubprocVecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from sb3_ddpg_ext.errors import FaultyEnvironmentError, describe

_FAULT = "sb3_ddpg_ext.fault"
_LIBRARIES = tuple(str(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib"))


def checked(make: Callable[..., gym.Env[Any, Any]], env_id: str, role: str = "") -> Callable[..., gym.Env[Any, Any]]:
    """
    Check environments from inside and outside: what the environment itself returns, before Gymnasium's own wrappers
    stumble over it, and what comes out of all wrappers.

    :param make: Makes an environment, perhaps with wrappers around it
    :param env_id: Its id
    :param role: What it is for, where that has to be said
    :return: Makes the same environment, checked; each call is for the next index of a vectorized environment
    """
    name, numbers = f"{role}environment {env_id!r}", itertools.count()

    def make_checked(*args: Any, **kwargs: Any) -> gym.Env[Any, Any]:
        outermost, index = make(*args, **kwargs), next(numbers)
        innermost = outermost
        while isinstance(innermost, gym.Wrapper) and isinstance(innermost.env, gym.Wrapper):
            innermost = innermost.env
        if isinstance(innermost, gym.Wrapper) and not isinstance(innermost, CheckedEnv):
            innermost.env = CheckedEnv(innermost.env, name, index)
        return CheckedEnv(outermost, name, index)

    return make_checked


class CheckedEnv(gym.Wrapper[Any, Any, Any, Any]):
    """
    An environment that raises :class:`FaultyEnvironmentError` in place of whatever is raised in it, and where it
    returns something else than it should. (What is not finite is left to the algorithm, which knows about it.)

    :param env: The environment
    :param name: What it is called
    :param index: Its index in the vectorized environment
    """

    def __init__(self, env: gym.Env[Any, Any], name: str, index: int) -> None:
        super().__init__(env)
        self._name, self._index, self._n_steps = name, index, 0

    def step(self, action: Any) -> Any:
        """:raises FaultyEnvironmentError: If it raises, or returns what no environment may return"""
        self._n_steps += 1
        try:
            result = self.env.step(action)
        except (Exception, SystemExit) as error:
            if (fault := self._raised(error, "step")) is error:
                raise
            raise fault from error
        try:
            observation, reward, terminated, truncated, info = result
        except (TypeError, ValueError):
            expected = "five values: observation, reward, terminated, truncated, info"
            raise self._fault(_returned(result, expected), "step") from None
        what = (
            _wrong_observation(observation, self.observation_space)
            or (None if type(reward) is float else _wrong_reward(reward))
            or (None if type(terminated) is bool else _wrong_flag("terminated", terminated))
            or (None if type(truncated) is bool else _wrong_flag("truncated", truncated))
            or (None if isinstance(info, dict) else f"the info {_short(info)}, expected a dict")
        )
        if what is not None:
            raise self._fault(f"returned {what}", "step")
        return result

    def reset(self, **kwargs: Any) -> Any:
        """:raises FaultyEnvironmentError: If it raises, or returns what no environment may return"""
        try:
            result = self.env.reset(**kwargs)
        except (Exception, SystemExit) as error:
            if (fault := self._raised(error, "reset")) is error:
                raise
            raise fault from error
        if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)):
            raise self._fault(_returned(result, "two values: observation, info (a dict)"), "reset")
        if (what := _wrong_observation(result[0], self.observation_space)) is not None:
            raise self._fault(f"returned {what}", "reset")
        return result

    def _raised(self, error: BaseException, method: str) -> Exception:
        full_disk = isinstance(error, OSError) and error.errno == errno.ENOSPC  # of the monitor's file
        if isinstance(error, FaultyEnvironmentError) or full_disk:
            return cast(Exception, error)
        return self._fault(describe(error), method, _place(error), "".join(traceback.format_exception(error)))

    def _fault(self, what: str, method: str, place: str = "", trace: str = "") -> FaultyEnvironmentError:
        step = f"step {self._n_steps}" if method == "step" else f"reset() after {self._n_steps} steps"
        return FaultyEnvironmentError(self._name, self._index, step + place, what, trace)


class _FaultsInInfo(gym.Wrapper[Any, Any, Any, Any]):
    """Hands a fault over to another process, in the ``info`` of the step: a worker of SB3's that raises just dies."""

    _fault: FaultyEnvironmentError | None = None

    def step(self, action: Any) -> Any:
        try:
            if self._fault is None:
                return self.env.step(action)
        except FaultyEnvironmentError as fault:
            self._fault = fault
        return _nothing(self.observation_space), 0.0, False, False, {_FAULT: self._fault}

    def reset(self, **kwargs: Any) -> Any:
        try:
            return self.env.reset(**kwargs)
        except FaultyEnvironmentError as fault:
            self._fault = fault
            return _nothing(self.observation_space), {_FAULT: fault}


class CheckedSubprocVecEnv(SubprocVecEnv):
    """
    SB3's environments in processes of their own, whose faults are raised here, and which say so if one of them dies.

    :param env_fns: Each makes a :class:`CheckedEnv`, perhaps with wrappers around it
    """

    def __init__(self, env_fns: list[Callable[[], gym.Env[Any, Any]]], **kwargs: Any) -> None:
        self.processes: list[Any] = []
        super().__init__([_with_faults_in_info(make) for make in env_fns], **kwargs)

    def step_async(self, actions: np.ndarray) -> None:
        """:raises FaultyEnvironmentError: If one of the processes is dead"""
        with self._of_living_processes():
            super().step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """:raises FaultyEnvironmentError: What was raised in one of the processes, or if it is dead"""
        with self._of_living_processes():
            result = super().step_wait()
        self._raise_first(result[3])
        self._raise_first(self.reset_infos)
        return result

    def reset(self) -> VecEnvObs:
        """:raises FaultyEnvironmentError: What was raised in one of the processes, or if it is dead"""
        with self._of_living_processes():
            observations = super().reset()
        self._raise_first(self.reset_infos)
        return observations

    def close(self) -> None:
        """End the processes, also where some have died."""
        with contextlib.suppress(EOFError, ConnectionError):
            super().close()
        for process in self.processes:
            process.terminate()
            process.join()

    def _raise_first(self, infos: Any) -> None:
        for index, info in enumerate(infos):
            if _FAULT in info:
                fault: FaultyEnvironmentError = info[_FAULT]
                raise fault.of(index)

    @contextlib.contextmanager
    def _of_living_processes(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, ConnectionError) as error:
            self.waiting = False
            for process in self.processes:
                process.join(timeout=1)
            dead = [(i, process.exitcode) for i, process in enumerate(self.processes) if process.exitcode is not None]
            index, status = dead[0] if dead else (0, None)
            what = f"its process has died (exit status {status}); killed, or out of memory?"
            raise FaultyEnvironmentError("environment", index, "in the midst of a step", what) from error


def _with_faults_in_info(make: Callable[[], gym.Env[Any, Any]]) -> Callable[[], gym.Env[Any, Any]]:
    return lambda: _FaultsInInfo(make())


def _nothing(space: spaces.Space[Any]) -> Any:
    if isinstance(space, spaces.Dict):
        return {key: np.zeros(part.shape or (), part.dtype) for key, part in space.items()}
    return np.zeros(space.shape or (), space.dtype)


def _wrong_observation(observation: Any, space: spaces.Space[Any]) -> str | None:
    if isinstance(space, spaces.Dict):
        if not isinstance(observation, dict) or observation.keys() != space.spaces.keys():
            had = (
                f"the keys {', '.join(map(str, observation))}" if isinstance(observation, dict) else _short(observation)
            )
            return f"an observation with {had}, expected a dict with the keys {', '.join(space.spaces)}"
        parts = ((_wrong_observation(observation[key], part), key) for key, part in space.items())
        return next((f"{what} (key {key!r})" for what, key in parts if what is not None), None)
    if not isinstance(space, spaces.Box):
        return None
    if isinstance(observation, np.ndarray) and observation.shape == space.shape and observation.dtype.kind in "fiub":
        return None
    try:
        array = np.asarray(observation)
    except ValueError:  # lists of different lengths
        array = np.asarray(None)
    if array.dtype.kind not in "fiub":
        return f"the observation {_short(observation)}, expected numbers of the shape {space.shape}"
    if array.shape != space.shape:
        return f"an observation of the shape {array.shape}, expected {space.shape}, as its observation_space says"
    return None


def _wrong_reward(reward: Any) -> str | None:
    # An array of one number is none: NumPy is about to refuse its conversion
    if hasattr(type(reward), "__float__") and np.ndim(reward) == 0:
        return None
    return f"the reward {_short(reward)}, expected a number"


def _wrong_flag(name: str, flag: Any) -> str | None:
    return None if isinstance(flag, bool | np.bool_) else f"{name}={_short(flag)}, expected True or False"


def _returned(result: Any, expected: str) -> str:
    count = f"{len(result)} values" if isinstance(result, tuple | list) else _short(result)
    return f"returned {count}, expected {expected}"


def _short(value: Any) -> str:
    return f"{' '.join(reprlib.repr(value).split())} ({type(value).__name__})"


def _place(error: BaseException) -> str:
    """Where a user's code raised, the libraries' being of no interest."""
    frames = traceback.extract_tb(error.__traceback__)
    own = str(Path(__file__).parent)
    theirs = [frame for frame in frames if not frame.filename.startswith((*_LIBRARIES, own))]
    return f" ({Path(theirs[-1].filename).name}:{theirs[-1].lineno})" if theirs else ""
