"""The speed of CustomDDPG, beside that of SB3's DDPG and TD3 and, where it is installed, SBX's DDPG."""

from sb3_ddpg_ext.benchmark.measuring import benchmark
from sb3_ddpg_ext.benchmark.presentation import picture, table

__all__ = ["benchmark", "picture", "table"]
