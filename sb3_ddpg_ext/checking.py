"""
What can be said about an environment before anything is trained in it: ``sb3-ddpg check``, and the part of it that
takes no longer than a reset and a step, with which training begins.
"""

import contextlib
import io
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env as gymnasium_check
from gymnasium.wrappers import OrderEnforcing, TimeLimit
from stable_baselines3.common.env_checker import check_env as sb3_check
from stable_baselines3.common.env_util import unwrap_wrapper
from stable_baselines3.common.preprocessing import is_image_space

from sb3_ddpg_ext.arguments import CheckArgs
from sb3_ddpg_ext.building import make_single_env, without_time_limit, wrong_action_space
from sb3_ddpg_ext.env_checks.messages import code_location
from sb3_ddpg_ext.env_checks.wrappers import OutermostEnv
from sb3_ddpg_ext.errors import (
    FaultyEnvironmentError,
    NonFiniteError,
    SettingsError,
    describe,
    doubtful_action_space,
    one_line,
)
from sb3_ddpg_ext.guards import check_observations, check_transition
from sb3_ddpg_ext.settings import Settings, load_settings

HOW_TO_LIMIT = (
    'gymnasium.register(..., max_episode_steps=200), or -p "env_wrapper={gymnasium.wrappers.TimeLimit: '
    '{max_episode_steps: 200}}"'
)

_LARGE, _SMALL = 100.0, 1e-3  # of what networks learn well from, numbers around 1
_UNEQUAL = 1e3  # the largest component of an observation, relative to the smallest
_STEPS_TO_REPEAT = 50


@dataclass(frozen=True)
class Finding:
    """
    What a check has found.

    :param level: An error is what training cannot do with; a warning, what may let it fail
    :param text: One line: what was seen, and how to mend it
    """

    level: Literal["ok", "warning", "error"]
    text: str

    def __str__(self) -> str:
        return f"{self.level}: {self.text}"


def first_look(env: gym.Env[Any, Any], seed: int) -> list[str]:
    """
    Reset an environment and take one step.

    :param env: The environment, in a :class:`~sb3_ddpg_ext.env_checks.CheckedEnv`
    :param seed: Seed of the environment and of the action
    :return: What may let training fail
    :raises FaultyEnvironmentError: If the environment raises an error or returns something that it must not
    :raises NonFiniteError: If an observation or the reward is not finite
    """
    rollout = _Rollout(env, seed)
    next(rollout)
    next(rollout)
    return [] if rollout.outside is None else [rollout.outside]


def check(args: CheckArgs) -> list[Finding]:
    """
    Check an environment.

    :param args: Which one, and how it is made
    :return: What was found
    :raises SettingsError: If the environment cannot be made, or an argument is wrong
    """
    if args.steps < 1:
        raise SettingsError(f"--steps must be 1 or more, got {args.steps}")
    settings = load_settings(args.algo, args.env, args.hyperparams, args.params)
    env = make_single_env(args.env, settings)
    if missing := [
        n for n in ("action_space", "observation_space") if not isinstance(getattr(env, n, None), spaces.Space)
    ]:
        return [Finding("error", f"it has no {name}; set self.{name} in __init__") for name in missing]
    with contextlib.closing(OutermostEnv(env, f"environment {args.env!r}", 0)) as outermost:
        found = [*_actions(env.action_space), *_rollouts(outermost, args, settings)]
    # As each takes an environment that nobody has touched
    found += _of_checker("Stable-Baselines3", lambda env: sb3_check(_PlainNumbers(env)), args, settings)
    found += _of_checker(
        "Gymnasium", lambda env: gymnasium_check(_inside_standard(env), skip_render_check=True), args, settings
    )
    return found


def _actions(space: spaces.Space[Any]) -> Iterator[Finding]:
    if (wrong := wrong_action_space(space)) is not None:
        yield Finding("error", f"it has {wrong}")
        return
    assert isinstance(space, spaces.Box)
    doubt = doubtful_action_space(space)
    yield (
        Finding("ok", f"its actions are a {space}, with finite bounds") if doubt is None else Finding("warning", doubt)
    )


class _Rollout:
    """
    Random actions in an environment: each ``next`` is a reset or a step. It keeps what was seen.

    :param env: The environment, in a :class:`~sb3_ddpg_ext.env_checks.CheckedEnv`
    :param seed: Seed of the environment and of the actions
    """

    def __init__(self, env: gym.Env[Any, Any], seed: int) -> None:
        self._env, self._seed = env, seed
        self._space, self._actions = env.observation_space, env.action_space
        self._actions.seed(seed)
        self._is_over, self._length = True, 0
        self.n_steps = 0
        self.lengths: list[int] = []  # of finished episodes
        self.n_truncated = 0
        self.outside: str | None = None
        self.rewards: list[float] = []
        self.last: tuple[Any, float] = (None, 0.0)
        self._lows: dict[str, np.ndarray] = {}
        self._highs: dict[str, np.ndarray] = {}

    def __next__(self) -> bool:
        """
        :return: Whether that was a step
        :raises FaultyEnvironmentError: If the environment raises an error or returns something that it must not
        :raises NonFiniteError: If an observation or the reward is not finite
        """
        if self._is_over:
            observation, _ = self._env.reset(seed=self._seed) if self.n_steps == 0 else self._env.reset()
            check_observations(_batch(observation), np.array([True]), self.n_steps, None)
            self._is_over, self._length = False, 0
            self._see(observation, "reset")
            self.last = observation, 0.0
            return False
        action = self._actions.sample()
        observation, reward, terminated, truncated, info = self._env.step(action)
        self.n_steps += 1
        self._length += 1
        rewards = np.array([reward], dtype=np.float64)
        finite = np.zeros(1)  # the action is not the environment's
        check_transition(finite, _batch(observation), rewards, np.array([False]), [info], self.n_steps, None)
        self._see(observation, "step")
        self.last = observation, float(reward)
        self.rewards.append(float(reward))
        if terminated or truncated:
            self._is_over = True
            self.lengths.append(self._length)
            self.n_truncated += bool(truncated)
        return True

    def _see(self, observation: Any, method: str) -> None:
        self.outside = self.outside or _outside(self._space, observation, f"{method}() at step {self.n_steps}")
        for name, array in _numbers(self._space, observation):
            self._lows[name] = np.minimum(self._lows.get(name, array), array)
            self._highs[name] = np.maximum(self._highs.get(name, array), array)

    def scales(self) -> dict[str, tuple[float, float]]:
        """:return: The smallest and the largest value of each component of the observations, by its name"""
        return {
            f"{name}[{','.join(map(str, index))}]": (float(low), float(self._highs[name][index]))
            for name, lows in self._lows.items()
            for index, low in np.ndenumerate(lows)
        }


def _batch(observation: Any) -> Any:
    if isinstance(observation, Mapping):
        return {key: np.asarray(value)[None] for key, value in observation.items()}
    return np.asarray(observation)[None]


def _numbers(space: spaces.Space[Any], observation: Any) -> Iterator[tuple[str, np.ndarray]]:
    """The vectors of an observation, whose scale matters: networks scale images and choices themselves."""
    if isinstance(space, spaces.Dict):
        for key, part in space.items():
            yield from ((f"{key}{name}", array) for name, array in _numbers(part, observation[key]))
    elif isinstance(space, spaces.Box) and not is_image_space(space):
        yield "", np.asarray(observation, dtype=np.float64)


def _outside(space: spaces.Space[Any], observation: Any, when: str) -> str | None:
    """What is wrong with an observation of the right shape that its space does not contain."""
    if isinstance(space, spaces.Dict):
        parts = ((key, _outside(part, observation[key], when)) for key, part in space.items())
        return next((f"{wrong} (key {key!r})" for key, wrong in parts if wrong is not None), None)
    if not isinstance(space, spaces.Box):
        return None
    array = np.asarray(observation)
    if not np.can_cast(array.dtype, space.dtype):
        return (
            f"the observation from {when} is {array.dtype}, its observation_space says {space.dtype}: return "
            f"observation.astype(np.{space.dtype}), or declare the space so"
        )
    wrong = np.argwhere((array < space.low) | (array > space.high))
    if not len(wrong):
        return None
    at = tuple(int(i) for i in wrong[0])
    component = f" in component {at[0] if len(at) == 1 else at}" if at else ""
    return (
        f"the observation from {when} is {array[at]:.4g}{component}, outside of its observation_space, from "
        f"{space.low[at]:.4g} to {space.high[at]:.4g}: clip it, or widen the space"
    )


def _rollouts(env: gym.Env[Any, Any], args: CheckArgs, settings: Settings) -> Iterator[Finding]:
    if not isinstance(env.observation_space, spaces.Dict) and env.observation_space.shape is None:
        yield Finding(
            "error", f"Stable-Baselines3 has no networks for {env.observation_space}; use a Box or a Dict of them"
        )
        return
    rollout = _Rollout(env, args.seed)
    try:
        while rollout.n_steps < args.steps:
            next(rollout)
        differs = _first_difference(rollout, args.seed)
    except FaultyEnvironmentError as error:
        hint = "; write def reset(self, *, seed=None, options=None)" if _is_without_seed(error) else ""
        yield Finding("error", f"{error.when}: {error.what}{hint}")
        return
    except NonFiniteError as error:
        yield Finding("error", one_line(error))
        return
    if rollout.outside is not None:
        yield Finding("warning", rollout.outside)
    yield from _observations(rollout, settings)
    yield from _rewards(rollout, settings)
    yield _ends(env, rollout)
    if differs is None:
        yield Finding("ok", "the same seed gives the same episode")
    else:
        yield Finding(
            "warning",
            f"the same seed does not give the same episode, from step {differs} on, so that runs cannot be repeated: "
            "call super().reset(seed=seed), and draw random numbers from self.np_random",
        )


def _is_without_seed(error: FaultyEnvironmentError) -> bool:
    return "unexpected keyword argument 'seed'" in error.what


def _first_difference(done: _Rollout, seed: int) -> int | None:
    """The step at which two episodes with the same seed and actions differ first."""
    first, second = (_episode(_Rollout(done._env, seed)) for _ in range(2))
    length = min(len(first), len(second))
    different = (i for i in range(length) if not _same(first[i], second[i]))
    return next(different, None if len(first) == len(second) else length)


def _episode(rollout: _Rollout) -> list[tuple[Any, float]]:
    seen: list[tuple[Any, float]] = []
    while rollout.n_steps < _STEPS_TO_REPEAT and not rollout.lengths:
        next(rollout)
        observation, reward = rollout.last
        arrays = observation.items() if isinstance(observation, Mapping) else [("", observation)]
        seen.append(({key: np.array(array) for key, array in arrays}, reward))  # copies
    return seen


def _same(a: tuple[Any, float], b: tuple[Any, float]) -> bool:
    return a[1] == b[1] and all(np.array_equal(a[0][key], b[0][key]) for key in a[0])


def _observations(rollout: _Rollout, settings: Settings) -> Iterator[Finding]:
    scales = rollout.scales()
    if not scales:
        return
    low, high = min(low for low, _ in scales.values()), max(high for _, high in scales.values())
    seen = f"its observations are from {low:.4g} to {high:.4g} in {rollout.n_steps} random steps"
    sizes = {name: max(abs(low), abs(high)) for name, (low, high) in scales.items()}
    largest = max(sizes, key=sizes.__getitem__)
    smallest = min((name for name in sizes if sizes[name] > 0), key=sizes.__getitem__, default=largest)
    mend = "scale them in the environment, or use VecNormalize (-p normalize=true)"
    if settings.normalize is not None and settings.normalize.get("norm_obs", True):
        yield Finding("ok", f"{seen}, before they are normalised")
    elif sizes[largest] > _LARGE:
        yield Finding("warning", f"{seen}, and networks learn badly from numbers far from 1: {mend}")
    elif sizes[largest] > _UNEQUAL * sizes[smallest]:
        yield Finding(
            "warning",
            f"{seen}, but component {smallest} is at most {sizes[smallest]:.2g}, {largest} up to {sizes[largest]:.2g}, "
            f"so that the small one is hardly seen: {mend}",
        )
    else:
        yield Finding("ok", seen)


def _rewards(rollout: _Rollout, settings: Settings) -> Iterator[Finding]:
    low, high = min(rollout.rewards), max(rollout.rewards)
    seen = f"its rewards are from {low:.4g} to {high:.4g} in {rollout.n_steps} random steps"
    size = max(abs(low), abs(high))
    mend = "scale them in the environment, or use VecNormalize (-p normalize=true)"
    if size == 0:
        yield Finding("warning", f"{seen}: exploration may not find any; a reward on the way to the goal helps")
    elif settings.normalize is not None and settings.normalize.get("norm_reward", True):
        yield Finding("ok", f"{seen}, before they are normalised")
    elif size > _LARGE:
        yield Finding("warning", f"{seen}, so that the critic's first errors are huge: {mend}")
    elif size < _SMALL:
        yield Finding("warning", f"{seen}, so that the critic hardly learns from them: {mend}")
    else:
        yield Finding("ok", seen)


def _ends(env: gym.Env[Any, Any], rollout: _Rollout) -> Finding:
    lengths = rollout.lengths
    ended = f"no episode ended in {rollout.n_steps} random steps"
    if lengths:
        after = f"{min(lengths)} to {max(lengths)}" if min(lengths) < max(lengths) else str(lengths[0])
        ended = f"{len(lengths)} of {rollout.n_steps} random steps ended an episode, after {after} steps"
    if not without_time_limit(env):
        limit = getattr(unwrap_wrapper(env, TimeLimit), "_max_episode_steps", "some")
        return Finding("ok", f"its time limit is {limit} steps; {ended}")
    if rollout.n_truncated:
        return Finding("ok", f"it truncates episodes itself; {ended}")
    why = "a good policy may never end one" if lengths else "evaluations would not end by themselves"
    return Finding("warning", f"it has no time limit; {ended}, and {why}. Set one with {HOW_TO_LIMIT}")


def _inside_standard(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    """Gymnasium wants an environment without its own wrappers, but with those that belong to it."""
    while isinstance(env, TimeLimit | OrderEnforcing):
        env = env.env
    return env


class _PlainNumbers(gym.Wrapper[Any, Any, Any, Any]):
    """NumPy's numbers as Python's: Stable-Baselines3's checker stops at them, though training takes them."""

    def step(self, action: Any) -> Any:
        observation, *values, info = self.env.step(action)
        for name, value in zip(("reward", "terminated", "truncated"), values, strict=False):
            if isinstance(value, np.generic):
                kind = type(value.item()).__name__
                warnings.warn(f"its {name} is a numpy.{type(value).__name__}; return {kind}({name})", stacklevel=2)
        return (observation, *(value.item() if isinstance(value, np.generic) else value for value in values), info)


# What its checker says of wrappers, which are meant, and of pictures, which are not drawn
_OF_NO_CONCERN = re.compile("is different from the unwrapped version|test alternative render modes")
_COLOUR = re.compile(r"\x1b\[\d*(;\d+)*m")


def _of_checker(
    name: str, checker: Callable[[gym.Env[Any, Any]], None], args: CheckArgs, settings: Settings
) -> list[Finding]:
    """What one of the two checkers says: warnings, and the error at which it stops."""
    found = []
    with warnings.catch_warnings(record=True) as caught, contextlib.redirect_stdout(io.StringIO()) as printed:
        warnings.simplefilter("always")
        try:
            with contextlib.closing(make_single_env(args.env, settings)) as env:
                checker(env)
        except (Exception, SystemExit) as error:  # an AssertionError, or whatever the environment raises
            what = one_line(error) if isinstance(error, AssertionError) else describe(error)
            where = "" if isinstance(error, AssertionError) else code_location(error)
            found.append(Finding("error", f"{what}{where} ({name}'s checker)"))
    texts = [one_line(warning.message) for warning in caught if isinstance(warning.message, Warning)]
    texts += printed.getvalue().splitlines()
    for text in dict.fromkeys(_COLOUR.sub("", text).removeprefix("WARN: ") for text in texts):
        if not _OF_NO_CONCERN.search(text):
            found.append(Finding("warning", f"{text} ({name}'s checker)"))
    return found or [Finding("ok", f"{name}'s checker finds nothing")]
