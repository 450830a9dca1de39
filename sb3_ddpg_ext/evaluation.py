"""Plays episodes with a saved model and the VecNormalize statistics that were saved with it."""

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import gymnasium as gym
from gymnasium.wrappers import RecordVideo
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_ddpg_ext.arguments import EvaluateArgs
from sb3_ddpg_ext.building import make_env
from sb3_ddpg_ext.episodes import score
from sb3_ddpg_ext.errors import SettingsError, UntrustedFileError, on_the_command_line, one_line, require
from sb3_ddpg_ext.files import make_directory
from sb3_ddpg_ext.imports import check_env_origin
from sb3_ddpg_ext.protocol import EVAL_ENVS
from sb3_ddpg_ext.results.records import Score
from sb3_ddpg_ext.run_arguments import arguments_file, check_device, check_max_steps, set_threads, settings_beside
from sb3_ddpg_ext.safe_files.algorithm import is_saved_as_data
from sb3_ddpg_ext.safe_files.loading import load_model
from sb3_ddpg_ext.settings import Settings, algorithm_class, parse_settings, read_yaml


@dataclass(frozen=True)
class SavedModel:
    """
    A model file, and what is needed to use it.

    :param path: The zip file
    :param vecnormalize: Its VecNormalize statistics; None if there are none
    :param algo: Name of its algorithm
    :param env: Id of its environment
    :param settings: The settings it was trained with
    """

    path: Path
    vecnormalize: Path | None
    algo: str
    env: str
    settings: Settings

    def load(self, env: VecEnv, device: str = "auto", *, trusted: bool = False) -> OffPolicyAlgorithm:
        """
        Load the model.

        :param env: The environment to act in
        :param device: Device of PyTorch
        :param trusted: Whether code from the file may be run
        :return: The model
        :raises SettingsError: If the file is damaged, or of another algorithm or environment; or if code from it would
            have to be run
        """
        algorithm = algorithm_class(self.algo)
        try:
            if is_saved_as_data(algorithm):
                return load_model(algorithm, self.path, env, device, trusted=trusted)
            if not trusted:
                raise UntrustedFileError(
                    f"{self.path} is of {self.algo}, whose files are pickles, and loading it runs code from the file; "
                    "pass trusted=True if you trust whoever made it"
                )
            return algorithm.load(self.path, env=env, device=device)
        except UntrustedFileError as error:
            raise SettingsError(on_the_command_line(error)) from error
        except Exception as error:  # unpickling a damaged or foreign file can raise anything
            raise SettingsError(f"{self.path} cannot be loaded as {self.algo} for {self.env}: {error!r}") from error


def find_model(
    path: Path,
    which: Literal["best", "last"] = "best",
    algo: str | None = None,
    env: str | None = None,
    *,
    trusted: bool = False,
) -> SavedModel:
    """
    Find a model and the VecNormalize statistics that were saved with it.

    :param path: A run directory, or a model file inside or outside of one
    :param which: Which model of a run directory
    :param algo: Its algorithm; required for a file that is not in a run directory
    :param env: Its environment; required likewise
    :param trusted: Whether its settings may import modules that lie in the run directory
    :return: The model with its settings
    :raises SettingsError: If there is no such model, or one of its files is missing
    """
    if not path.exists():
        raise SettingsError(f"{path} does not exist; expected a run directory or a model's .zip file")
    directory = path if path.is_dir() else path.parent
    args_file = arguments_file(directory)
    if args_file is None:
        if path.is_dir():
            raise SettingsError(f"{path} is not a run directory: it holds no */args.yml")
        if algo is None or env is None:
            raise SettingsError(f"{path} is not in a run directory: say --algo and --env")
        settings = parse_settings(algo, {"n_timesteps": 1}, path.name)
        statistics = _without_pickle(path.with_name(f"{path.stem}_vecnormalize.pkl"))
        return SavedModel(path, statistics if statistics.exists() else None, algo, env, settings)

    args = read_yaml(args_file)
    not_from = None if trusted else directory
    if env is None:
        env = str(args.get("env"))
        check_env_origin(env, not_from)
    algo = algo or str(args.get("algo"))
    settings = settings_beside(args_file, args, algo, not_from)
    name = args_file.parent.name
    if path.is_dir():
        path = directory / ("best_model.zip" if which == "best" else f"{name}.zip")
        if not path.exists():
            raise SettingsError(
                f"{directory} holds no {which} model ({path.name}); try --model {'last' if which == 'best' else 'best'}"
            )
    if settings.normalize is None:
        return SavedModel(path, None, algo, env, settings)
    is_last_model = path.stem == name or "conf_file" in args  # RL Zoo keeps the last statistics only
    statistics = (
        args_file.with_name("vecnormalize.pkl") if is_last_model else path.with_name(f"{path.stem}_vecnormalize.pkl")
    )
    statistics = _without_pickle(statistics)
    if not statistics.exists():
        raise SettingsError(f"{path} was trained with VecNormalize, but its statistics {statistics} are missing")
    return SavedModel(path, statistics, algo, env, settings)


def _without_pickle(statistics: Path) -> Path:
    """:return: The file of the same statistics that can be read without running code from it, if there is one"""
    plain = statistics.with_suffix(".json")
    return plain if plain.exists() else statistics


def evaluate(args: EvaluateArgs) -> tuple[Path, Score]:
    """
    Play episodes with a saved model.

    :param args: Which model, and how to play it
    :return: The model's file, and the score
    :raises SettingsError: If a setting is wrong, or the model cannot be loaded or shown
    """
    if args.episodes < 1:
        raise SettingsError(f"--episodes must be 1 or more, got {args.episodes}")
    if args.render and args.video is not None:
        raise SettingsError("--render and --video exclude each other; choose one")
    check_max_steps(args.eval_max_steps)
    set_threads(args.threads)
    check_device(args.device)
    saved = find_model(args.run_or_model, args.model, args.algo, args.env, trusted=args.trusted)
    settings, is_new = saved.settings, False
    if args.video is not None:
        require("moviepy", "video")
        make_directory(args.video, "--video")
        is_new = not any(args.video.iterdir())
        recording = {
            "video_folder": str(args.video),
            "episode_trigger": lambda episode: episode < args.episodes,
            "name_prefix": saved.path.stem,
            "disable_logger": True,
        }
        settings = replace(settings, env_wrapper=(*settings.env_wrapper, (RecordVideo, recording)))
    render_mode = "human" if args.render else None if args.video is None else "rgb_array"
    with warnings.catch_warnings():
        if is_new:
            warnings.filterwarnings("ignore", ".*Overwriting existing videos")
        env = make_env(
            saved.env,
            settings,
            n_envs=1 if args.render or args.video else min(EVAL_ENVS, args.episodes),
            seed=args.seed,
            training=False,
            vecnormalize=saved.vecnormalize,
            trusted=args.trusted,
            render_mode=render_mode,
            max_steps=args.eval_max_steps,
        )
    try:
        if render_mode is not None:
            _check_render_mode(saved.env, env, render_mode)
        model = saved.load(env, args.device, trusted=args.trusted)
        result = score(model, env, args.episodes, args.seed, deterministic=not args.stochastic, render=args.render)
    except gym.error.Error as error:  # such as a package that rendering needs
        raise SettingsError(f"environment {saved.env!r}: {one_line(error)}") from error
    finally:
        env.close()
    return saved.path, result


def _check_render_mode(env_id: str, env: VecEnv, mode: str) -> None:
    modes = (env.get_attr("metadata")[0] or {}).get("render_modes") or []
    if mode not in modes:
        option = "--render" if mode == "human" else "--video"
        has = f"only {', '.join(map(str, modes))}" if modes else "none"
        raise SettingsError(
            f"environment {env_id!r}: {option} needs the render mode {mode!r}; its metadata['render_modes'] has {has}"
        )
