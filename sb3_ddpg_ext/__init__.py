"""Deep Deterministic Policy Gradient (DDPG) for Stable-Baselines3, as a drop-in replacement for its ``DDPG``."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sb3_ddpg_ext.checkpoint import ResumableCheckpointCallback
    from sb3_ddpg_ext.commands import ComparisonResult, TuningResult, compare, evaluate, train, tune
    from sb3_ddpg_ext.ddpg import CustomDDPG
    from sb3_ddpg_ext.noise import (
        ColoredNoise,
        ExponentialSchedule,
        GaussianNoise,
        OrnsteinUhlenbeckNoise,
        ParameterNoise,
        PinkNoise,
        ScheduledNoise,
        UniformNoise,
    )
    from sb3_ddpg_ext.policies import CnnPolicy, LayerNormPolicy, MlpPolicy, MultiInputPolicy, SimbaPolicy
    from sb3_ddpg_ext.prioritized import PrioritizedReplayBuffer, PrioritizedReplayBufferSamples
    from sb3_ddpg_ext.safe_files.statistics import load_vecnormalize, save_vecnormalize

__version__ = "0.1.0"

__all__ = [
    "CnnPolicy",
    "ColoredNoise",
    "ComparisonResult",
    "CustomDDPG",
    "ExponentialSchedule",
    "GaussianNoise",
    "LayerNormPolicy",
    "MlpPolicy",
    "MultiInputPolicy",
    "OrnsteinUhlenbeckNoise",
    "ParameterNoise",
    "PinkNoise",
    "PrioritizedReplayBuffer",
    "PrioritizedReplayBufferSamples",
    "ResumableCheckpointCallback",
    "ScheduledNoise",
    "SimbaPolicy",
    "TuningResult",
    "UniformNoise",
    "compare",
    "evaluate",
    "load_vecnormalize",
    "save_vecnormalize",
    "train",
    "tune",
]

_MODULES = {
    "checkpoint": {"ResumableCheckpointCallback"},
    "commands": {"ComparisonResult", "TuningResult", "compare", "evaluate", "train", "tune"},
    "ddpg": {"CustomDDPG"},
    "noise": {
        "ColoredNoise",
        "ExponentialSchedule",
        "GaussianNoise",
        "OrnsteinUhlenbeckNoise",
        "ParameterNoise",
        "PinkNoise",
        "ScheduledNoise",
        "UniformNoise",
    },
    "policies": {"CnnPolicy", "LayerNormPolicy", "MlpPolicy", "MultiInputPolicy", "SimbaPolicy"},
    "prioritized": {"PrioritizedReplayBuffer", "PrioritizedReplayBufferSamples"},
    "safe_files.statistics": {"load_vecnormalize", "save_vecnormalize"},
}

if not TYPE_CHECKING:  # a type checker would believe that the package has any name

    def __getattr__(name: str) -> Any:
        """Names are imported when they are asked for: PyTorch takes seconds, and the commands need further packages."""
        module = next((module for module, names in _MODULES.items() if name in names), None)
        if module is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            value = getattr(importlib.import_module(f"{__name__}.{module}"), name)
        except ModuleNotFoundError as error:
            if module != "commands":
                raise
            message = f"{error.name} is not installed: pip install 'sb3_ddpg_ext[train]'"
            raise ModuleNotFoundError(message, name=error.name) from error
        globals()[name] = value  # from now on it is found without this function
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
