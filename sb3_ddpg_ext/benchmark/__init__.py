"""The speed of CustomDDPG, beside that of SB3's DDPG and TD3 and, where it is installed, SBX's DDPG."""

from sb3_ddpg_ext.benchmark.measuring import BenchmarkArgs, benchmark
from sb3_ddpg_ext.benchmark.presentation import picture, table

__all__ = ["BenchmarkArgs", "benchmark", "picture", "table"]
