"""The changing part of objects: their numbers and arrays, and the states of their random generators."""

from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env.stacked_observations import StackedObservations

from sb3_ddpg_ext.checkpoint.codec import is_data
from sb3_ddpg_ext.noise import NoiseProcess

_PARTS = (ActionNoise, NoiseProcess, RunningMeanStd, StackedObservations)


def state_of(value: Any, skip: Collection[str] = ()) -> Any:
    """
    Take the state of an object, or data themselves.

    >>> state_of(RunningMeanStd(epsilon=0.5))["object"]["count"]
    {'data': 0.5}

    :param value: Anything
    :param skip: Attributes of it that do not count
    :return: Its state as plain data; None if it has none, such as a function
    """
    match value:
        case np.random.Generator():
            return {"generator": value.bit_generator.state}
        case np.random.RandomState():
            return {"random_state": value.get_state(legacy=False)}
        case np.random.SeedSequence():
            return {"seed_sequence": value.state}
    if isinstance(value, _PARTS) or skip:
        states = {name: state_of(item) for name, item in vars(value).items() if name not in skip}
        return {"object": {name: state for name, state in states.items() if state is not None}}
    if is_data(value):
        return {"data": value}
    if isinstance(value, (list, tuple)):
        return {"list": [state_of(item) for item in value]}
    if isinstance(value, dict):
        return {"dict": {key: state_of(item) for key, item in value.items()}}
    return None


def with_state(value: Any, state: Any) -> Any:
    """
    Put an object back into a state.

    :param value: An object like the one that had the state. It is changed in place where that is possible
    :param state: What :func:`state_of` returned
    :return: What is to take its place: the object itself, or the data that it was
    """
    if state is None:
        return value
    ((kind, content),) = state.items()
    match kind:
        case "data":
            return content
        case "generator":
            name = content["bit_generator"]
            if not isinstance(value, np.random.Generator) or value.bit_generator.state["bit_generator"] != name:
                value = np.random.Generator(_bit_generator(name))
            value.bit_generator.state = content
        case "random_state":
            value.set_state(content)
        case "seed_sequence":
            return np.random.SeedSequence(**content)
        case "object":
            for name, item in content.items():
                vars(value)[name] = with_state(vars(value).get(name), item)
        case "list":
            items = value if isinstance(value, (list, tuple)) else [None] * len(content)
            items = [*items, *[None] * (len(content) - len(items))]
            return [with_state(item, item_state) for item, item_state in zip(items, content, strict=False)]
        case "dict":
            return {key: with_state((value or {}).get(key), item_state) for key, item_state in content.items()}
    return value


def _bit_generator(name: str) -> Any:
    known: dict[str, Any] = {
        each.__name__: each
        for each in (np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937, np.random.Philox, np.random.SFC64)
    }
    return known[name]()


def space_states(all_spaces: Iterable[spaces.Space[Any]]) -> list[Any]:
    """
    :param all_spaces: Spaces
    :return: The states of the generators that they and their parts sample from; None where there is none yet
    """
    return [None if space._np_random is None else state_of(space._np_random) for space in _parts(all_spaces)]


def set_space_states(all_spaces: Iterable[spaces.Space[Any]], states: Iterable[Any]) -> None:
    """
    :param all_spaces: Spaces like those that had the states
    :param states: What :func:`space_states` returned
    """
    for space, state in zip(_parts(all_spaces), states, strict=False):
        if state is not None:
            space._np_random = with_state(space._np_random, state)


def generator_states(obj: Any) -> dict[str, Any]:
    """
    :param obj: An object, such as an environment
    :return: The states of the generators, and of the spaces' ones, that are attributes of it
    """
    states: dict[str, Any] = {}
    for name, value in vars(obj).items():
        if isinstance(value, spaces.Space):
            states[name] = {"space": space_states([value])}
        elif isinstance(value, (np.random.Generator, np.random.RandomState)):
            states[name] = state_of(value)
    return states


def set_generator_states(obj: Any, states: dict[str, Any]) -> None:
    """
    :param obj: An object like the one that had the states
    :param states: What :func:`generator_states` returned
    """
    for name, state in states.items():
        value = vars(obj).get(name)
        if "space" in state:
            set_space_states([value], state["space"])
        else:
            vars(obj)[name] = with_state(value, state)


def _parts(all_spaces: Iterable[Any]) -> list[spaces.Space[Any]]:
    found: list[spaces.Space[Any]] = []
    for space in all_spaces:
        if not isinstance(space, spaces.Space):
            continue
        found.append(space)
        children = getattr(space, "spaces", ())
        found += _parts(children.values() if isinstance(children, dict) else children)
    return found
