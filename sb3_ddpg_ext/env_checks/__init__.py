"""
Environments that report what is wrong with them in one line, with the environment and the step.

Otherwise a mistake in an environment shows up as a traceback from deep inside three libraries, or not at all: SB3
broadcasts observations of a wrong shape.
"""

from sb3_ddpg_ext.env_checks.construction import inside_monitor, vectorized
from sb3_ddpg_ext.env_checks.wrappers import CheckedEnv

__all__ = ["CheckedEnv", "inside_monitor", "vectorized"]
