"""Environments in processes of their own, whose errors and deaths are reported."""

import contextlib
import signal
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import SubprocVecEnv

from sb3_ddpg_ext.env_checks.messages import code_location
from sb3_ddpg_ext.errors import FaultyEnvironmentError, describe, is_full_disk, trace

EnvFn = Callable[[], gym.Env[Any, Any]]


class _FailedEnv(gym.Env[Any, Any]):
    """Stands in for an environment that could not be made. The attributes that SB3 reads first hold the error."""

    def __init__(self, error: Exception) -> None:
        self.observation_space = self.action_space = self.render_mode = error  # type: ignore[assignment]


def _make_or_return_error(env_fn: EnvFn, name: str, index: int) -> gym.Env[Any, Any]:
    try:
        return env_fn()
    except (Exception, SystemExit) as error:
        if is_full_disk(error):
            return _FailedEnv(error)
        when = f"while it was being made{code_location(error)}"
        return _FailedEnv(FaultyEnvironmentError(name, index, when, describe(error), trace(error)))


class _CheckedPipe:
    """
    One end of the pipe to a process. It raises the errors that the process returns, and another one if it is dead.

    :param connection: The pipe
    :param make_death_error: Makes the error for a dead process
    """

    def __init__(self, connection: Any, make_death_error: Callable[[], FaultyEnvironmentError]) -> None:
        self.connection, self._make_death_error = connection, make_death_error

    def __reduce__(self) -> Any:  # SB3 sends the pipe to the process, which needs only the connection
        return _identity, (self.connection,)

    def send(self, message: Any) -> None:
        try:
            self.connection.send(message)
        except OSError:
            raise self._make_death_error() from None

    def recv(self) -> Any:
        try:
            answer = self.connection.recv()
        except (EOFError, OSError):
            raise self._make_death_error() from None
        first = answer[0] if isinstance(answer, tuple) and answer else answer
        if isinstance(first, FaultyEnvironmentError | OSError):
            raise first
        return answer

    def close(self) -> None:
        self.connection.close()


def _identity(connection: Any) -> Any:
    return connection


class CheckedSubprocVecEnv(SubprocVecEnv):
    """
    SB3's environments in processes of their own. Their errors are raised here, and it is an error if one of them dies.

    :param env_fns: Functions that make one :class:`OutermostEnv` with ``return_errors=True`` each
    :param name: The environments' name in error messages
    """

    def __init__(self, env_fns: Sequence[EnvFn], name: str) -> None:
        self._name, self._n_steps = name, 0
        self.processes = []
        try:
            super().__init__([partial(_make_or_return_error, env_fn, name, i) for i, env_fn in enumerate(env_fns)])
        except Exception:
            self.close()
            raise

    @property
    def remotes(self) -> tuple[_CheckedPipe, ...]:
        """Our ends of the pipes to the processes"""
        return self._remotes

    @remotes.setter
    def remotes(self, connections: Sequence[Any]) -> None:
        self._remotes = tuple(_CheckedPipe(pipe, partial(self._death_error, i)) for i, pipe in enumerate(connections))

    def step_async(self, actions: np.ndarray) -> None:
        """:raises FaultyEnvironmentError: If one of the processes is dead"""
        self._n_steps += 1
        super().step_async(actions)

    def close(self) -> None:
        """End the processes, even if some have died or still have results to send."""
        if self.closed:
            return
        for remote in self.remotes:
            with contextlib.suppress(EOFError, OSError):  # the process is dead
                remote.connection.send(("close", None))
                while True:  # until the process closes its end
                    remote.connection.recv()
        for process in self.processes:
            process.join()
        for remote in self.remotes:
            remote.close()
        self.closed = True

    def _death_error(self, index: int) -> FaultyEnvironmentError:
        process = self.processes[index]
        process.join(timeout=10)  # its pipe is closed a moment before it ends
        status = process.exitcode
        died = f"ended with exit status {status}"
        if status is not None and status < 0:
            died = f"was killed by {signal.Signals(-status).name}{', out of memory?' * (-status == signal.SIGKILL)}"
        return FaultyEnvironmentError(self._name, index, f"step {self._n_steps}", f"its process {died}")
