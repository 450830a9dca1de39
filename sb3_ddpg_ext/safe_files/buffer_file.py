"""
Replay buffers as a zip archive of arrays (``.npy``) and JSON. Only the rows that are in use are written.

The JSON has the checksum of each array, and a member beside it has that of the JSON: zip's own do not see what somebody
has changed and packed again.
"""

import hashlib
import json
import math
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.her.goal_selection_strategy import GoalSelectionStrategy

from sb3_ddpg_ext.buffers import CompactReplayBuffer
from sb3_ddpg_ext.errors import SavedFileError
from sb3_ddpg_ext.prioritized import PrioritizedReplayBuffer
from sb3_ddpg_ext.safe_files import classes
from sb3_ddpg_ext.safe_files.archive import SafeArchive, check_checksum, reason
from sb3_ddpg_ext.safe_files.objects import Decoder, Encoder
from sb3_ddpg_ext.safe_files.plain import NotPlainError, integer

_FORMAT = 1
_JSON = "buffer.json"
_DIGEST = "buffer.sha256"
_SETTINGS = (  # as far as a class has them
    *("buffer_size", "n_envs", "pos", "full", "n_steps", "gamma", "handle_timeout_termination", "_kept", "_free"),
    *("alpha", "beta", "eps", "max_priority"),
    *("n_sampled_goal", "her_ratio", "goal_selection_strategy", "_current_ep_start"),
)
_MAX_DICTS = 10**7  # HER has one for each transition
_CHUNK = 2**24  # bytes that are read at once


def _state(buffer: ReplayBuffer) -> dict[str, Any]:
    own_state = getattr(buffer, "__getstate__", None)
    state: dict[str, Any] = dict(own_state() if own_state is not None else vars(buffer))
    if not getattr(buffer, "copy_info_dict", False):
        state.pop("infos", None)  # empty dicts
    return state


def _rows(state: Mapping[str, Any]) -> Iterator[tuple[str, str | None, np.ndarray]]:
    """:return: Attribute, key (of Dict observations) and content of the arrays that have a row for each transition"""
    for name, value in state.items():
        arrays = value.items() if isinstance(value, dict) else [(None, value)]
        for key, array in arrays:
            if isinstance(array, np.ndarray) and array.ndim >= 2 and len(array) == state["buffer_size"]:
                yield name, key, array


def write_buffer(buffer: ReplayBuffer, file: BinaryIO) -> None:
    """
    Write a replay buffer.

    :param buffer: The buffer
    :param file: The file, open for writing
    :raises NotPlainError: Before anything is written, if it cannot be written as data
    """
    state = _state(buffer)
    if not classes.is_allowed(type(buffer)):
        raise NotPlainError("the replay buffer", f"of {type(buffer)!r}")
    encode = Encoder()
    settings = {n: encode(state[n], f"replay_buffer.{n}") for n in _SETTINGS if n in state}
    rows = list(_rows(state))
    if any(array.dtype.kind not in "biuf" for _, _, array in rows) or "infos" in state:
        raise NotPlainError("the replay buffer", "one with objects in it, such as copies of infos")
    # With `optimize_memory_usage`, the row after the last one holds its next observation
    n_rows = buffer.buffer_size if buffer.full else min(buffer.pos + 1, buffer.buffer_size)
    content: dict[str, Any] = {
        "format": _FORMAT,
        "class": classes.path_of(type(buffer)),
        "n_rows": n_rows,
        "settings": settings,
        "arrays": [[name, key] for name, key, _ in rows],
        "sha256": [],
    }
    with zipfile.ZipFile(file, "w") as archive:
        for i, (_, _, array) in enumerate(rows):
            used = np.ascontiguousarray(array[:n_rows])
            content["sha256"].append(hashlib.sha256(used.data).hexdigest())
            with archive.open(f"{i}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, used, (1, 0), allow_pickle=False)
        document = json.dumps(content, allow_nan=False).encode()
        archive.writestr(_JSON, document)
        archive.writestr(_DIGEST, hashlib.sha256(document).hexdigest())


def read_buffer(file: BinaryIO, what: str, like: ReplayBuffer) -> ReplayBuffer:
    """
    Read a replay buffer.

    :param file: A file of :func:`write_buffer`
    :param what: What it is called in errors
    :param like: A buffer of the same class and for the same spaces
    :return: The buffer
    :raises SavedFileError: If the file is damaged, or is not such a buffer's
    """
    archive = SafeArchive(file, what)
    content = archive.read_json(_JSON)
    check_checksum(archive.read(_JSON), archive.read(_DIGEST).decode(errors="replace"), f"{what}: {_JSON}")
    try:
        return _read(archive, content, like)
    except SavedFileError:
        raise
    except Exception as error:  # what constructors raise for what they cannot take
        raise SavedFileError(f"{what}: it does not hold such a buffer: {reason(error)}") from error


def _read(archive: SafeArchive, content: Any, like: ReplayBuffer) -> ReplayBuffer:
    if content["format"] != _FORMAT:
        raise ValueError("it was saved by another version of this package")
    if content["class"] != classes.path_of(type(like)):
        raise ValueError(f"it is a {str(content['class'])[:200]}, and the model has a {classes.path_of(type(like))}")
    state = _state(like)
    settings = Decoder()(content["settings"])
    if set(settings) != {name for name in _SETTINGS if name in state}:
        raise ValueError("its settings are not those of its class")
    own_rows = list(_rows(state))
    _check_settings(settings)
    size, n_envs = settings["buffer_size"], settings["n_envs"]
    n_rows = integer(content["n_rows"], 0, size)
    if n_rows != (size if settings["full"] else min(settings["pos"] + 1, size)):
        raise ValueError("the number of its rows does not fit its position")
    if content["arrays"] != [[name, key] for name, key, _ in own_rows]:
        raise ValueError("its arrays are not those of its class")
    state = {name: dict(value) if isinstance(value, dict) else value for name, value in state.items()} | settings
    for i, (name, key, own) in enumerate(own_rows):
        array = _read_rows(archive, f"{i}.npy", (size, n_envs, *own.shape[2:]), own.dtype, n_rows)
        check_checksum(array[:n_rows].data, content["sha256"][i], f"{archive.what}: {i}.npy")
        if key is None:
            state[name] = array
        else:
            state[name][key] = array
    if "copy_info_dict" in state:
        if size * n_envs > max(_MAX_DICTS, like.buffer_size * like.n_envs):
            raise ValueError(f"buffer_size={size} is too large")
        state["infos"] = np.array([[{} for _ in range(n_envs)] for _ in range(size)])
    buffer: ReplayBuffer = object.__new__(type(like))
    set_state = getattr(buffer, "__setstate__", vars(buffer).update)
    set_state(state)
    if isinstance(buffer, CompactReplayBuffer | PrioritizedReplayBuffer) and (damage := buffer.why_damaged()):
        raise ValueError(damage)
    return buffer


def _check_settings(settings: Mapping[str, Any]) -> None:
    size = integer(settings["buffer_size"], 1, 2**40)
    n_envs = integer(settings["n_envs"], 1, 2**20)
    integer(settings["pos"], 0, size - 1)
    for name in ("full", "handle_timeout_termination"):
        if type(settings[name]) is not bool:
            raise ValueError(f"{name} must be True or False")
    integer(settings.get("n_steps", 1), 1, 2**20)
    for name in ("gamma", "her_ratio"):
        if not (isinstance(settings.get(name, 0), (int, float)) and 0 <= settings.get(name, 0) <= 1):
            raise ValueError(f"{name} must be a number from 0 to 1")
    integer(settings.get("n_sampled_goal", 1), 0, 2**20)
    if not isinstance(settings.get("goal_selection_strategy", GoalSelectionStrategy.FUTURE), GoalSelectionStrategy):
        raise ValueError("goal_selection_strategy is not one")
    starts = settings.get("_current_ep_start")
    if starts is not None and not (isinstance(starts, np.ndarray) and starts.shape == (n_envs,)):
        raise ValueError("_current_ep_start is not for these environments")


def _read_rows(
    archive: SafeArchive, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], n_rows: int
) -> np.ndarray:
    with archive.open(name) as stream:
        if np.lib.format.read_magic(stream) != (1, 0):
            raise ValueError(f"{name} is of another format")
        saved_shape, fortran_order, saved_dtype = np.lib.format.read_array_header_1_0(stream, max_header_size=1000)
        expected = (n_rows, *shape[1:])
        if saved_shape != expected or saved_dtype != dtype or fortran_order:
            raise ValueError(f"{name} is {saved_dtype} of the shape {saved_shape}; expected {dtype}, {expected}")
        n_bytes = math.prod(expected) * dtype.itemsize
        if archive.size_of(name) < n_bytes:
            raise ValueError(f"{name} is too short")
        array = np.zeros(shape, dtype)
        rows = memoryview(array[:n_rows].reshape(-1).view(np.uint8).data)
        position = 0
        while position < n_bytes:
            n_read = stream.readinto(rows[position : position + _CHUNK])  # type: ignore[attr-defined]
            if not n_read:
                raise ValueError(f"{name} is too short")
            position += n_read
        if stream.read(1):  # and `zipfile` has compared its checksum
            raise ValueError(f"{name} is too long")
    if array.dtype.kind == "f" and not np.isfinite(array[:n_rows]).all():
        raise ValueError(f"{name} has a number that is not finite")
    return array
