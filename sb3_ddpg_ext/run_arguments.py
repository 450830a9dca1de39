"""What a run is to do: the arguments of ``sb3-ddpg train``, what can be wrong with them, and their files."""

import contextlib
import json
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch as th
import yaml
from pydantic import TypeAdapter, ValidationError
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from sb3_ddpg_ext.arguments import TrainArgs
from sb3_ddpg_ext.building import make_env, make_model, without_time_limit
from sb3_ddpg_ext.checking import HOW_TO_LIMIT, first_look
from sb3_ddpg_ext.conversion import why_invalid
from sb3_ddpg_ext.errors import SettingsError, one_line, require
from sb3_ddpg_ext.files import atomic
from sb3_ddpg_ext.imports import check_env_origin
from sb3_ddpg_ext.protocol import EVAL_SEED, FINAL_SEED, LOOK_SEED
from sb3_ddpg_ext.results.records import Protocol, RunIdentity
from sb3_ddpg_ext.settings import Settings, load_settings, parse_settings, read_yaml
from sb3_ddpg_ext.tracking import check_tracker

_PRODUCTS_OF_ONE_THREAD = (
    10_000_000  # transitions of a minibatch x weights of the actor; docs/speed.md has the measurement
)


def env_name(env_id: str) -> str:
    """:return: The id of an environment as a file name: without the module, and ``/`` replaced as RL Zoo does"""
    return env_id.split(":")[-1].replace("/", "-")


def settings_of(args: TrainArgs) -> Settings:
    """
    Read the settings that the arguments of a run ask for.

    :param args: What to train, and how
    :return: The settings
    :raises SettingsError: If they cannot be used
    """
    overrides = [*args.params]
    overrides += [] if args.steps is None else [f"n_timesteps={args.steps}"]
    overrides += [] if args.n_envs is None else [f"n_envs={args.n_envs}"]
    return load_settings(args.algo, args.env, args.hyperparams, overrides)


def eval_freq(args: TrainArgs, settings: Settings) -> int:
    """:return: Environment steps between two evaluations, 0 for none"""
    return max(settings.n_timesteps // 20, 1) if args.eval_freq is None else args.eval_freq


def check(args: TrainArgs, settings: Settings) -> None:
    """
    Find everything that can be wrong with the arguments of a run before anything is written.

    :param args: What to train, and how
    :param settings: Its settings
    :raises SettingsError: For anything that the caller has to mend
    :raises FaultyEnvironmentError: If the environment fails in its first step
    :raises NonFiniteError: If what it returns there is not finite
    """
    if args.eval_episodes < 1:
        raise SettingsError(f"--eval-episodes must be 1 or more, got {args.eval_episodes}")
    if args.eval_freq is not None and args.eval_freq < 0:
        raise SettingsError(f"--eval-freq must be 0 (for no evaluations) or more, got {args.eval_freq}")
    check_max_steps(args.eval_max_steps)
    set_threads(args.threads)
    check_device(args.device)
    if args.checkpoint_freq is not None and args.checkpoint_freq < 0:
        raise SettingsError(f"--checkpoint-freq must be 0 (for none) or more, got {args.checkpoint_freq}")
    if args.tensorboard:
        require("tensorboard", "tensorboard")
    if args.track is not None:
        check_tracker(args.track)
    if not args.quiet:
        require("rich", "train")
    make_callbacks(settings)
    with contextlib.closing(make_env(args.env, settings, 1, args.seed)) as env:
        make_model(settings, args.algo, env, seed=args.seed, device=args.device)
        _look_at(args, env)


def check_max_steps(steps: int) -> None:
    """
    :param steps: Steps after which an episode of an evaluation is cut off
    :raises SettingsError: If it is negative
    """
    if steps < 0:
        raise SettingsError(f"--eval-max-steps must be 0 (for never) or more, got {steps}")


def _look_at(args: TrainArgs, env: VecEnv) -> None:
    """The part of ``sb3-ddpg check`` that takes no longer than a reset and a step."""
    (single,) = cast(DummyVecEnv, env.unwrapped).envs
    found = first_look(single, LOOK_SEED)
    if without_time_limit(single):
        cut = f"are cut off after {args.eval_max_steps:,} steps" if args.eval_max_steps else "do not end"
        warnings.warn(
            f"{args.env} has no time limit. If it does not end its episodes itself, those of an evaluation {cut}. Set "
            f"one with {HOW_TO_LIMIT}",
            stacklevel=2,
        )
    for warning in found:
        warnings.warn(f"{args.env}: {warning}", stacklevel=2)


def check_is_evaluated(args: TrainArgs, settings: Settings) -> None:
    """
    :param args: What to train, and how
    :param settings: Its settings
    :raises SettingsError: If there is no evaluation during the run
    """
    freq = eval_freq(args, settings)
    if not 1 <= freq <= settings.n_timesteps:
        raise SettingsError(f"--eval-freq must be from 1 to {settings.n_timesteps} steps, got {freq}")


def set_threads(threads: int | None) -> None:
    """
    Set PyTorch's number of threads.

    :param threads: How many; None changes nothing
    :raises SettingsError: If it is not positive
    """
    if threads is not None:
        if threads < 1:
            raise SettingsError(f"--threads must be 1 or more, got {threads}")
        th.set_num_threads(threads)


@contextlib.contextmanager
def threads_kept() -> Iterator[None]:
    """In the end, PyTorch has the threads that it had before."""
    before = th.get_num_threads()
    try:
        yield
    finally:
        th.set_num_threads(before)


def choose_threads(threads: int | None, model: OffPolicyAlgorithm) -> None:
    """
    Use one thread of PyTorch for a small network on the CPU, where a second one gains nothing, and costs many times the
    update wherever something else runs on its core.

    :param threads: What was asked for, which is left as it is; None if nothing was
    :param model: The model to train
    """
    actor = getattr(model, "actor", None)
    if threads is not None or model.device.type != "cpu" or not isinstance(actor, th.nn.Module):
        return
    if model.batch_size * sum(weights.numel() for weights in actor.parameters()) < _PRODUCTS_OF_ONE_THREAD:
        th.set_num_threads(1)


def check_device(device: str) -> None:
    """
    Refuse a GPU that this machine does not have. SB3 would use the CPU instead, without a warning.

    :param device: As PyTorch names it, or auto
    :raises SettingsError: If there is none
    """
    if device.startswith("cuda") and not th.cuda.is_available():
        raise SettingsError(f"--device {device}: PyTorch finds no CUDA device; use --device cpu, or auto")


def make_callbacks(settings: Settings) -> list[BaseCallback]:
    """
    :param settings: Settings of a run
    :return: New callbacks, as they say
    :raises SettingsError: If one refuses its arguments
    """
    try:
        return [callback(**kwargs) for callback, kwargs in settings.callback]
    except Exception as error:  # constructors check their arguments in many ways
        raise SettingsError(f"callback: {one_line(error)}") from error


def identity(args: TrainArgs, settings: Settings, label: str) -> RunIdentity:
    """
    :param args: What to train, and how
    :param settings: Its settings
    :param label: What the user calls this algorithm with these settings
    :return: What the run is: runs with equal identities are the same run
    """
    return RunIdentity(
        label=label,
        algo=args.algo,
        env=args.env,
        seed=args.seed,
        planned_steps=settings.n_timesteps,
        # As it will be read back from the file. JSON has no infinities, which YAML has
        settings=json.loads(json.dumps(settings.raw, default=str), parse_constant=str),
        protocol=Protocol(eval_freq(args, settings), args.eval_episodes, (EVAL_SEED, FINAL_SEED), args.eval_max_steps),
        vec_env=args.vec_env,
        threads=args.threads or th.get_num_threads(),
    )


def write_arguments(directory: Path, args: TrainArgs, settings: Settings, label: str) -> None:
    """
    Write the files from which RL Zoo, :mod:`sb3_ddpg_ext.evaluation` and :func:`read_arguments` know what was trained.

    :param directory: Where, which is made if need be
    :param args: What is trained, and how
    :param settings: Its settings
    :param label: What the user calls this algorithm with these settings
    """
    arguments = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(args).items()}
    arguments |= {"label": label, "params": list(args.params)}
    # RL Zoo's scripts look for these here
    arguments["env_kwargs"] = json.loads(json.dumps(dict(settings.env_kwargs), default=str)) or None
    directory.mkdir(exist_ok=True)
    for file, content in (("config.yml", dict(settings.raw)), ("args.yml", arguments)):
        with atomic(directory / file) as partial:
            partial.write_text(yaml.safe_dump(content))


def arguments_file(directory: Path) -> Path | None:
    """:return: The file with the arguments of a run; None if the directory is not one of a run"""
    return next(iter(sorted(directory.glob("*/args.yml"))), None)


def settings_beside(file: Path, arguments: Mapping[str, Any], algo: str, not_from: Path | None) -> Settings:
    """
    Read the settings of a run.

    :param file: The file with its arguments
    :param arguments: What it holds; RL Zoo's has the ``env_kwargs`` of its command line
    :param algo: Name of its algorithm
    :param not_from: A directory that no modules are taken from
    :return: The settings
    :raises SettingsError: If they cannot be used
    """
    config_file = file.with_name("config.yml")
    of_the_command_line = {"env_kwargs": given} if (given := arguments.get("env_kwargs")) else {}
    return parse_settings(algo, of_the_command_line | read_yaml(config_file), str(config_file), not_from)


def read_arguments(directory: Path) -> tuple[TrainArgs, Settings, str]:
    """
    Read what a run was to do.

    :param directory: Its directory
    :return: Its arguments, its settings, and its label
    :raises SettingsError: If it is no run directory, or its files are damaged
    """
    file = arguments_file(directory)
    if file is None:
        raise SettingsError(f"{directory} is not a run directory: it holds no */args.yml")
    content = read_yaml(file)
    try:
        args = TypeAdapter(TrainArgs).validate_python(content)
    except ValidationError as error:
        raise SettingsError(f"{file}: {why_invalid(error)}") from error
    check_env_origin(args.env, directory)
    settings = settings_beside(file, content, args.algo, directory)
    return args, settings, str(content.get("label", args.algo))
