"""Deep Deterministic Policy Gradient (DDPG) for Stable-Baselines3, as a drop-in replacement for its ``DDPG``."""

from sb3_ddpg_ext.ddpg import CustomDDPG
from sb3_ddpg_ext.noise import GaussianNoise, OrnsteinUhlenbeckNoise
from sb3_ddpg_ext.policies import CnnPolicy, MlpPolicy, MultiInputPolicy

__version__ = "0.1.0"

__all__ = [
    "CnnPolicy",
    "CustomDDPG",
    "GaussianNoise",
    "MlpPolicy",
    "MultiInputPolicy",
    "OrnsteinUhlenbeckNoise",
]
