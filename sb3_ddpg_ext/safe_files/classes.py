"""
The classes that a saved file may name. A name is looked up here and never imported, so a file can choose among these
and nothing else.
"""

import functools
import inspect
import sys
from collections.abc import Iterable, Mapping
from types import GenericAlias, ModuleType

import numpy as np
import torch as th
from stable_baselines3 import DDPG, DQN, SAC, TD3, HerReplayBuffer
from stable_baselines3.common import buffers as sb3_buffers
from stable_baselines3.common import policies as sb3_policies
from stable_baselines3.common import torch_layers
from stable_baselines3.dqn import policies as dqn
from stable_baselines3.sac import policies as sac
from stable_baselines3.td3 import policies as td3
from torch import nn

from sb3_ddpg_ext import buffers, prioritized


def _defined(modules: Iterable[ModuleType], *bases: type) -> list[type]:
    return [
        item
        for module in modules
        for item in vars(module).values()
        # Python 3.10 takes a name for a type, such as `list[int]`, for a class, but not as one
        if inspect.isclass(item) and not isinstance(item, GenericAlias)
        if issubclass(item, bases) and not inspect.isabstract(item)
    ]


def path_of(cls: type) -> str:
    """:return: The import path of a class"""
    return f"{cls.__module__}.{cls.__qualname__}"


@functools.cache
def _core() -> Mapping[str, type]:
    classes: list[type] = [
        *_defined([nn.modules.activation, nn.modules.normalization, nn.modules.batchnorm], nn.Module),
        nn.Identity,
        *_defined([th.optim], th.optim.Optimizer),
        *_defined([td3, sac, dqn, sb3_policies], sb3_policies.BasePolicy),
        *_defined([torch_layers], torch_layers.BaseFeaturesExtractor),
        *_defined([buffers, prioritized, sb3_buffers], sb3_buffers.BaseBuffer),
        HerReplayBuffer,
        *(DDPG, TD3, SAC, DQN),
        *(bool, int, float),
        *(np.float16, np.float32, np.float64, np.bool_),
        *(np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64),
    ]
    return {path_of(cls): cls for cls in classes}


def _imported() -> Mapping[str, type]:
    """
    The policies of this package, which itself imports this module, and of sb3-contrib, and their features extractors,
    once they are imported.
    """
    names = ("sb3_ddpg_ext.policies", "sb3_contrib.tqc.policies", "sb3_contrib.crossq.policies")
    modules = [sys.modules[name] for name in names if name in sys.modules]
    return {path_of(cls): cls for cls in _defined(modules, sb3_policies.BasePolicy, torch_layers.BaseFeaturesExtractor)}


def is_allowed(cls: type) -> bool:
    """:return: Whether a file may name this class"""
    path = path_of(cls)
    return _core().get(path, _imported().get(path)) is cls


def find(path: object) -> type:
    """
    Find a class by its import path.

    :param path: The path, as :func:`path_of` gives it
    :return: The class
    :raises ValueError: If files may not name it
    """
    if not isinstance(path, str) or path not in {**_core(), **_imported()}:
        raise ValueError(f"{str(path)[:200]!r} is not a class that a file may name")
    return {**_core(), **_imported()}[path]
