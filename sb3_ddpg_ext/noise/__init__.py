"""Exploration noise: processes, and their adapters to SB3's ``ActionNoise``."""

from sb3_ddpg_ext.noise.action_noise import (
    NOISES,
    SCHEDULES,
    ExponentialSchedule,
    NoiseSpec,
    ProcessActionNoise,
    ScheduledNoise,
    current_std,
    find_parameter_noise,
    owns_generator,
    reseed,
    sample_noise,
    setup_action_noise,
    without_reset,
)
from sb3_ddpg_ext.noise.base import NoiseProcess
from sb3_ddpg_ext.noise.parameter_noise import ParameterNoise
from sb3_ddpg_ext.noise.processes import (
    ColoredNoise,
    GaussianNoise,
    OrnsteinUhlenbeckNoise,
    PinkNoise,
    UniformNoise,
)

__all__ = [
    "NOISES",
    "SCHEDULES",
    "ColoredNoise",
    "ExponentialSchedule",
    "GaussianNoise",
    "NoiseProcess",
    "NoiseSpec",
    "OrnsteinUhlenbeckNoise",
    "ParameterNoise",
    "PinkNoise",
    "ProcessActionNoise",
    "ScheduledNoise",
    "UniformNoise",
    "current_std",
    "find_parameter_noise",
    "owns_generator",
    "reseed",
    "sample_noise",
    "setup_action_noise",
    "without_reset",
]
