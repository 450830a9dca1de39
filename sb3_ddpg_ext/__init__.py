"""Deep Deterministic Policy Gradient (DDPG) for Stable-Baselines3, as a drop-in replacement for its ``DDPG``."""

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
    "load_vecnormalize",
    "save_vecnormalize",
]
