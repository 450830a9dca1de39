"""
Environments that say what is wrong with them: one line with the environment and the step in place of a traceback from
three libraries down, and in place of SB3's broadcasting of observations that have a wrong shape.
"""

import contextlib
import errno
import reprlib
import signal
import sysconfig
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

from sb3_ddpg_ext.errors import FaultyEnvironmentError, describe

EnvFn = Callable[[], gym.Env[Any, Any]]

_NUMBERS = "biuf"  # NumPy's kinds of them
_SCALARS = float, int, np.floating, np.integer, np.bool_
_TRANSPARENT = Monitor, TimeLimit, OrderEnforcing, PassiveEnvChecker  # they pass on what an environment returns
_LIBRARIES = tuple(str(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib"))


def vectorized(env_fns: Sequence[EnvFn], *, name: str, monitor_dir: Path | None, subprocesses: bool) -> VecEnv:
    """
    SB3's vectorized environments, of environments that are checked.

    :param env_fns: Each makes one, with all of its wrappers
    :param name: What they are called
    :param monitor_dir: Where SB3's monitors log their episodes
    :param subprocesses: Whether each is stepped in a process of its own
    :return: The vectorized environment
    """
    monitors = [None if monitor_dir is None else monitor_dir / f"{i}.monitor.csv" for i in range(len(env_fns))]
    makers: list[EnvFn] = [partial(_make, f, name, i, monitors[i], subprocesses) for i, f in enumerate(env_fns)]
    return CheckedSubprocVecEnv(makers, name) if subprocesses else DummyVecEnv(makers)


def _make(make: EnvFn, name: str, index: int, monitor: Path | None, answers: bool) -> gym.Env[Any, Any]:
    """
    Check an environment from inside and outside: what it returns itself, before Gymnasium's own wrappers stumble over
    it, and what comes out of all wrappers. What its author has put around it belongs to it.
    """
    try:
        env = make()
    except OSError as error:
        if (full := _full_disk(error, monitor)) is not None:
            raise full from error
        raise
    innermost, wrapper = None, env
    while isinstance(wrapper, gym.Wrapper):
        innermost = wrapper if isinstance(wrapper, _TRANSPARENT) else innermost
        wrapper = wrapper.env
    if innermost is not None:
        innermost.env = CheckedEnv(innermost.env, name, index)
    return OutermostEnv(env, name, index, monitor, answers)


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
        self._name, self._index = name, index
        self._n_steps = [0]  # one number that changes: to set an attribute takes longer, see `OutermostEnv`
        self._wrong_observation = _observation_check(env.observation_space)

    @property
    def spec(self) -> Any:  # type: ignore[override]
        """That of the environment, which can be made without this wrapper"""
        return self.env.spec

    def step(self, action: Any) -> Any:
        """:raises FaultyEnvironmentError: If it raises, or returns what no environment may return"""
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
            raise self._fault(_returned(result, expected), "step") from None
        what = (
            self._wrong_observation(observation)
            or (None if type(reward) is float else _wrong_reward(reward))
            or (None if type(terminated) is bool else _wrong_flag("terminated", terminated))
            or (None if type(truncated) is bool else _wrong_flag("truncated", truncated))
            or (None if type(info) is dict else _wrong_info(info))
        )
        if what is not None:
            raise self._fault(f"returned {what}", "step")
        return result

    def reset(self, **kwargs: Any) -> Any:
        """:raises FaultyEnvironmentError: If it raises, or returns what no environment may return"""
        try:
            result = self.env.reset(**kwargs)
        except FaultyEnvironmentError:
            raise
        except (Exception, SystemExit) as error:
            raise self._raised(error, "reset") from error
        if not (isinstance(result, tuple) and len(result) == 2):
            raise self._fault(_returned(result, "two values: observation, info"), "reset")
        observation, info = result
        if (what := self._wrong_observation(observation) or _wrong_info(info)) is not None:
            raise self._fault(f"returned {what}", "reset")
        return result

    def _raised(self, error: BaseException, method: str) -> Exception:
        return self._fault(describe(error), method, _place(error), "".join(traceback.format_exception(error)))

    def _fault(self, what: str, method: str, place: str = "", trace: str = "") -> FaultyEnvironmentError:
        (n_steps,) = self._n_steps
        step = f"step {n_steps}" if method == "step" else f"reset() after {n_steps} steps"
        return FaultyEnvironmentError(self._name, self._index, step + place, what, trace)


class OutermostEnv(CheckedEnv):
    """
    The outermost wrapper of an environment.

    :param env: The environment with its other wrappers
    :param name: What it is called
    :param index: Its index in the vectorized environment
    :param monitor: The file that its episodes are logged into
    :param answers: Whether what it would raise is returned as the observation: a process of SB3's that raises just dies
    """

    def __init__(
        self, env: gym.Env[Any, Any], name: str, index: int, monitor: Path | None = None, answers: bool = False
    ) -> None:
        super().__init__(env, name, index)
        self._failed, self._answers = False, answers
        self._monitor = monitor

    def __setattr__(self, name: str, value: Any) -> None:
        # `VecEnv.set_attr` sets attributes of the outermost wrapper, by which its caller means one of his own
        own = "_monitor" not in self.__dict__ or name in self.__dict__
        (super().__setattr__ if own else partial(setattr, self.env))(name, value)

    def step(self, action: Any) -> Any:
        """
        :raises FaultyEnvironmentError: If it raises, or returns what no environment may return
        :raises OSError: If its episode does not fit onto the disk
        """
        try:
            return super().step(action)
        except (FaultyEnvironmentError, OSError) as error:
            self._failed = True
            if not self._answers:
                raise
            return error, 0.0, False, False, {}

    def reset(self, **kwargs: Any) -> Any:
        """:raises FaultyEnvironmentError: If it raises, or returns what no environment may return"""
        try:
            return super().reset(**kwargs)
        except (FaultyEnvironmentError, OSError) as error:
            self._failed = True
            if not self._answers:
                raise
            return error, {}

    def close(self) -> None:
        """Close the environment. If that fails nothing is lost any more, and what has failed before counts."""
        try:
            super().close()
        except (Exception, SystemExit) as error:
            if not self._failed:
                what = f"{self._name} (index {self._index}), close(){_place(error)}: {describe(error)}"
                warnings.warn(what, stacklevel=2)

    def _raised(self, error: BaseException, method: str) -> Exception:
        # What the environment writes itself is a matter of the check inside
        return _full_disk(error, self._monitor) or super()._raised(error, method)


class _NeverMade(gym.Env[Any, Any]):
    """In the place of an environment that could not be made: whatever SB3 asks first, this is the answer."""

    def __init__(self, error: Exception) -> None:
        self.observation_space = self.action_space = self.render_mode = error  # type: ignore[assignment]


def _make_or_answer(make: EnvFn, name: str, index: int) -> gym.Env[Any, Any]:
    try:
        return make()
    except (Exception, SystemExit) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            return _NeverMade(error)
        when = f"when it was to be made{_place(error)}"
        trace = "".join(traceback.format_exception(error))
        return _NeverMade(FaultyEnvironmentError(name, index, when, describe(error), trace))


class _Remote:
    """
    The end of a pipe to a process, where what is raised there is raised, and its death as well.

    :param connection: The pipe
    :param death: Makes the error to raise when the process is dead
    """

    def __init__(self, connection: Any, death: Callable[[], FaultyEnvironmentError]) -> None:
        self.connection, self._death = connection, death

    def __reduce__(self) -> Any:  # SB3 sends it to the process, which closes it there
        return _the_same, (self.connection,)

    def send(self, message: Any) -> None:
        try:
            self.connection.send(message)
        except OSError:
            raise self._death() from None

    def recv(self) -> Any:
        try:
            answer = self.connection.recv()
        except (EOFError, OSError):
            raise self._death() from None
        first = answer[0] if isinstance(answer, tuple) and answer else answer
        if isinstance(first, FaultyEnvironmentError | OSError):
            raise first
        return answer

    def close(self) -> None:
        self.connection.close()


def _the_same(connection: Any) -> Any:
    return connection


class CheckedSubprocVecEnv(SubprocVecEnv):
    """
    SB3's environments in processes of their own, whose faults are raised here, and which say so if one of them dies.

    :param env_fns: Each makes an :class:`OutermostEnv` that answers
    :param name: What the environments are called
    """

    def __init__(self, env_fns: Sequence[EnvFn], name: str) -> None:
        self._name, self._n_steps = name, 0
        self.processes = []
        try:
            super().__init__([partial(_make_or_answer, make, name, i) for i, make in enumerate(env_fns)])
        except Exception:
            self.close()
            raise

    @property
    def remotes(self) -> tuple[_Remote, ...]:
        """The ends of the pipes to the processes"""
        return self._remotes

    @remotes.setter
    def remotes(self, connections: Sequence[Any]) -> None:
        self._remotes = tuple(_Remote(pipe, partial(self._death, i)) for i, pipe in enumerate(connections))

    def step_async(self, actions: np.ndarray) -> None:
        """:raises FaultyEnvironmentError: If one of the processes is dead"""
        self._n_steps += 1
        super().step_async(actions)

    def close(self) -> None:
        """End the processes, also where some have died, or were not waited for."""
        if self.closed:
            return
        for remote in self.remotes:
            with contextlib.suppress(EOFError, OSError):  # the process is dead
                remote.connection.send(("close", None))
                while True:  # to the end of what it had still to say
                    remote.connection.recv()
        for process in self.processes:
            process.join()
        for remote in self.remotes:
            remote.close()
        self.closed = True

    def _death(self, index: int) -> FaultyEnvironmentError:
        process = self.processes[index]
        process.join(timeout=10)  # its end of the pipe is closed a moment before
        status = process.exitcode
        died = f"ended with exit status {status}"
        if status is not None and status < 0:
            died = f"was killed by {signal.Signals(-status).name}{', out of memory?' * (-status == signal.SIGKILL)}"
        return FaultyEnvironmentError(self._name, index, f"step {self._n_steps}", f"its process {died}")


def _full_disk(error: BaseException, monitor: Path | None) -> OSError | None:
    """Of the file that episodes are logged into the system does not say the name."""
    if not isinstance(error, OSError) or error.errno != errno.ENOSPC or error.filename is not None or monitor is None:
        return None
    return OSError(error.errno, error.strerror, str(monitor))


def _observation_check(space: spaces.Space[Any]) -> Callable[[Any], str | None]:
    """A function that says what is wrong with an observation; it is called at each step, and made once."""
    if isinstance(space, spaces.Dict):
        return partial(_wrong_dict, {key: _observation_check(part) for key, part in space.items()})
    shape = space.shape
    if shape is None:  # SB3 does not take such observations, and says so
        return lambda _: None

    def wrong(observation: Any) -> str | None:
        if type(observation) is np.ndarray and observation.shape == shape and observation.dtype.kind in _NUMBERS:
            return None
        array = _as_numbers(observation)
        if array is None:
            return f"the observation {_short(observation)}, expected numbers of the shape {shape}"
        if array.shape != shape:
            return f"an observation of the shape {array.shape}, expected {shape}, as its observation_space says"
        return None

    return wrong


def _wrong_dict(checks: Mapping[str, Callable[[Any], str | None]], observation: Any) -> str | None:
    if not isinstance(observation, dict) or observation.keys() != checks.keys():
        had = f"the keys {', '.join(map(str, observation))}" if isinstance(observation, dict) else _short(observation)
        return f"an observation with {had}, expected a dict with the keys {', '.join(checks)}"
    for key, check in checks.items():
        if (what := check(observation[key])) is not None:
            return f"{what} (key {key!r})"
    return None


def _wrong_reward(reward: Any) -> str | None:
    if isinstance(reward, _SCALARS):
        return None
    # An array of one number is none: NumPy does not convert it any more, and those of several processes are a matrix
    array = _as_numbers(reward)
    return None if array is not None and array.shape == () else f"the reward {_short(reward)}, expected a number"


def _wrong_flag(name: str, flag: Any) -> str | None:
    if isinstance(flag, bool | np.bool_) or (isinstance(flag, np.ndarray) and flag.shape == () and flag.dtype == bool):
        return None
    return f"{name}={_short(flag)}, expected True or False"


def _wrong_info(info: Any) -> str | None:
    return None if isinstance(info, dict) else f"the info {_short(info)}, expected a dict"


def _as_numbers(value: Any) -> np.ndarray | None:
    try:
        array = np.asarray(value)
    except Exception:  # lists of different lengths, tensors with gradients
        return None
    return array if array.dtype.kind in _NUMBERS else None


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
