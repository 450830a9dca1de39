"""The state of callbacks: what SB3's own ones count, and what others offer with ``get_state`` and ``set_state``."""

from collections.abc import Iterator
from typing import Any

from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    EvalCallback,
    EventCallback,
    EveryNTimesteps,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnNoModelImprovement,
)

from sb3_ddpg_ext.checkpoint.object_state import set_space_states, space_states
from sb3_ddpg_ext.checkpoint.recorder import generators, set_generators

_COUNTERS: dict[Any, tuple[str, ...]] = {
    BaseCallback: ("n_calls",),
    EveryNTimesteps: ("last_time_trigger",),
    StopTrainingOnMaxEpisodes: ("n_episodes",),
    StopTrainingOnNoModelImprovement: ("last_best_mean_reward", "no_improvement_evals"),
    EvalCallback: (
        *("best_mean_reward", "last_mean_reward", "evaluations_results", "evaluations_timesteps"),
        *("evaluations_length", "evaluations_successes"),
    ),
}


def _all(callback: BaseCallback) -> Iterator[BaseCallback]:
    yield callback
    children: list[BaseCallback | None] = [*callback.callbacks] if isinstance(callback, CallbackList) else []
    if isinstance(callback, EventCallback):
        children.append(callback.callback)
    if isinstance(callback, EvalCallback):
        children.append(callback.callback_on_new_best)
    for child in children:
        if child is not None:
            yield from _all(child)


def _named(callback: BaseCallback) -> dict[str, BaseCallback]:
    """:return: All callbacks below one, by their class and how many of that class came before"""
    named: dict[str, BaseCallback] = {}
    for each in _all(callback):
        name, count = type(each).__qualname__, 0
        while f"{name} {count}" in named:
            count += 1
        named[f"{name} {count}"] = each
    return named


def callback_states(callback: BaseCallback | None) -> dict[str, Any]:
    """
    :param callback: The callback that ``learn`` was given, in SB3's form
    :return: The states of it and of all callbacks inside of it, as plain data
    """
    return {} if callback is None else {name: _state(each) for name, each in _named(callback).items()}


def _state(callback: BaseCallback) -> dict[str, Any]:
    state: dict[str, Any] = {
        "counters": {
            name: vars(callback)[name]
            for kind, names in _COUNTERS.items()
            if isinstance(callback, kind)
            for name in names
        }
    }
    if isinstance(callback, EvalCallback):  # the next evaluation resets its environments, with their generators
        state["generators"] = generators(callback.eval_env)
        state["spaces"] = space_states([callback.eval_env.action_space])
        state["seeds"] = list(callback.eval_env.unwrapped._seeds)
    if hasattr(callback, "get_state"):
        state["own"] = callback.get_state()
    return state


def restore_callbacks(callback: BaseCallback, states: dict[str, Any]) -> None:
    """
    :param callback: The callback that ``learn`` is given now. What it did not contain before begins anew
    :param states: What :func:`callback_states` returned
    """
    for name, each in _named(callback).items():
        state = states.get(name)
        if state is None:
            continue
        for counter, value in state["counters"].items():
            vars(each)[counter] = value
        if isinstance(each, EvalCallback):
            set_generators(each.eval_env, state["generators"])
            set_space_states([each.eval_env.action_space], state["spaces"])
            each.eval_env.unwrapped._seeds[:] = state["seeds"]
        if "own" in state and hasattr(each, "set_state"):
            each.set_state(state["own"])
