"""
The replay buffer as segments: files that each hold some rows of it, in the order in which they were added.

A checkpoint writes the rows since the last one. Together with them it writes those of the newest segments again while
these are small, into one new segment, so that many checkpoints do not leave as many files. In a full buffer new rows
replace old ones, and a segment whose rows have all been replaced belongs to no checkpoint any more.
"""

import math
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.lib import format as npy
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from sb3_ddpg_ext.buffers import CompactReplayBuffer, RowReplayBuffer
from sb3_ddpg_ext.checkpoint.codec import is_data
from sb3_ddpg_ext.checkpoint.object_state import state_of, with_state
from sb3_ddpg_ext.checkpoint.store import ROWS, Checkpoint, CheckpointError, HashingFile
from sb3_ddpg_ext.prioritized import PrioritizedReplayBuffer

_SEGMENT_BYTES = 2**22  # a segment may have more in a large buffer, which has about 64 to 128 of them
# Hindsight and prioritized experience replay change old rows of these
_REWRITTEN = ("ep_start", "ep_length", "scaled_priorities")
_NOT_STATE = {
    *("env", "device", "observation_space", "action_space", "obs_shape", "_views", "_rows", "_widths", "infos"),
    *("goal_selection_strategy", *_REWRITTEN),
}


class BufferLog:
    """Which rows of a replay buffer are in which segment of one directory of checkpoints."""

    def __init__(self) -> None:
        self.segments: list[dict[str, Any]] = []
        self._buffer: weakref.ref[ReplayBuffer] | None = None
        self._end = (0, 0)  # position in the buffer, and environment steps, when rows were written last

    def follow(self, buffer: ReplayBuffer, step: int, segments: list[dict[str, Any]]) -> None:
        """
        Take note of what has been written.

        :param buffer: The replay buffer
        :param step: Environment steps up to now
        :param segments: The segments that hold it, oldest first
        """
        self._buffer, self.segments, self._end = weakref.ref(buffer), segments, (buffer.pos, step)

    def forget(self) -> None:
        """Write all rows the next time: those that were written cannot be told from others any more."""
        self._buffer = None

    def write(self, directory: Path, buffer: ReplayBuffer, step: int, number: int) -> list[dict[str, Any]]:
        """
        Write the rows that were added since the last call of :meth:`follow`, and merge the newest segments.

        :param directory: The directory of checkpoints
        :param buffer: The replay buffer
        :param step: Environment steps up to now
        :param number: Number of the checkpoint, for the names of the files
        :return: All segments that hold the buffer, oldest first. They count from the next :meth:`follow` on
        """
        size = buffer.buffer_size
        n_new = self._n_new(buffer, step)
        if n_new is None:  # somebody has added or removed rows: write them all
            old, first, n_new = [], buffer.pos if buffer.full else 0, buffer.size()
        else:
            old, first = self.segments, self._end[0]
        old = _still_needed(old, size - n_new)
        arrays = row_arrays(buffer)
        row_bytes = sum(array[:1].nbytes for array in arrays.values())
        # Not more: a segment is kept until all of its rows have been replaced
        per_segment = min(max(_SEGMENT_BYTES // max(row_bytes, 1), size // 64, 1), -(-size // 8))
        # Sizes at least double from one small segment to the one before it, so that there are few of them, and a row
        # is written again only as often as the size of its segment can grow by half
        while old and old[-1]["new"] <= min(2 * n_new, per_segment - n_new):
            segment = old.pop()
            first, n_new = segment["first"], n_new + segment["new"]
        # With optimize_memory_usage the next observation is in the next row
        n_written = n_new + (buffer.optimize_memory_usage and n_new < size)
        folder = directory / ROWS
        new = []
        for i, start in enumerate(range(0, n_written, per_segment)):
            count = min(per_segment, n_written - start)
            path = folder / f"rows-{number:06d}-{i:04d}.npy"
            begin = (first + start) % size
            with path.open("wb") as opened:
                file = HashingFile(opened)
                for array in arrays.values():
                    for part in _slices(begin, count, size):
                        npy.write_array(file, array[part], version=(1, 0), allow_pickle=False)
            new.append(
                {"file": vars(file.sum(path.name)), "first": begin, "count": count, "new": min(count, n_new - start)}
            )
        return [*old, *new]

    def _n_new(self, buffer: ReplayBuffer, step: int) -> int | None:
        """:return: How many rows were added, None if that is unknown"""
        if self._buffer is None or self._buffer() is not buffer:
            return None
        n_new = (step - self._end[1]) // buffer.n_envs
        if not 0 <= n_new < buffer.buffer_size or (self._end[0] + n_new) % buffer.buffer_size != buffer.pos:
            return None
        return n_new


def _still_needed(segments: list[dict[str, Any]], n_rows: int) -> list[dict[str, Any]]:
    """:return: The segments that hold the last rows"""
    needed: list[dict[str, Any]] = []
    for segment in reversed(segments):
        if n_rows <= 0:
            break
        needed.insert(0, segment)
        n_rows -= segment["new"]
    return needed


def _slices(first: int, count: int, size: int) -> Iterator[slice]:
    """One or two ranges, where the rows go on at the buffer's beginning."""
    end = min(first + count, size)
    yield slice(first, end)
    if first + count > size:
        yield slice(0, first + count - size)


def row_arrays(buffer: ReplayBuffer) -> dict[str, np.ndarray]:
    """:return: The arrays that hold the rows. What all of them are has one name, also where they are in a dict"""
    if isinstance(buffer, RowReplayBuffer) and buffer.arrays_are_views():
        return {"_rows": buffer._rows}
    found: dict[str, np.ndarray] = {}
    for name, value in vars(buffer).items():
        if name in _NOT_STATE:
            continue
        for key, array in value.items() if isinstance(value, dict) else [("", value)]:
            if _is_rows(array, buffer):
                found[f"{name}/{key}" if key else name] = array
    return found


def _is_rows(array: Any, buffer: ReplayBuffer) -> bool:
    return (
        isinstance(array, np.ndarray)
        and array.shape[:2] == (buffer.buffer_size, buffer.n_envs)
        and not array.dtype.hasobject
    )


def buffer_state(buffer: ReplayBuffer) -> dict[str, Any]:
    """
    :param buffer: A replay buffer
    :return: What is not in its rows, as plain data
    :raises CheckpointError: If it holds something that is neither rows nor plain data
    """
    rows = {name.split("/")[0] for name in row_arrays(buffer)}
    if isinstance(buffer, RowReplayBuffer):
        rows |= buffer._views.keys() if buffer.arrays_are_views() else set()
    if isinstance(buffer, HerReplayBuffer) and buffer.copy_info_dict and not is_data(_infos(buffer)):
        raise CheckpointError("the replay buffer's copies of info dicts (copy_info_dict=True) are no plain data")
    return {
        "class": type(buffer).__name__,
        "rows": {name: [str(array.dtype), list(array.shape)] for name, array in row_arrays(buffer).items()},
        "attributes": state_of(buffer, skip=_NOT_STATE | rows),
        "rewritten": {name: _runs(vars(buffer)[name][: buffer.size()]) for name in _REWRITTEN if name in vars(buffer)},
        "infos": _infos(buffer) if isinstance(buffer, HerReplayBuffer) and buffer.copy_info_dict else [],
    }


def _runs(array: np.ndarray) -> dict[str, Any]:
    """:return: An array as its runs of equal values, such as those of episodes: it is written every time"""
    values = array.T.ravel()
    starts = np.flatnonzero(np.diff(values, prepend=values[:1] - 1))
    return {"n_rows": len(array), "starts": starts, "values": values[starts]}


def _from_runs(runs: dict[str, Any], like: np.ndarray) -> np.ndarray:
    n_rows, starts = runs["n_rows"], runs["starts"]
    n = n_rows * like.shape[1]
    if n > like.size or (starts > n).any():
        raise CheckpointError("the replay buffer of the checkpoint has more episodes than rows")
    return np.repeat(runs["values"], np.diff(starts, append=n)).reshape(-1, n_rows).T


def _infos(buffer: HerReplayBuffer) -> list[Any]:
    return [list(row) for row in buffer.infos[: buffer.size()]]


def restore_buffer(buffer: ReplayBuffer, state: dict[str, Any], checkpoint: Checkpoint) -> None:
    """
    Fill a replay buffer from the segments of a checkpoint, without another copy of it in memory. If some are lost, it
    begins with the first row after them.

    :param buffer: A new replay buffer
    :param state: What :func:`buffer_state` returned
    :param checkpoint: The checkpoint
    :raises CheckpointError: If it is another kind of buffer
    """
    if type(buffer).__name__ != state["class"]:
        raise CheckpointError(f"the checkpoint has a {state['class']}, but the model a {type(buffer).__name__}")
    sizes, segments = (buffer.buffer_size, buffer.n_envs), checkpoint.segments()
    for segment in segments:
        if not (0 <= segment["first"] < sizes[0] and 0 <= segment["new"] <= segment["count"] <= sizes[0]):
            raise CheckpointError(f"{segment['file']['name']} has rows for a replay buffer of another size")
    _assign_arrays(buffer, state["rows"], segments)
    with_state(buffer, state["attributes"])
    if (buffer.buffer_size, buffer.n_envs) != sizes or not 0 <= buffer.pos < sizes[0]:
        raise CheckpointError("the replay buffer of the checkpoint has another size than the model's")
    arrays = row_arrays(buffer)
    offset = segments[0]["first"] if checkpoint.n_lost and segments else 0
    for segment in segments:
        with (checkpoint.path.parent / ROWS / segment["file"]["name"]).open("rb") as file:
            for name in state["rows"]:
                for part in _slices(segment["first"], segment["count"], sizes[0]):
                    begin = (part.start - offset) % sizes[0]
                    _read_into(file, arrays[name][begin : begin + part.stop - part.start])
    for name, runs in state["rewritten"].items():
        vars(buffer)[name][: runs["n_rows"]] = _from_runs(runs, vars(buffer)[name])
    if isinstance(buffer, CompactReplayBuffer | PrioritizedReplayBuffer) and (damage := buffer.why_damaged()):
        raise CheckpointError(f"the replay buffer of the checkpoint is damaged: {damage}")
    for i, infos in enumerate(state["infos"]):
        vars(buffer)["infos"][i] = infos
    if checkpoint.n_lost:
        _begin_at(buffer, offset, sum(segment["new"] for segment in segments))


def _begin_at(buffer: ReplayBuffer, offset: int, n_rows: int) -> None:
    """Let a buffer begin with a row that was elsewhere before, since those before it are lost."""
    buffer.pos, buffer.full = n_rows, False
    if isinstance(buffer, PrioritizedReplayBuffer):
        buffer.scaled_priorities[:] = np.roll(buffer.scaled_priorities, -offset, axis=0)
        buffer.scaled_priorities[n_rows:] = 0
    if not isinstance(buffer, HerReplayBuffer):
        return
    starts, lengths = (np.roll(array, -offset, axis=0) for array in (buffer.ep_start, buffer.ep_length))
    starts = (starts - offset) % buffer.buffer_size
    # Of an episode whose beginning is lost, no transition is sampled; the running one begins with what is left of it
    cut = (starts > np.arange(len(starts))[:, None]) | (np.arange(len(starts)) >= n_rows)[:, None]
    buffer.ep_start, buffer.ep_length = np.where(cut, 0, starts), np.where(cut, 0, lengths)
    running = (buffer._current_ep_start - offset) % buffer.buffer_size
    buffer._current_ep_start = np.where(running > n_rows, 0, running)
    buffer.infos = np.roll(buffer.infos, -offset, axis=0)
    if not buffer.ep_length.any():
        raise CheckpointError("the replay buffer is damaged, and no whole episode is left for HER to sample from")


def _assign_arrays(buffer: ReplayBuffer, rows: dict[str, Any], segments: list[dict[str, Any]]) -> None:
    """Make arrays of another kind where the user had assigned them, if there are rows that they are needed for."""
    row_bytes = 0
    for name, (dtype, shape) in rows.items():
        if shape[:2] != [buffer.buffer_size, buffer.n_envs] or np.dtype(dtype).hasobject:
            raise CheckpointError(f"the replay buffer of the checkpoint has an array {name} of the shape {shape}")
        row_bytes += math.prod(shape[1:]) * np.dtype(dtype).itemsize
    if any(segment["count"] * row_bytes > segment["file"]["size"] for segment in segments):
        raise CheckpointError("the replay buffer of the checkpoint has other rows than its segments")
    for name, (dtype, shape) in rows.items() if segments else ():
        current = row_arrays(buffer).get(name)
        if current is None or [str(current.dtype), list(current.shape)] != [dtype, shape]:
            _assign(buffer, name, np.zeros(shape, np.dtype(dtype)))


def _assign(buffer: ReplayBuffer, name: str, array: np.ndarray) -> None:
    attribute, _, key = name.partition("/")
    if key:
        vars(buffer)[attribute][key] = array
    else:
        vars(buffer)[attribute] = array


def _read_into(file: Any, array: np.ndarray) -> None:
    if npy.read_magic(file) != (1, 0):
        raise CheckpointError("a segment of the replay buffer is not in the expected format")
    shape, fortran_order, dtype = npy.read_array_header_1_0(file)
    if shape != array.shape or fortran_order or dtype != array.dtype:
        raise CheckpointError(
            f"a segment of the replay buffer has {dtype} {shape}, expected {array.dtype} {array.shape}"
        )
    if array.flags.c_contiguous and array.size:
        if file.readinto(memoryview(cast(Any, array)).cast("B")) != array.nbytes:
            raise CheckpointError("a segment of the replay buffer is too short")
    else:
        array[:] = np.frombuffer(file.read(array.nbytes), dtype).reshape(shape)
