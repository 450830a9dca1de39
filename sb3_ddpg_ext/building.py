"""Settings -> vectorized environments and models. An error names the environment or the algorithm in one line."""

import contextlib
import copy
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.env_util import make_vec_env, unwrap_wrapper
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import ActionNoise, NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecNormalize
from torch.optim import Adam

from sb3_ddpg_ext.ddpg import CustomDDPG
from sb3_ddpg_ext.env_checks import inside_monitor, vectorized
from sb3_ddpg_ext.errors import (
    FaultyEnvironmentError,
    SettingsError,
    UntrustedFileError,
    is_full_disk,
    on_the_command_line,
    unknown,
    unusable_action_space,
)
from sb3_ddpg_ext.imports import load_attribute, why_not_made
from sb3_ddpg_ext.noise import NOISES
from sb3_ddpg_ext.safe_files.statistics import load_vecnormalize
from sb3_ddpg_ext.settings import NoiseSettings, Settings, algorithm_class

SB3_NOISES: Mapping[str, Callable[..., ActionNoise]] = {
    "normal": NormalActionNoise,
    "ornstein-uhlenbeck": OrnsteinUhlenbeckActionNoise,
}
"""The names of RL Zoo's ``noise_type``, and the classes that they stand for in RL Zoo."""


def make_env(
    env_id: str,
    settings: Settings,
    n_envs: int,
    seed: int,
    *,
    vec_env: str = "dummy",
    training: bool = True,
    monitor_dir: Path | None = None,
    append: bool = False,
    vecnormalize: Path | None = None,
    trusted: bool = False,
    render_mode: str | None = None,
    max_steps: int | None = None,
) -> VecEnv:
    """
    Build the vectorized environment that the settings describe, with wrappers in RL Zoo's order; but frames are stacked
    before they are normalised, since SB3's replay buffers store the observations that ``VecNormalize`` was given.

    :param env_id: Id of a Gymnasium environment with a continuous action space, or ``module:Class``
    :param settings: wrappers, their arguments, normalisation and frame stack
    :param n_envs: Number of environments
    :param seed: The first environment's seed, the others' follow
    :param vec_env: ``"dummy"`` or ``"subproc"``
    :param training: Whether ``VecNormalize`` updates its statistics and normalises rewards
    :param monitor_dir: Where to log episodes
    :param append: Whether to add them to the files that are there
    :param vecnormalize: File of statistics to start from
    :param trusted: Whether code from that file may be run
    :param render_mode: Render mode of the environments; if not given, that of ``env_kwargs``, if any
    :param max_steps: Ends episodes after so many steps, if they have not ended by then; None or 0 leaves them alone
    :return: The environment
    :raises SettingsError: If it cannot be built, or if DDPG and its kin cannot act in it
    :raises FaultyEnvironmentError: If it cannot be built in a process of its own
    :raises OSError: If the disk is full
    """

    def vectorize(env_fns: Sequence[Callable[[], gym.Env[Any, Any]]]) -> VecEnv:
        name = f"{'' if training else 'evaluation '}environment {env_id!r}"
        subprocesses = vec_env == "subproc"
        return vectorized(
            env_fns, name=name, monitor_dir=monitor_dir, subprocesses=subprocesses, max_steps=max_steps or None
        )

    render = {} if render_mode is None else {"render_mode": render_mode}
    try:
        env: VecEnv = make_vec_env(
            # From an id, SB3 makes an environment that can be rendered. LunarLander's steps take much longer then
            _env_class(env_id) or partial(gym.make, env_id),
            n_envs,
            seed,
            monitor_dir=None if monitor_dir is None else str(monitor_dir),
            wrapper_class=partial(_wrap, settings=settings),
            env_kwargs={**settings.env_kwargs, **render},
            vec_env_cls=cast(Any, vectorize),
            monitor_kwargs={**settings.monitor_kwargs, **({"override_existing": False} if append else {})},
        )
        if (wrong := wrong_action_space(env.action_space)) is not None:
            raise SettingsError(f"environment {env_id!r} has {wrong}")
        for wrapper, kwargs in settings.vec_env_wrapper:
            env = wrapper(env, **kwargs)
        if settings.frame_stack is not None:
            env = VecFrameStack(env, settings.frame_stack)
        if vecnormalize is not None:
            env = _load_statistics(vecnormalize, env, trusted)
        elif settings.normalize is not None:
            env = VecNormalize(env, **settings.normalize)
        if not training and isinstance(env, VecNormalize):
            env.training, env.norm_reward = False, False
        # The model does this with its training environment, for images; the one for evaluation must be the same
        return OffPolicyAlgorithm._wrap_env(env)
    except (SettingsError, FaultyEnvironmentError):
        raise
    except Exception as error:  # whatever environments and wrappers raise
        if is_full_disk(error):
            raise
        raise _not_made(env_id, settings, error) from error


def make_single_env(env_id: str, settings: Settings) -> gym.Env[Any, Any]:
    """
    Build one environment as it is, with the wrappers of the settings, but without any of the checks around it.

    :param env_id: Id of a Gymnasium environment, or ``module:Class``
    :param settings: wrappers and arguments
    :return: The environment
    :raises SettingsError: If it cannot be built
    """
    try:
        make = _env_class(env_id) or partial(gym.make, env_id, disable_env_checker=True)
        return _wrap(make(**settings.env_kwargs), settings)
    except SettingsError:
        raise
    except (Exception, SystemExit) as error:  # whatever environments and wrappers raise
        raise _not_made(env_id, settings, error) from error


def _wrap(env: gym.Env[Any, Any], settings: Settings) -> gym.Env[Any, Any]:
    for wrapper, kwargs in settings.env_wrapper:
        env = inside_monitor(env, TimeLimit, **kwargs) if wrapper is TimeLimit else wrapper(env, **kwargs)
    return env


def _not_made(env_id: str, settings: Settings, error: BaseException) -> SettingsError:
    wrappers = [wrapper for wrapper, _ in (*settings.env_wrapper, *settings.vec_env_wrapper)]
    why = why_not_made(error, [_registered_class(env_id), *wrappers, VecNormalize, Monitor])
    return SettingsError(f"environment {env_id!r}: {why}")


def _env_class(env_id: str) -> type[gym.Env[Any, Any]] | None:
    """
    Import a class that nobody has registered.

    :param env_id: ``module:Class``
    :return: The class; None if Gymnasium knows the id, or can say best what is wrong with it
    :raises SettingsError: If the name is something else, or if the module has only other environments
    """
    module, _, name = env_id.rpartition(":")
    if not (module and name.isidentifier()):
        return None
    try:
        content = vars(importlib.import_module(module))
    except ModuleNotFoundError:
        return None
    if name in gym.registry:  # exactly so: a class Pendulum is not Gymnasium's Pendulum-v1
        return None
    target = content.get(name)
    if inspect.isclass(target) and issubclass(target, gym.Env):
        return target
    if target is not None:
        raise SettingsError(f"expected a subclass of gymnasium's Env, got {env_id!r}")
    classes = {key: value for key, value in content.items() if inspect.isclass(value) and value.__module__ == module}
    if envs := [key for key, value in classes.items() if issubclass(value, gym.Env)]:
        raise SettingsError(f"{module}: {unknown('environment', name, envs)}")
    return None


def _registered_class(env_id: str) -> Any:
    """:return: What Gymnasium or :func:`_env_class` makes an environment with; None if it is not known"""
    with contextlib.suppress(Exception):  # imports can raise anything
        target = _env_class(env_id) or gym.spec(env_id.split(":")[-1]).entry_point
        return load_attribute(target) if isinstance(target, str) else target
    return None


def _load_statistics(file: Path, env: VecEnv, trusted: bool) -> VecNormalize:
    try:
        return load_vecnormalize(file, env, trusted=trusted)
    except UntrustedFileError as error:
        raise SettingsError(on_the_command_line(error)) from error
    except Exception as error:  # unpickling a damaged or foreign file can raise anything
        raise SettingsError(f"{file} cannot be loaded as VecNormalize statistics: {error!r}") from error


def wrong_action_space(space: spaces.Space[Any]) -> str | None:
    """:return: What DDPG and its kin cannot do with an action space, None if they can act in it"""
    if not isinstance(space, spaces.Box):
        return (
            f"the action space {space}, but a continuous one (Box) is needed; Stable-Baselines3's DQN and PPO act in "
            "discrete ones"
        )
    reason = unusable_action_space(space)
    return None if reason is None else f"the action space {space}, but {reason}"


def without_time_limit(env: gym.Env[Any, Any]) -> bool:
    """:return: Whether nothing around an environment ends its episodes"""
    return unwrap_wrapper(env, TimeLimit) is None


def make_model(settings: Settings, algo: str, env: VecEnv, **kwargs: Any) -> OffPolicyAlgorithm:
    """
    Build an algorithm with its settings, exploration noise included.

    :param settings: Hyperparameters and noise
    :param algo: Name of the algorithm
    :param env: The environment to learn from
    :param kwargs: Further arguments of the constructor: seed, device, tensorboard_log
    :return: The model
    :raises SettingsError: If the noise or the constructor refuses its arguments
    """
    algorithm = algorithm_class(algo)
    try:
        if settings.noise is not None:
            kwargs["action_noise"] = _make_noise(settings.noise, issubclass(algorithm, CustomDDPG), env.action_space)
        # SB3 writes into dicts it is given
        return algorithm(env=env, **copy.deepcopy(dict(settings.hyperparams)), **kwargs)
    except Exception as error:  # constructors check their arguments in many ways
        raise SettingsError(f"{algo}: {why_not_made(error, _classes(algorithm, settings))}") from error


def _classes(algorithm: type[OffPolicyAlgorithm], settings: Settings) -> list[Any]:
    """:return: What a model consists of, as far as settings have arguments for it"""
    policy, kwargs = settings.hyperparams["policy"], settings.hyperparams.get("policy_kwargs") or {}
    return [
        algorithm.policy_aliases.get(policy, policy),
        settings.hyperparams.get("replay_buffer_class") or ReplayBuffer,
        *(kwargs.get(key) for key in ("features_extractor_class", "critic_optimizer_class")),
        kwargs.get("optimizer_class", Adam),
        *SB3_NOISES.values(),
    ]


def _make_noise(noise: NoiseSettings, custom: bool, space: spaces.Space[Any]) -> ActionNoise | Mapping[str, Any] | None:
    if noise.type is None:
        return None
    std = {} if noise.std is None else {"std": noise.std}
    if custom and noise.type in NOISES:
        return {"type": noise.type, **std, **noise.kwargs}
    # SB3's own noise, also for CustomDDPG with the settings of another algorithm
    if noise.type not in SB3_NOISES:
        raise SettingsError(f"the noise {noise.type!r} is CustomDDPG's; here it is {' or '.join(SB3_NOISES)}")
    if "schedule" in noise.kwargs:
        raise SettingsError("a schedule of noise is CustomDDPG's; leave it out with noise_kwargs={}")
    sigma = std.get("std", 0.1) * np.ones(space.shape or 1)
    return SB3_NOISES[noise.type](np.zeros_like(sigma), sigma, **noise.kwargs)
