"""
The running episode of an environment: enough is recorded to play it again.

Few environments can say what state they are in. But all of them can be reset with the random generator that they were
reset with, and be given the same actions again. Whether this has led to the same state is known from the observations
and rewards on the way.

The recorder sits where the environment is, which may be another process, since the generator has to be read between the
last step of one episode and the reset that begins the next: a vectorized environment does both in one go.
"""

import struct
import time
import zlib
from collections.abc import Iterator
from functools import partial
from typing import Any, cast

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecEnvWrapper

from sb3_ddpg_ext.checkpoint.codec import is_data
from sb3_ddpg_ext.checkpoint.object_state import generator_states, set_generator_states

MAX_STEPS = 100_000
"""Steps of an episode that are recorded. A longer one cannot be put back."""

_NAME = "episode_recorder"
_GET, _SET, _GET_GENERATORS, _SET_GENERATORS = (
    f"{_NAME}_{what}" for what in ("get", "set", "get_generators", "set_generators")
)
_MONITOR_STATE = ("episode_returns", "episode_lengths", "episode_times", "total_steps", "current_reset_info")
_reward_bytes = struct.Struct("<d").pack


class EpisodeRecorder:
    """
    Records the running episode of one environment, and puts it back.

    :param env: The environment with all of its wrappers. Its methods ``step`` and ``reset`` are replaced by the
        recorder's, which call them
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        self.env = env
        attributes = vars(env)  # directly, since a wrapper may pass attributes on
        # A user may have replaced the methods of this one object
        self._step: Any = attributes.get("step")
        self._reset = attributes.get("reset")
        self._offers_state = _offering_state(env) is not None
        self._begin({})
        self._why_not: str | None = "it was reset before it was recorded"
        if self._step is None:
            self._step = partial(type(env).step, env)
        attributes |= {"step": self.step, "reset": self.reset, _NAME: self, _GET: self.get, _SET: self.set}
        attributes |= {_GET_GENERATORS: self.generators, _SET_GENERATORS: self.set_generators}

    def _begin(self, arguments: dict[str, Any]) -> None:
        self._generators = _generators(self.env)
        self._arguments = arguments
        self._actions: list[Any] = []
        self._checksum = 0
        self._why_not = None

    def reset(self, **kwargs: Any) -> Any:
        """Reset the environment, and begin to record."""
        self._begin(dict(kwargs))
        result = type(self.env).reset(self.env, **kwargs) if self._reset is None else self._reset(**kwargs)
        self._see(result[0], 0.0)
        return result

    def step(self, action: Any) -> Any:
        """Take a step, and record it."""
        if self._why_not is not None:
            return self._step(action)
        if not self._offers_state:
            self._actions.append(np.array(action))  # a copy, since environments may clip it in place
            if len(self._actions) > MAX_STEPS:
                self._actions, self._why_not = [], f"it is longer than {MAX_STEPS} steps"
        result = self._step(action)
        self._see(result[0], result[1])
        return result

    def _see(self, observation: Any, reward: Any) -> None:
        try:
            start = zlib.crc32(_reward_bytes(reward), self._checksum)
            if type(observation) is np.ndarray and observation.flags.c_contiguous:  # the most common case
                self._checksum = zlib.crc32(observation.data, start)
            else:
                self._checksum = _checksum(observation, start)
        except Exception as error:  # what is no observation or reward is reported by others
            self._why_not = f"its observations cannot be compared: {error!r}"

    def generators(self) -> list[dict[str, Any]]:
        """:return: The states of the environment's and its spaces' generators, as plain data"""
        return _generators(self.env)

    def set_generators(self, states: list[dict[str, Any]]) -> None:
        """:param states: What :meth:`generators` returned"""
        _set_generators(self.env, states)

    def get(self) -> dict[str, Any]:
        """:return: The running episode, and what is to be put back together with it, as plain data"""
        episode: dict[str, Any] = {
            "why_not": self._why_not,
            "before": self._generators,
            "arguments": self._arguments if is_data(self._arguments) else {},
            "actions": np.array(self._actions) if self._actions else [],
            "checksum": self._checksum,
            "now": _generators(self.env),
            "monitors": [_monitor_state(wrapper) for wrapper in _wrappers(self.env) if isinstance(wrapper, Monitor)],
        }
        if not is_data(self._arguments):
            episode["why_not"] = "it was reset with options that are no plain data"
        offering = _offering_state(self.env)
        if offering is not None:
            try:
                state = offering.get_state()
            except Exception as error:  # would end a process of its own
                return {**episode, "why_not": f"get_state() raised {error!r}"}
            if not is_data(state):
                return {**episode, "why_not": f"get_state() returned a {type(state).__name__}, which is no plain data"}
            wrappers = list(_wrappers(self.env))
            episode |= {
                "state": state,
                "rewards": [wrapper.rewards for wrapper in wrappers if isinstance(wrapper, Monitor)],
                "elapsed": [wrapper._elapsed_steps for wrapper in wrappers if isinstance(wrapper, TimeLimit)],
                "why_not": None,
            }
        return episode

    def set(self, episode: dict[str, Any]) -> str | None:
        """
        Put an episode back, without a trace in the files and counters of monitors.

        :param episode: What :meth:`get` returned
        :return: None, or why it could not be put back
        """
        monitors = [wrapper for wrapper in _wrappers(self.env) if isinstance(wrapper, Monitor)]
        writers = [vars(monitor).get("results_writer") for monitor in monitors]
        for monitor in monitors:
            vars(monitor)["results_writer"] = None
        try:
            return self._play(episode)
        except Exception as error:  # whatever an environment raises: training can go on with a new episode
            return f"it raised {error!r}"
        finally:
            for monitor, writer, state in zip(monitors, writers, episode["monitors"], strict=False):
                vars(monitor).update(state["counters"], results_writer=writer, t_start=time.time() - state["seconds"])
            _set_generators(self.env, episode["now"])

    def _play(self, episode: dict[str, Any]) -> str | None:
        if episode["why_not"] is not None:
            return cast(str, episode["why_not"])
        _set_generators(self.env, episode["before"])
        self.reset(**episode["arguments"])
        offering = _offering_state(self.env)
        if "state" in episode:
            if offering is None:
                return "the environment does not offer set_state any more"
            offering.set_state(episode["state"])
            for kind, name in ((Monitor, "rewards"), (TimeLimit, "elapsed")):
                attribute = "rewards" if kind is Monitor else "_elapsed_steps"
                wrappers = [wrapper for wrapper in _wrappers(self.env) if isinstance(wrapper, kind)]
                for wrapper, value in zip(wrappers, episode[name], strict=False):
                    vars(wrapper)[attribute] = value
            return None
        for i, action in enumerate(episode["actions"]):
            _, _, terminated, truncated, _ = self.step(action)
            if terminated or truncated:
                return f"played again, it ended after {i + 1} of {len(episode['actions'])} steps"
        if self._checksum != episode["checksum"]:
            return "played again, its observations or rewards were different ones"
        if _random_numbers(_generators(self.env)) != _random_numbers(episode["now"]):
            return "played again, it drew other random numbers"
        return None


def _wrappers(env: Any) -> Iterator[Any]:
    yield env
    while isinstance(env, gym.Wrapper):
        env = env.env
        yield env


def _offering_state(env: Any) -> Any:
    """:return: The outermost wrapper, or the environment itself, that has both ``get_state`` and ``set_state``"""
    for each in _wrappers(env):
        if callable(getattr(type(each), "get_state", None)) and callable(getattr(type(each), "set_state", None)):
            return each
    return None


def _generators(env: gym.Env[Any, Any]) -> list[dict[str, Any]]:
    return [generator_states(each) for each in _wrappers(env)]


def _set_generators(env: gym.Env[Any, Any], states: list[dict[str, Any]]) -> None:
    for each, each_states in zip(_wrappers(env), states, strict=False):
        set_generator_states(each, each_states)


def _random_numbers(states: list[dict[str, Any]]) -> str:
    """:return: The states without those of spaces, from which others may have drawn in the meantime"""
    return repr([{name: state for name, state in each.items() if "space" not in state} for each in states])


def _monitor_state(monitor: Monitor[Any, Any]) -> dict[str, Any]:
    counters = {name: vars(monitor)[name] for name in _MONITOR_STATE}
    return {"counters": counters, "seconds": time.time() - monitor.t_start}


def _checksum(value: Any, start: int) -> int:
    if isinstance(value, np.ndarray):
        data: Any = value if value.flags.c_contiguous else value.tobytes()
        return zlib.crc32(data, start)
    if isinstance(value, dict):
        for key in sorted(value):
            start = _checksum(value[key], start)
        return start
    if isinstance(value, tuple):
        for item in value:
            start = _checksum(item, start)
        return start
    return zlib.crc32(np.asarray(value).tobytes(), start)


def _install(env: gym.Env[Any, Any]) -> bool:
    recorder = vars(env).get(_NAME)
    # Whoever has replaced the methods since then calls ours, if at all, from within: it is still in place
    if not isinstance(recorder, EpisodeRecorder) or recorder.env is not env:
        EpisodeRecorder(env)
    return True


class _Installation:
    """
    Installs a recorder in the process of an environment. SB3 runs no functions there, but asks there whether an
    environment is an instance of the class that it is sent; and an object can answer that question itself.
    """

    def __instancecheck__(self, env: Any) -> bool:
        try:
            return _install(env)
        except Exception:  # would end the process
            return False


def _base(env: VecEnv) -> VecEnv:
    while isinstance(env, VecEnvWrapper):
        env = env.venv
    return env


def record_episodes(env: VecEnv) -> list[bool]:
    """
    Record the episodes of all environments from their next reset on, if that has not begun yet.

    :param env: SB3's ``DummyVecEnv`` or ``SubprocVecEnv``, or one derived from them, with any wrappers
    :return: Which environments are recorded. In another process, these are those that have a wrapper, such as SB3's
        ``Monitor``
    """
    base = _base(env)
    if isinstance(base, DummyVecEnv):
        return [_install(each) for each in base.envs]
    if isinstance(base, SubprocVecEnv):
        return base.env_is_wrapped(cast(Any, _Installation()))
    return [False] * base.num_envs


def episodes(env: VecEnv) -> list[dict[str, Any] | None]:
    """:return: The running episode of each environment as plain data; None where it is not recorded"""
    base = _base(env)
    recorded = record_episodes(base)
    return [base.env_method(_GET, indices=[i])[0] if recorded[i] else None for i in range(base.num_envs)]


def put_back(env: VecEnv, states: list[dict[str, Any] | None]) -> list[str | None]:
    """
    Put running episodes back.

    :param env: An environment like the one that they were recorded in
    :param states: What :func:`episodes` returned
    :return: For each environment None, or why its episode could not be put back
    """
    base = _base(env)
    recorded = record_episodes(base)
    return [
        "it was not recorded (outside of this process, an environment needs a wrapper such as SB3's Monitor)"
        if state is None or not recorded[i]
        else base.env_method(_SET, state, indices=[i])[0]
        for i, state in enumerate(states)
    ]


def generators(env: VecEnv) -> list[Any]:
    """:return: The states of each environment's generators as plain data; None where they cannot be read"""
    base = _base(env)
    recorded = record_episodes(base)
    return [base.env_method(_GET_GENERATORS, indices=[i])[0] if recorded[i] else None for i in range(base.num_envs)]


def set_generators(env: VecEnv, states: list[Any]) -> None:
    """
    :param env: An environment like the one that had the states
    :param states: What :func:`generators` returned
    """
    base = _base(env)
    recorded = record_episodes(base)
    for i, state in enumerate(states):
        if state is not None and i < base.num_envs and recorded[i]:
            base.env_method(_SET_GENERATORS, state, indices=[i])
