"""
One training run: settings -> environments, model, learn -> one run directory with one result record.

The directory has RL Zoo's layout, ``<log_dir>/<algo>/<env>_<n>/``:

===========================  ==========================================================================
``<env>.zip``                the last model; its VecNormalize statistics in ``<env>/vecnormalize.json``
``best_model.zip``           the model of the best evaluation; ``best_model_vecnormalize.json`` beside it
``*vecnormalize.pkl``        the same statistics for RL Zoo's tools
``evaluations.npz``          the evaluations during training (``timesteps``, ``results``, ``ep_lengths``)
``0.monitor.csv``            the episodes of training, one file for each environment
``progress.csv``             what was logged, in SB3's format
``<env>/config.yml``         the settings, which :func:`sb3_ddpg_ext.settings.parse_settings` reads again
``<env>/args.yml``           the arguments of the run
``checkpoints/``             what an unfinished run goes on from
``result.json``              what came out: scores, times, versions, machine
``<tracker>_id.txt``         with ``track``: which run of wandb, MLflow or Trackio it is; ``wandb/``: what wandb writes
===========================  ==========================================================================
"""

import contextlib
import math
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv, sync_envs_normalization

from sb3_ddpg_ext.arguments import TrainArgs
from sb3_ddpg_ext.building import make_env, make_model
from sb3_ddpg_ext.callbacks import (
    CHECKPOINTS,
    Checkpoints,
    Evaluation,
    InterruptedEvaluationError,
    StopOnSignal,
    TrainingClock,
    save_model,
)
from sb3_ddpg_ext.checkpoint import CheckpointError, InexactResumeWarning, has_checkpoints, record_episodes
from sb3_ddpg_ext.episodes import score
from sb3_ddpg_ext.errors import SettingsError
from sb3_ddpg_ext.files import LOCK, lock, remove_partial
from sb3_ddpg_ext.log_file import LogFile
from sb3_ddpg_ext.progress import ProgressBar
from sb3_ddpg_ext.protocol import EVAL_ENVS, EVAL_SEED, FINAL_SEED
from sb3_ddpg_ext.results.provenance import machine, versions
from sb3_ddpg_ext.results.records import Evaluations, RunIdentity, RunRecord, Score, Seconds
from sb3_ddpg_ext.results.result_file import read_run, write_record
from sb3_ddpg_ext.run_arguments import (
    check,
    choose_threads,
    env_name,
    eval_freq,
    identity,
    make_callbacks,
    read_arguments,
    set_threads,
    settings_of,
    threads_kept,
    write_arguments,
)
from sb3_ddpg_ext.safe_files.algorithm import is_saved_as_data
from sb3_ddpg_ext.settings import Settings, algo_name, algorithm_class
from sb3_ddpg_ext.tracking import Tracking

_STEPS_BETWEEN_CHECKPOINTS = 1_000  # at least: a shorter part of a run is trained again as fast as it is restored


@contextlib.contextmanager
def _children_ignore_ctrl_c() -> Iterator[None]:
    """A terminal sends Ctrl-C to all processes of a command. Those started in this block leave it to their parent."""
    try:
        handler_before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler_before)


def train(args: TrainArgs) -> RunRecord:
    """
    Train one model, in a new run directory or, with ``args.resume``, in that of a run that was ended. If that one is
    finished, nothing is done.

    :param args: What to train, and how
    :return: The record, as written to ``result.json``; its ``directory`` is the run directory
    :raises SettingsError: For anything that the caller has to mend before training begins
    :raises Exception: Whatever training raises, with an attribute ``run_directory``; the record there has it, too
    """
    resumes = args.resume is not None
    if args.resume is not None:
        directory, (args, settings, label) = args.resume, _arguments_to_resume(args, args.resume)
    elif not args.env:
        raise SettingsError("say --env, the environment to train on, or --resume, the directory of a run to go on with")
    else:
        settings, label = settings_of(args), args.algo
    check(args, settings)
    if not resumes:
        directory = _make_run_directory(args.log_dir / algo_name(args.algo), env_name(args.env))
    (directory / CHECKPOINTS).mkdir(exist_ok=True)
    with lock(directory / CHECKPOINTS, wait=False) as acquired:
        if not acquired:
            raise SettingsError(f"{directory}: another process is training this run")
        remove_partial(directory)
        if resumes and (record := read_run(directory)).is_finished:
            shutil.rmtree(directory / CHECKPOINTS, ignore_errors=True)
            return record
        return _train_locked(directory, args, settings, label, resumes)


def _arguments_to_resume(args: TrainArgs, directory: Path) -> tuple[TrainArgs, Settings, str]:
    if replace(args, resume=None, quiet=False) != TrainArgs():
        raise SettingsError("a run that is resumed keeps its arguments: beside --resume only --quiet can be given")
    began, settings, label = read_arguments(directory)
    return replace(began, quiet=args.quiet), settings, label


def _train_locked(directory: Path, args: TrainArgs, settings: Settings, label: str, resumes: bool) -> RunRecord:
    tracking = None
    if args.track is not None:
        tracking = Tracking(
            args.track, directory, lambda: asdict(identity(args, settings, label)) | {"device": args.device}
        )
    try:
        with StopOnSignal() as stop, threads_kept():
            record = train_in(directory, args, settings, label=label, stop=stop, resume=resumes, tracking=tracking)
            if tracking is not None:
                tracking.end(record.status, None if record.score is None else record.score.mean)
            return record
    except CheckpointError as error:
        raise SettingsError(f"{directory} cannot be resumed: {error}") from error
    except (Exception, SystemExit) as error:
        with contextlib.suppress(OSError):  # the error may have been a full disk
            write_record(RunRecord.of_failure(identity(args, settings, label), directory, error))
        if tracking is not None:
            tracking.end("failed")
        vars(error)["run_directory"] = directory
        raise


def can_resume(directory: Path, run: RunIdentity) -> bool:
    """
    :param directory: A run directory
    :param run: What is to be done
    :return: Whether it has checkpoints of this very run, which was killed: it came to no end of its own
    """
    if not has_checkpoints(directory / CHECKPOINTS) or read_run(directory).status != "not finished":
        return False
    try:
        args, settings, label = read_arguments(directory)
    except SettingsError:
        return False
    return not run.differences(identity(args, settings, label))


def train_from_last_checkpoint(
    directory: Path, args: TrainArgs, settings: Settings, *, label: str, resume: bool, **kwargs: Any
) -> RunRecord:
    """
    Train one model as :func:`train_in`: from the last checkpoint if this very run was killed, and otherwise from
    scratch. It is from scratch, too, if training would not go on exactly as it would have, since the result of a
    comparison must not depend on that.

    :param directory: The run directory, which is cleared if the run begins from scratch
    :param args: What to train, and how
    :param settings: Its settings
    :param label: What the user calls this algorithm with these settings
    :param resume: False to begin from scratch in any case
    :param kwargs: Further arguments of ``train_in``
    :return: The record
    """
    if resume and can_resume(directory, identity(args, settings, label)):
        remove_partial(directory)
        with contextlib.suppress(CheckpointError, InexactResumeWarning), warnings.catch_warnings():
            warnings.simplefilter("error", InexactResumeWarning)
            return train_in(directory, args, settings, label=label, resume=True, **kwargs)
    for path in directory.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()
    return train_in(directory, args, settings, label=label, **kwargs)


def train_in(
    directory: Path,
    args: TrainArgs,
    settings: Settings,
    *,
    label: str,
    stop: StopOnSignal,
    resume: bool = False,
    on_evaluation: Callable[[Evaluations], object] = lambda _: None,
    tracking: Tracking | None = None,
) -> RunRecord:
    """
    Train one model in a directory that exists and that nobody else writes to. The record is written last.

    :param directory: The run directory
    :param args: What to train, and how
    :param settings: Its settings
    :param label: What the user calls this algorithm with these settings
    :param stop: Ends the run early when a signal arrives
    :param resume: Whether to go on from the last checkpoint in the directory, if there is one
    :param on_evaluation: Called after each evaluation with all of them so far; an exception from it ends the run
        without a record
    :param tracking: Where what is logged is sent as well
    :return: The record
    :raises CheckpointError: If no checkpoint is intact
    :raises NonFiniteError: If a return of an evaluation, or a number that CustomDDPG receives or computes, is not
        finite
    :raises FaultyEnvironmentError: If the environment raises, or returns what no environment may return
    """
    name = env_name(args.env)
    set_threads(args.threads)
    resume = resume and has_checkpoints(directory / CHECKPOINTS)  # it may have been ended before the first one
    if not resume:
        write_arguments(directory / name, args, settings, label)
    with _environments(directory, args, settings, append=resume) as (env, eval_env):
        # SB3 counts steps of the vectorized environment. Rounded up: at least so many environment steps
        frequency = math.ceil(eval_freq(args, settings) / settings.n_envs)
        evaluation = Evaluation(
            directory, eval_env, frequency, args.eval_episodes, args.eval_max_steps, stop, on_evaluation
        )
        checkpoints = _make_checkpoints(directory, args, settings, evaluation.clock)
        tensorboard_log = str(directory / "tensorboard") if args.tensorboard else None
        if resume and checkpoints is not None:
            algorithm = algorithm_class(args.algo)
            model = checkpoints.resume(algorithm, env, device=args.device, tensorboard_log=tensorboard_log)
        else:
            model = make_model(
                settings, args.algo, env, seed=args.seed, device=args.device, tensorboard_log=tensorboard_log
            )
        choose_threads(args.threads, model)
        if checkpoints is not None:
            record_episodes(env)
        stop.checkpoints = checkpoints
        callbacks = [*([] if checkpoints is None else [checkpoints]), *make_callbacks(settings)]
        log_file = LogFile(directory)
        # They start before the clock, which begins with the evaluation
        callbacks += [*([] if tracking is None else [tracking]), log_file, evaluation, stop]
        files = directory / f"{name}.zip", directory / name / "vecnormalize.pkl"
        try:
            with contextlib.closing(log_file):
                _learn(model, settings, callbacks, None if args.quiet else ProgressBar(evaluation))
        except BaseException:  # whatever ended training, the model so far is saved
            with contextlib.suppress(OSError):  # a full disk must not hide what ended training
                save_model(model, *files)
            raise
        train_seconds, cpu_seconds = evaluation.clock.read()
        save_model(model, *files)
        final_score = _final_score(model, env, eval_env, args.eval_episodes, stop)

    record = RunRecord.of(
        identity(args, settings, label),
        directory=directory,
        status="interrupted" if final_score is None else "finished",
        steps=model.num_timesteps,
        updates=model._n_updates,
        score=final_score,
        best_evaluation=evaluation.best(),
        evaluations=evaluation.evaluations(),
        seconds=Seconds(train_seconds, float(evaluation.clock.evaluations[0]), cpu_seconds),
        device=str(model.device),
        versions=versions(),
        machine=machine(),
    )
    write_record(record)
    if record.is_finished:
        shutil.rmtree(directory / CHECKPOINTS, ignore_errors=True)
    return record


@contextlib.contextmanager
def _environments(
    directory: Path, args: TrainArgs, settings: Settings, *, append: bool
) -> Iterator[tuple[VecEnv, VecEnv]]:
    """The environments for training and for evaluation, which are closed in the end."""
    with _children_ignore_ctrl_c() if args.vec_env == "subproc" else contextlib.nullcontext():
        env = make_env(
            args.env,
            settings,
            settings.n_envs,
            args.seed,
            vec_env=args.vec_env,
            monitor_dir=directory,
            append=append,
        )
    with contextlib.closing(env):
        n_envs, max_steps = min(EVAL_ENVS, args.eval_episodes), args.eval_max_steps
        eval_env = make_env(args.env, settings, n_envs, EVAL_SEED, training=False, max_steps=max_steps)
        with contextlib.closing(eval_env):
            yield env, eval_env


def _make_checkpoints(directory: Path, args: TrainArgs, settings: Settings, clock: TrainingClock) -> Checkpoints | None:
    """:return: What writes the checkpoints; None if that is switched off, or not possible with SBX's algorithms"""
    every = args.checkpoint_freq
    if every == 0 or not is_saved_as_data(algorithm_class(args.algo)):
        return None
    if every is None:
        every = max(settings.n_timesteps // 20, _STEPS_BETWEEN_CHECKPOINTS)
    return Checkpoints(directory, every, clock)


def _learn(
    model: OffPolicyAlgorithm, settings: Settings, callbacks: Sequence[BaseCallback], bar: ProgressBar | None
) -> None:
    failed = True
    try:
        model.learn(
            settings.n_timesteps - model.num_timesteps,
            callback=[*callbacks, *([] if bar is None else [bar])],
            reset_num_timesteps=model.num_timesteps == 0,
        )
        failed = False
    finally:
        if bar is not None:
            bar.close(failed=failed)


def _final_score(
    model: OffPolicyAlgorithm, env: VecEnv, eval_env: VecEnv, episodes: int, stop: StopOnSignal
) -> Score | None:
    """The last model's score, None if a signal came first."""
    if model.get_vec_normalize_env() is not None:
        sync_envs_normalization(env, eval_env)
    try:
        stop.check()
        return score(model, eval_env, episodes, FINAL_SEED, callback=stop.check)
    except InterruptedEvaluationError:
        return None


def _make_run_directory(parent: Path, name: str) -> Path:
    """Make the first ``<name>_<n>`` that does not exist, also where two processes try it at the same time."""
    number = 1
    while True:
        directory = parent / f"{name}_{number}"
        try:
            parent.mkdir(parents=True, exist_ok=True)
            if not directory.exists():
                directory.mkdir()
                (directory / name).mkdir()
                return directory
            number += 1
        except FileExistsError:  # another process was faster, or `parent` is a file
            if not parent.is_dir():
                raise SettingsError(f"cannot write to {parent}: it is not a directory") from None
        except OSError as error:
            raise SettingsError(f"cannot write to {parent}: {error.strerror}; choose another --log-dir") from error
