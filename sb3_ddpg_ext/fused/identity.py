"""Dicts, such as a module's parameters, that are watched for a change of what they hold."""

import ctypes
import functools
import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from operator import is_
from pathlib import Path
from typing import Any

LIBRARY = Path(__file__).parent / "compiled" / "identity.so"
"""``identity.c``, compiled"""


@functools.cache
def library() -> ctypes.PyDLL | None:
    """:return: The compiled comparison; None if it was not compiled, or if objects have no addresses"""
    if sys.implementation.name != "cpython":
        return None
    try:
        compiled = ctypes.PyDLL(str(LIBRARY))  # which, unlike CDLL, keeps the lock that Python's functions need
    except OSError:
        return None
    compiled.unchanged.argtypes = 5 * [ctypes.c_void_p]
    return compiled


class Watch:
    """
    Remembers what some lists and dicts hold, as they are now.

    :param lists: Are to hold the same objects. They are compared by identity, as ``==`` of tensors compares elements
    :param dicts: Are to hold the same objects in the same order, whatever their keys
    :param sized: Are only to have as many items as now
    """

    def __init__(
        self,
        lists: Iterable[Sequence[Any]] = (),
        dicts: Iterable[dict[Any, Any]] = (),
        sized: Iterable[dict[str, Any]] = (),
    ) -> None:
        self._lists, self._dicts, self._sized = tuple(lists), tuple(dicts), tuple(sized)
        self._objects = self._now()
        self._sizes = (ctypes.c_ssize_t * len(self._sized))(*map(len, self._sized))
        self.is_current: Callable[[], object] = self._is_current
        """Returns whether nothing has changed"""
        # Users may have put other sequences in place of lists, which C does not know
        if (compiled := library()) is not None and all(isinstance(each, list) for each in self._lists):
            addresses = map(id, (self._lists, self._dicts, self._objects, self._sized))
            self.is_current = functools.partial(compiled.unchanged, *addresses, ctypes.addressof(self._sizes))

    def _now(self) -> tuple[Any, ...]:
        return *chain.from_iterable(self._lists), *chain.from_iterable(map(dict.values, self._dicts))

    def _is_current(self) -> bool:
        now = self._now()
        return (
            len(now) == len(self._objects)
            and all(map(is_, now, self._objects))
            and [*map(len, self._sized)] == [*self._sizes]
        )
