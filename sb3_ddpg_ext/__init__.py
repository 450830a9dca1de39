"""Deep Deterministic Policy Gradient (DDPG) for Stable-Baselines3, as a drop-in replacement for its ``DDPG``."""

import importlib
from typing import TYPE_CHECKING, Any

from sb3_ddpg_ext.checkpoint import ResumableCheckpointCallback
from sb3_ddpg_ext.ddpg import CustomDDPG
from sb3_ddpg_ext.noise import (
    ColoredNoise,
    ExponentialSchedule,
    GaussianNoise,
    OrnsteinUhlenbeckNoise,
    PinkNoise,
    ScheduledNoise,
    UniformNoise,
)
from sb3_ddpg_ext.policies import CnnPolicy, MlpPolicy, MultiInputPolicy
from sb3_ddpg_ext.safe_files.statistics import load_vecnormalize, save_vecnormalize

if TYPE_CHECKING:
    from sb3_ddpg_ext.commands import compare, evaluate, train, tune

__version__ = "0.1.0"

__all__ = [
    "CnnPolicy",
    "ColoredNoise",
    "CustomDDPG",
    "ExponentialSchedule",
    "GaussianNoise",
    "MlpPolicy",
    "MultiInputPolicy",
    "OrnsteinUhlenbeckNoise",
    "PinkNoise",
    "ResumableCheckpointCallback",
    "ScheduledNoise",
    "UniformNoise",
    "compare",
    "evaluate",
    "load_vecnormalize",
    "save_vecnormalize",
    "train",
    "tune",
]


def __getattr__(name: str) -> Any:
    """What the commands do needs packages that the algorithm does not, so it is imported when it is asked for."""
    if name not in ("compare", "evaluate", "train", "tune"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module("sb3_ddpg_ext.commands"), name)
    except ModuleNotFoundError as error:
        message = f"{error.name} is not installed: pip install 'sb3_ddpg_ext[train]'"
        raise ModuleNotFoundError(message, name=error.name) from error
