"""Arguments of the commands that only look: ``sb3-ddpg check`` and ``sb3-ddpg list``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True)
class CheckArgs:
    """Check an environment: with the checkers of Stable-Baselines3 and Gymnasium, and for what DDPG needs."""

    env: str
    """id of a Gymnasium environment, with the module to import first where it needs one (module:Env-v0), or a class
    (module:Class)"""
    algo: str = "custom_ddpg"
    """algorithm whose settings say how the environment is made (env_kwargs, env_wrapper)"""
    hyperparams: Path | None = None
    """YAML file in RL Zoo's format; this package's own if not given"""
    params: Annotated[
        tuple[str, ...], tyro.conf.arg(aliases=["-p"], metavar="NAME=VALUE"), tyro.conf.UseAppendAction
    ] = ()
    """override of one setting, e.g. -p env_kwargs.speed=0.4"""
    steps: int = 500
    """steps of random actions in which the scales of observations and rewards are measured"""
    seed: int = 0
    """seed of the environment and of the actions"""


@dataclass(frozen=True)
class ListArgs:
    """List the algorithms, the environments that have settings of their own, and the noises."""

    what: tyro.conf.Positional[Literal["all", "algorithms", "environments", "noises"]] = "all"
    """what to list"""
