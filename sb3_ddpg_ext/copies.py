"""
What SB3's ``DummyVecEnv`` copies at every step: the observations and ``infos`` of its environments.

It makes deep copies, which for a small environment takes half of the step. Where there are only arrays, numbers and
strings, other copies are the same.
"""

from collections import OrderedDict
from copy import deepcopy
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

_IMMUTABLE = {
    *(bool, int, float, complex, str, bytes, type(None), np.bool_),
    *(np.float32, np.float64, np.int32, np.int64),
}


class Infos(list[dict[str, Any]]):
    """
    The last info of each environment. A deep copy is a plain list.

    >>> infos = Infos([{"x_velocity": 0.5}, {"path": [1, 2]}])
    >>> copied = deepcopy(infos)
    >>> copied == infos, copied[0] is infos[0], copied[1]["path"] is infos[1]["path"]
    (True, False, False)
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> list[dict[str, Any]]:
        return [
            info.copy()
            if type(info) is dict and _IMMUTABLE.issuperset(map(type, info.values()))
            else deepcopy(info, memo)
            for info in self
        ]


class Observations(OrderedDict[Any, np.ndarray]):
    """The last observations: one array for each key of a Dict space, or one for None. A deep copy is a plain dict."""

    def __deepcopy__(self, memo: dict[int, Any]) -> OrderedDict[Any, np.ndarray]:
        return OrderedDict(
            (key, array.copy() if type(array) is np.ndarray and not array.dtype.hasobject else deepcopy(array, memo))
            for key, array in self.items()
        )


def copy_faster(env: VecEnv) -> None:
    """:param env: A vectorized environment. If it is a ``DummyVecEnv``, with any wrappers, its copies get cheaper"""
    base = env.unwrapped
    if isinstance(base, DummyVecEnv):
        if type(base.buf_infos) is list:
            base.buf_infos = Infos(base.buf_infos)
        if type(base.buf_obs) is OrderedDict:
            base.buf_obs = Observations(base.buf_obs)
