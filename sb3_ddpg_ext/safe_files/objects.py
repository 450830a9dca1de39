"""
Objects as data and back: spaces, schedules, noise, random generators, running statistics.

Each is built anew by its own constructor, or has the attributes that its class gives it, and no others. What a subclass
or a user has added to an object cannot be written as data.
"""

import numbers
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common import noise as sb3_noise
from stable_baselines3.common import utils
from stable_baselines3.common.running_mean_std import RunningMeanStd

from sb3_ddpg_ext import noise
from sb3_ddpg_ext.safe_files.plain import NotPlainError, PlainDecoder, PlainEncoder, integer

_MAX_ENVS = 2**20
_MAX_SPACES = 1_000  # Gymnasium takes a millisecond for each, which is of a few bytes in the file
_BIT_GENERATORS: Mapping[str, type[np.random.BitGenerator]] = {
    cls.__name__: cls
    for cls in (np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937, np.random.Philox, np.random.SFC64)
}
Check = Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "fiu"


def _is_number_or_array(value: Any) -> bool:
    return _is_number(value) or _is_array(value)


def _is_dtype(value: Any) -> bool:
    return isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, np.generic))


def _is_action_noise(value: Any) -> bool:
    return isinstance(value, sb3_noise.ActionNoise)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MAX_ENVS


_NORMAL = {"_mu": _is_number_or_array, "_sigma": _is_number_or_array, "_dtype": _is_dtype}
# The attributes of each class, and what each must be
_ATTRIBUTES: Mapping[type, Mapping[str, Check]] = {
    utils.ConstantSchedule: {"val": _is_number},
    utils.LinearSchedule: {"start": _is_number, "end": _is_number, "end_fraction": _is_number},
    utils.FloatSchedule: {"value_schedule": callable},
    noise.ExponentialSchedule: {"end": lambda end: _is_number(end) and end > 0},
    sb3_noise.NormalActionNoise: _NORMAL,
    sb3_noise.OrnsteinUhlenbeckActionNoise: {
        **_NORMAL,
        "_theta": _is_number,
        "_dt": lambda dt: _is_number(dt) and dt >= 0,
        "initial_noise": lambda value: value is None or _is_array(value),
        "noise_prev": _is_array,
    },
    sb3_noise.VectorizedActionNoise: {
        "n_envs": _is_count,
        "_base_noise": _is_action_noise,
        "_noises": lambda value: isinstance(value, list) and all(map(_is_action_noise, value)),
    },
    noise.ScheduledNoise: {
        "noise": _is_action_noise,
        "schedule": callable,
        "n_envs": _is_count,
        "scale": lambda scale: isinstance(scale, np.float32) and bool(0 <= scale < np.inf),
    },
    RunningMeanStd: {
        "mean": _is_number_or_array,  # a number for returns, once there have been any
        "var": _is_number_or_array,
        "count": lambda count: _is_number(count) and 0 < count < np.inf,
    },
}
_CLASSES = {cls.__name__: cls for cls in _ATTRIBUTES}
_PROCESSES: Mapping[str, type[noise.NoiseProcess]] = {
    cls.__name__: cls
    for cls in (
        noise.GaussianNoise,
        noise.UniformNoise,
        noise.OrnsteinUhlenbeckNoise,
        noise.ColoredNoise,
        noise.PinkNoise,
        noise.ParameterNoise,
    )
}


class Encoder(PlainEncoder):
    """:class:`PlainEncoder`, and the objects of this module."""

    def _encode_object(self, value: Any, where: str) -> dict[str, Any]:
        cls = type(value)
        if cls in _ATTRIBUTES:
            if set(vars(value)) != set(_ATTRIBUTES[cls]):
                raise NotPlainError(where, f"a {cls.__name__} with other attributes than its class gives it")
            return {"$": cls.__name__, **{name: self(item, f"{where}.{name}") for name, item in vars(value).items()}}
        if cls in _PROCESSES.values():
            return {"$": "process", "class": cls.__name__, "state": self(vars(value), where)}
        match value:
            case noise.ProcessActionNoise() if cls is noise.ProcessActionNoise:
                return {"$": cls.__name__, "process": self(value.process, f"{where}.process")}
            case np.random.Generator():
                state = value.bit_generator.state
                if state["bit_generator"] in _BIT_GENERATORS:
                    return {"$": "generator", "state": self(state, where)}
            case np.random.SeedSequence():
                return {"$": "seed_sequence", "state": self(value.state, where)}
            case spaces.Space() if cls in _SPACES:
                arguments = self(_SPACES[cls](value), where)
                return {"$": "space", "class": cls.__name__, **arguments, "generator": self(value._np_random, where)}
        return super()._encode_object(value, where)


class Decoder(PlainDecoder):
    """:class:`PlainDecoder`, and the objects of this module."""

    n_spaces = 0

    def _decode_object(self, entry: Mapping[str, Any]) -> Any:
        kind = entry["$"]
        if not isinstance(kind, str):
            return super()._decode_object(entry)
        if kind in _CLASSES:
            return self._with_attributes(_CLASSES[kind], entry)
        if kind in _DECODERS:
            return _DECODERS[kind](self, entry)
        return super()._decode_object(entry)

    def _with_attributes(self, cls: type, entry: Mapping[str, Any]) -> Any:
        checks = _ATTRIBUTES[cls]
        if set(entry) - {"$"} != set(checks):
            raise ValueError(f"a {cls.__name__} has the attributes {', '.join(checks)}")
        attributes = {name: self(entry[name]) for name in checks}
        for name, check in checks.items():
            if not check(attributes[name]):
                raise ValueError(f"{cls.__name__}.{name} cannot be {str(attributes[name])[:100]}")
        thing: Any = object.__new__(cls)
        vars(thing).update(attributes)
        if isinstance(thing, RunningMeanStd):
            _check_statistics(thing)
        if cls is sb3_noise.VectorizedActionNoise and len(thing.noises) != thing.n_envs:
            raise ValueError(f"{len(thing.noises)} noises for {thing.n_envs} environments")
        return thing


def _check_statistics(statistics: RunningMeanStd) -> None:
    mean, var = statistics.mean, statistics.var
    if np.shape(mean) != np.shape(var) or not np.all(np.isfinite(mean) & np.isfinite(var) & (np.asarray(var) >= 0)):
        raise ValueError("means and variances must be finite, of one shape, and variances not negative")


def _decode_process(decode: PlainDecoder, entry: Mapping[str, Any]) -> noise.NoiseProcess:
    cls, state = _PROCESSES[entry["class"]], decode(entry["state"])
    arguments = {"std": state["_std"]}
    if issubclass(cls, noise.OrnsteinUhlenbeckNoise):
        arguments["correlation_time"] = state["_correlation_time"]
    if issubclass(cls, noise.ColoredNoise):
        arguments["horizon"] = state.get("_length", state["horizon"])
        if cls is noise.ColoredNoise:
            arguments["beta"] = state["beta"]
        if not (_is_number(state["beta"]) and 0 <= state["beta"] < np.inf):
            raise ValueError(f"beta cannot be {str(state['beta'])[:100]}")
        if state["horizon"] is not None:
            integer(state["horizon"], 2, 2**31)
    if issubclass(cls, noise.ParameterNoise):
        arguments |= {name: state[name] for name in ("adaptation_coefficient", "adaptation_interval")}
    process = cls(**arguments)
    if state["_bound"] is not None:
        n_envs, action_shape = state["_bound"]
        # Binding allocates what the file must hold, too: arrays for all environments, or a series for each of them
        n_numbers = sum(value.size for value in state.values() if isinstance(value, np.ndarray))
        size = integer(n_envs, 1, _MAX_ENVS)
        for length in (*action_shape, arguments.get("horizon") or 1):
            length = integer(length, 1, 2**31)
            size *= 1 if cls is noise.ParameterNoise else length  # which has one number for each environment
        if size > n_numbers:
            raise ValueError(f"noise for {n_envs} environments has {n_numbers} numbers")
        process.bind(n_envs, action_shape, None)
    own = vars(process)
    if set(own) != set(state):
        raise ValueError(f"a {cls.__name__} has the attributes {', '.join(own)}")
    for name, value in state.items():
        _check_like(name, value, own[name])
    own.update(state)
    return process


def _check_like(name: str, value: Any, example: Any) -> None:
    """Raise an error unless a part of a process's state is of the kind that a new process has."""
    if name in ("horizon", "_seed"):
        fits = value is None or (type(value) is int and value >= 0)
    elif isinstance(example, np.ndarray):
        fits = isinstance(value, np.ndarray) and value.dtype == example.dtype and value.shape == example.shape
        fits = fits and bool(np.isfinite(value).all())
    elif isinstance(example, list):
        fits = isinstance(value, list) and [type(item) for item in value] == [type(item) for item in example]
    elif isinstance(example, (int, float)):
        fits = _is_number(value) and 0 <= value < 2**62
    else:
        fits = type(value) is type(example)
    if not fits:
        raise ValueError(f"{name} of the noise cannot be {str(value)[:100]}")


def _decode_process_noise(decode: PlainDecoder, entry: Mapping[str, Any]) -> noise.ProcessActionNoise:
    process = decode(entry["process"])
    if not isinstance(process, noise.NoiseProcess):
        raise ValueError("a ProcessActionNoise has a process")
    adapter = noise.ProcessActionNoise.__new__(noise.ProcessActionNoise)
    adapter.process = process
    if process._bound is not None:
        adapter.n_envs = process._bound[0]
    return adapter


def _decode_generator(decode: PlainDecoder, entry: Mapping[str, Any]) -> np.random.Generator:
    state = decode(entry["state"])
    bit_generator = _BIT_GENERATORS[state["bit_generator"]](0)
    bit_generator.state = state  # NumPy checks it
    return np.random.Generator(bit_generator)


def _decode_seed_sequence(decode: PlainDecoder, entry: Mapping[str, Any]) -> np.random.SeedSequence:
    state = decode(entry["state"])
    integer(state["pool_size"], 4, 64)
    if len(state["spawn_key"]) > 64:
        raise ValueError("the spawn key of a seed is too long")
    return np.random.SeedSequence(**state)


# The arguments of each space's constructor
_SPACES: Mapping[type, Callable[[Any], dict[str, Any]]] = {
    spaces.Box: lambda space: {"low": space.low, "high": space.high, "dtype": space.dtype},
    spaces.Discrete: lambda space: {"n": int(space.n), "start": int(space.start)},
    spaces.MultiDiscrete: lambda space: {
        "nvec": space.nvec,
        "dtype": space.dtype,
        **({"start": space.start} if np.any(getattr(space, "start", 0)) else {}),
    },
    spaces.MultiBinary: lambda space: {"n": list(space.shape) if len(space.shape) > 1 else int(space.n)},
    spaces.Dict: lambda space: {"spaces": dict(space.spaces)},
    spaces.Tuple: lambda space: {"spaces": list(space.spaces)},
}
_SPACE_CLASSES = {cls.__name__: cls for cls in _SPACES}


def _decode_space(decode: Decoder, entry: Mapping[str, Any]) -> spaces.Space[Any]:
    decode.n_spaces += 1
    if decode.n_spaces > _MAX_SPACES:
        raise ValueError(f"it has more than {_MAX_SPACES} spaces")
    cls = _SPACE_CLASSES[entry["class"]]
    arguments = {name: decode(value) for name, value in entry.items() if name not in ("$", "class", "generator")}
    subspaces = arguments.get("spaces", [])
    if not all(isinstance(s, spaces.Space) for s in (subspaces.values() if isinstance(subspaces, dict) else subspaces)):
        raise ValueError(f"a {cls.__name__} space holds spaces")
    if cls is spaces.Discrete:
        arguments = {"n": integer(arguments["n"], 1, 2**40), "start": integer(arguments["start"], -(2**40), 2**40)}
    if cls is spaces.MultiBinary:
        n = arguments["n"]
        arguments = {"n": [integer(size, 1, 2**20) for size in n] if isinstance(n, list) else integer(n, 1, 2**26)}
    if cls is spaces.Box and (np.isnan(arguments["low"]).any() or np.isnan(arguments["high"]).any()):
        raise ValueError("a bound of a Box is NaN")
    space: spaces.Space[Any] = cls(**arguments)
    generator = decode(entry["generator"])
    if generator is not None and not isinstance(generator, np.random.Generator):
        raise ValueError("the generator of a space is none")
    vars(space)["_np_random"] = generator
    return space


_DECODERS: Mapping[str, Callable[[Decoder, Mapping[str, Any]], Any]] = {
    "process": _decode_process,
    "ProcessActionNoise": _decode_process_noise,
    "generator": _decode_generator,
    "seed_sequence": _decode_seed_sequence,
    "space": _decode_space,
}
