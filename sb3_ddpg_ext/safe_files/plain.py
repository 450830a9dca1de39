"""
Values as JSON and back: numbers, strings, containers, arrays, and classes by name.

What JSON does not have is an object with the key ``$``, which has its kind. Larger arrays are kept as bytes beside it.
"""

import base64
import math
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit
from stable_baselines3.her.goal_selection_strategy import GoalSelectionStrategy

from sb3_ddpg_ext.safe_files import classes

_MAX_DEPTH = 40
_INLINE_BYTES = 256
_ENUMS: Mapping[str, type[Enum]] = {enum.__name__: enum for enum in (TrainFrequencyUnit, GoalSelectionStrategy)}


class NotPlainError(Exception):
    """
    A value that cannot be written as data.

    :param where: Where it is in the field that was to be written
    :param what: What it is
    """

    def __init__(self, where: str, what: str) -> None:
        super().__init__(f"{where} is {what}")
        self.where, self.what = where, what


class PlainEncoder:
    """
    Turns values into what JSON can hold. Call it with a value and what that is called.

    :param blob: Takes the bytes of larger arrays; None to keep them in the JSON
    """

    def __init__(self, blob: bytearray | None = None) -> None:
        self.blob = blob
        self._depth = 0

    def __call__(self, value: Any, where: str) -> Any:
        """
        :param value: Any value
        :param where: What it is called in errors
        :return: What ``json.dumps`` takes
        :raises NotPlainError: If it cannot be written as data
        """
        if value is None or type(value) in (bool, int, str):
            return value
        if self._depth == _MAX_DEPTH:
            raise NotPlainError(where, "nested too deeply")
        self._depth += 1
        try:
            return self._encode(value, where)
        finally:
            self._depth -= 1

    def _encode(self, value: Any, where: str) -> Any:
        match value:
            case float() if type(value) is float:
                return value if math.isfinite(value) else {"$": "float", "value": str(value)}
            case list() if type(value) is list:
                return [self(item, f"{where}[{i}]") for i, item in enumerate(value)]
            case tuple() if type(value) is tuple:
                return {"$": "tuple", "items": self(list(value), where)}
            case dict() if type(value) in (dict, OrderedDict):
                return self._encode_dict(value, where)
            case deque() if type(value) is deque:
                return {"$": "deque", "items": self(list(value), where), "maxlen": value.maxlen}
            case np.ndarray() if type(value) is np.ndarray and value.dtype.kind in "biufc":
                return self._encode_array(value)
            case np.generic() if value.dtype.kind in "biufc":
                return {**self._encode_array(np.asarray(value)), "$": "scalar"}
            case np.dtype() if value.kind in "biufc":
                return {"$": "dtype", "value": value.str}
            case th.device():
                return {"$": "device", "value": str(value)}
            case TrainFreq():
                return {"$": "train_freq", "items": [value.frequency, value.unit.value]}
            case Enum() if type(value) in _ENUMS.values():
                return {"$": "enum", "enum": type(value).__name__, "name": value.name}
            case type() if classes.is_allowed(value):
                return {"$": "class", "path": classes.path_of(value)}
        return self._encode_object(value, where)

    def _encode_object(self, value: Any, where: str) -> dict[str, Any]:
        what = f"the class {classes.path_of(value)}" if isinstance(value, type) else f"of {type(value)!r}"
        raise NotPlainError(where, f"{what}, which is not on the list of what can be written as data")

    def _encode_dict(self, value: Mapping[Any, Any], where: str) -> Any:
        items = [(key, self(item, f"{where}[{key!r}]")) for key, item in value.items()]
        if all(type(key) is str and not key.startswith("$") for key in value):
            return dict(items)
        return {"$": "dict", "items": [[self(key, f"a key of {where}"), item] for key, item in items]}

    def _encode_array(self, array: np.ndarray) -> dict[str, Any]:
        dtype = array.dtype.newbyteorder("<")
        entry = {"$": "array", "dtype": dtype.str, "shape": list(array.shape)}
        content = array.astype(dtype).tobytes()
        first = content[: array.itemsize]
        if array.size > 1 and content == first * array.size:  # such as the bounds of images
            return {**entry, "fill": base64.b64encode(first).decode()}
        if self.blob is None or len(content) <= _INLINE_BYTES:
            return {**entry, "base64": base64.b64encode(content).decode()}
        self.blob += content
        return {**entry, "offset": len(self.blob) - len(content)}


class PlainDecoder:
    """
    The opposite of :class:`PlainEncoder`. Call it with what it returned.

    :param blob: The bytes of larger arrays
    :param budget: How many bytes of arrays may be allocated
    """

    def __init__(self, blob: bytes = b"", budget: int = 2**28) -> None:
        self.blob = blob
        self.budget = budget
        self._depth = 0

    def __call__(self, value: Any) -> Any:
        """
        :param value: Parsed JSON
        :return: The value that was written
        :raises ValueError: If it is not what :class:`PlainEncoder` writes; or ``TypeError``, ``KeyError`` and so on
        """
        if self._depth == _MAX_DEPTH:
            raise ValueError("nested too deeply")
        self._depth += 1
        try:
            if isinstance(value, list):
                return [self(item) for item in value]
            if not isinstance(value, dict):
                return value
            if "$" not in value:
                return {key: self(item) for key, item in value.items()}
            kind = value["$"]
            decoder = _DECODERS.get(kind) if isinstance(kind, str) else None
            return self._decode_object(value) if decoder is None else decoder(self, value)
        finally:
            self._depth -= 1

    def _decode_object(self, entry: Mapping[str, Any]) -> Any:
        raise ValueError(f"unknown kind {str(entry['$'])[:100]!r}")

    def array(self, entry: Mapping[str, Any]) -> np.ndarray:
        """
        :param entry: What an array was written as
        :return: The array
        :raises ValueError: If it is not one
        """
        dtype, shape = number_dtype(entry["dtype"]), shape_of(entry["shape"])
        n_bytes = math.prod(shape) * dtype.itemsize
        self.budget -= n_bytes
        if self.budget < 0:
            raise ValueError(f"an array of the shape {shape} is too large")
        if "fill" in entry:
            content = base64.b64decode(entry["fill"], validate=True)
            return np.full(shape, np.frombuffer(content, dtype, count=1)[0], dtype)
        if "offset" in entry:
            start = integer(entry["offset"], 0, len(self.blob))
            content = self.blob[start : start + n_bytes]
        else:
            content = base64.b64decode(entry["base64"], validate=True)
        if len(content) != n_bytes:
            raise ValueError(f"an array of the shape {shape} has {len(content)} bytes in place of {n_bytes}")
        return np.frombuffer(content, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=True)


def number_dtype(name: Any) -> np.dtype[Any]:
    """:return: The data type of numbers of this name; a ``ValueError`` for any other"""
    if not isinstance(name, str) or len(name) > 4 or (dtype := np.dtype(name)).kind not in "biufc":
        raise ValueError(f"{str(name)[:100]!r} is not a type of numbers")
    return dtype


def shape_of(shape: Any) -> tuple[int, ...]:
    """:return: The shape as a tuple; a ``ValueError`` if it is none"""
    if not isinstance(shape, list) or len(shape) > 32:
        raise ValueError("a shape is a list of at most 32 integers")
    return tuple(integer(size, 0, 2**40) for size in shape)


def integer(value: Any, low: int, high: int) -> int:
    """:return: The value; a ``ValueError`` if it is not an integer between the two bounds"""
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"expected an integer from {low} to {high}, got {str(value)[:100]!r}")
    return value


def _decode_float(_: PlainDecoder, entry: Mapping[str, Any]) -> float:
    if entry["value"] not in ("nan", "inf", "-inf"):
        raise ValueError("a float that is written as text is nan, inf or -inf")
    return float(entry["value"])


def _decode_dict(decode: PlainDecoder, entry: Mapping[str, Any]) -> dict[Any, Any]:
    content = {decode(key): decode(value) for key, value in entry["items"]}
    if len(content) < len(entry["items"]):
        raise ValueError("a key appears twice")
    return content


def _decode_scalar(decode: PlainDecoder, entry: Mapping[str, Any]) -> Any:
    array = decode.array(entry)
    if array.shape != ():
        raise ValueError("a scalar has no shape")
    scalar: Any = array[()]
    return scalar


def _decode_device(_: PlainDecoder, entry: Mapping[str, Any]) -> th.device:
    return th.device(entry["value"])


def _decode_deque(decode: PlainDecoder, entry: Mapping[str, Any]) -> deque[Any]:
    maxlen = entry["maxlen"]
    return deque(decode(entry["items"]), None if maxlen is None else integer(maxlen, 0, 2**31))


def _decode_train_freq(_: PlainDecoder, entry: Mapping[str, Any]) -> TrainFreq:
    frequency, unit = entry["items"]
    return TrainFreq(integer(frequency, 1, 2**40), TrainFrequencyUnit(unit))


_DECODERS: Mapping[str, Callable[[PlainDecoder, Mapping[str, Any]], Any]] = {
    "float": _decode_float,
    "tuple": lambda decode, entry: tuple(decode(entry["items"])),
    "dict": _decode_dict,
    "deque": _decode_deque,
    "array": lambda decode, entry: decode.array(entry),
    "scalar": _decode_scalar,
    "dtype": lambda _, entry: number_dtype(entry["value"]),
    "device": _decode_device,
    "train_freq": _decode_train_freq,
    "enum": lambda _, entry: _ENUMS[entry["enum"]][entry["name"]],
    "class": lambda _, entry: classes.find(entry["path"]),
}
