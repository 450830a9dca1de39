"""
Data as JSON and arrays, both of which can be read without running anybody's code.

JSON has no arrays, tuples, or keys that are not text, so every container is written with its kind. Python's JSON keeps
floats (also NaN and infinity) and integers of any size exactly. In a file, the JSON is the first line, and the arrays'
bytes follow.
"""

import json
import math
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch as th


class NoDataError(TypeError):
    """Something that is not plain data."""


_KINDS = "biufcSUmM"  # of arrays: numbers, text, times
_MAX_JSON_BYTES = 2**28
_SCALARS = (bool, int, float, str, type(None))


def encode(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """
    Separate a value into JSON and arrays.

    >>> arrays = {}
    >>> encode({"position": (1, 2.5)}, arrays)
    {'dict': {'position': {'tuple': [1, 2.5]}}}

    :param value: None, numbers, text, arrays, tensors, and lists, tuples, deques and dicts of these
    :param arrays: Gets the arrays, under names that the result refers to
    :return: What JSON can write
    :raises NoDataError: If there is anything else in it
    """
    if type(value) in _SCALARS:
        return value
    if isinstance(value, th.Tensor):
        return {"tensor": _store(value.detach().cpu().numpy(), arrays)}
    if isinstance(value, np.ndarray):
        return {"array": _store(value, arrays)}
    if isinstance(value, np.generic):
        return {"scalar": _store(np.asarray(value), arrays)}
    if isinstance(value, deque):
        return {"deque": [encode(item, arrays) for item in value], "maxlen": value.maxlen}
    if isinstance(value, tuple):
        return {"tuple": [encode(item, arrays) for item in value]}
    if isinstance(value, list):
        return {"list": [encode(item, arrays) for item in value]}
    if isinstance(value, Mapping):
        if all(type(key) is str for key in value):
            return {"dict": {key: encode(item, arrays) for key, item in value.items()}}
        return {"items": [[encode(key, arrays), encode(item, arrays)] for key, item in value.items()]}
    raise NoDataError(f"{type(value).__name__} is neither number, text nor array, nor a list or dict of these")


def _store(array: np.ndarray, arrays: dict[str, np.ndarray]) -> str:
    if array.dtype.kind not in _KINDS:
        raise NoDataError(f"an array of {array.dtype} is no array of numbers")
    name = str(len(arrays))
    arrays[name] = array.copy()
    return name


def decode(tree: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """
    The inverse of :func:`encode`.

    >>> decode({"dict": {"position": {"tuple": [1, 2.5]}}}, {})
    {'position': (1, 2.5)}

    :param tree: What :func:`encode` returned
    :param arrays: The arrays that it made
    :return: The value
    """
    if not isinstance(tree, dict):
        return tree
    (kind, content), *_ = tree.items()
    match kind:
        case "array":
            return arrays[content]
        case "tensor":
            return th.as_tensor(arrays[content])
        case "scalar":
            return arrays[content][()]
        case "dict":
            return {key: decode(item, arrays) for key, item in content.items()}
        case "items":
            return {decode(key, arrays): decode(item, arrays) for key, item in content}
    items = [decode(item, arrays) for item in content]
    match kind:
        case "deque":
            return deque(items, tree["maxlen"])
        case "tuple":
            return tuple(items)
    return items


def is_data(value: Any) -> bool:
    """:return: Whether :func:`encode` takes it"""
    try:
        encode(value, {})
    except NoDataError:
        return False
    return True


def join(tree: Any, arrays: Mapping[str, np.ndarray]) -> Iterator[Any]:
    """
    Put what :func:`encode` returned into one file.

    :param tree: The JSON
    :param arrays: The arrays
    :return: The parts of the file, one after the other
    :raises NoDataError: If it is too much to be read again
    """
    index = {name: [array.dtype.str, list(array.shape)] for name, array in arrays.items()}
    line = json.dumps({"arrays": index, "tree": tree}).encode() + b"\n"
    if len(line) > _MAX_JSON_BYTES:
        raise NoDataError(f"{len(line)} bytes of data beside arrays, of which at most {_MAX_JSON_BYTES} are read again")
    yield line
    yield from (array.tobytes() for array in arrays.values())


def split(content: bytes) -> tuple[Any, dict[str, np.ndarray]]:
    """
    The inverse of :func:`join`.

    :param content: The content of a file
    :return: The JSON, and the arrays
    :raises ValueError: If it is no such file
    """
    line, _, rest = content.partition(b"\n")
    if len(line) > _MAX_JSON_BYTES:
        raise ValueError("it has too much data beside arrays")
    outer = json.loads(line)
    arrays: dict[str, np.ndarray] = {}
    offset = 0
    for name, (dtype_name, shape) in outer["arrays"].items():
        dtype = np.dtype(dtype_name)
        if dtype.kind not in _KINDS or dtype.itemsize == 0:
            raise ValueError(f"it has an array of {dtype}")
        arrays[name] = np.ndarray(shape, dtype, rest, offset).copy()  # which checks that there are as many bytes
        offset += math.prod(shape) * dtype.itemsize
    return outer["tree"], arrays
