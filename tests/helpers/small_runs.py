"""Comparisons and studies that take a second: small networks, few steps, environments of :mod:`comparison_envs`."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from sb3_ddpg_ext.arguments import CompareArgs, TuneArgs
from sb3_ddpg_ext.noise import NOISES
from sb3_ddpg_ext.settings import NoiseSettings, Settings
from sb3_ddpg_ext.tuning import search
from sb3_ddpg_ext.tuning.storage import Job
from sb3_ddpg_ext.tuning.study import connect, prepare

TINY = "policy_kwargs={net_arch: [8]},learning_starts=100,batch_size=8,buffer_size=1000"
TINY_PARAMS = (
    "policy_kwargs={net_arch: [8]}",
    "learning_starts=50",
    "batch_size=8",
    "buffer_size=1000",
    "train_freq=1",
    "gradient_steps=1",
)
CUSTOM, DDPG = f"custom_ddpg:{TINY}", f"ddpg:{TINY}"
FIXED = ("policy_kwargs={net_arch: [8]}", "learning_starts=50", "buffer_size=1000", "train_freq=1")


def compare_arguments(
    log_dir: Path, algos: Sequence[str] = (CUSTOM,), env: str = "Quick", **kwargs: Any
) -> CompareArgs:
    """:return: The arguments of a comparison in this process; ``env`` has names of :mod:`comparison_envs`"""
    envs = ",".join(f"comparison_envs:{name}-v0" for name in env.split(","))
    defaults = {"seeds": 1, "steps": 300, "eval_freq": 100, "eval_episodes": 10, "workers": 0}
    return CompareArgs(",".join(algos), envs, log_dir=log_dir, **{**defaults, **kwargs})


def tune_arguments(log_dir: Path, env: str = "comparison_envs:Quick-v0", **kwargs: Any) -> TuneArgs:
    """:return: The arguments of a search in this process"""
    defaults = {"trials": 3, "steps": 120, "seeds": 1, "eval_freq": 60, "eval_episodes": 1, "workers": 0, "fix": FIXED}
    return TuneArgs(env, log_dir=log_dir, **{**defaults, **kwargs})


def tune(args: TuneArgs) -> tuple[Job, list[FrozenTrial]]:
    """:return: Where the study is that was searched, and its trials"""
    job, _ = prepare(args)
    search.search(job, workers=args.workers)
    return job, connect(job)[0].trials


def noise_of(settings: Settings) -> tuple[Any, Any, dict[str, Any]]:
    """The type, the standard deviation and the other arguments of the noise, with the defaults of its class."""
    noise = settings.noise or NoiseSettings(None)
    if noise.type is None or noise.type not in NOISES:
        return noise.type, noise.std, dict(noise.kwargs)
    defaults = {name: p.default for name, p in inspect.signature(NOISES[noise.type]).parameters.items()}
    std = defaults.pop("std")
    return noise.type, std if noise.std is None else noise.std, {**defaults, **noise.kwargs}
