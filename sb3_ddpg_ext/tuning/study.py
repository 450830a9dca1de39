"""What a study is, and how it is created or loaded."""

import contextlib
import functools
import json
import logging
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning, StorageInternalError
from optuna.trial import FrozenTrial
from pydantic import TypeAdapter

from sb3_ddpg_ext.arguments import PrunerName, SamplerName, ScoreKind, TrainArgs, TuneArgs
from sb3_ddpg_ext.env_scales import env_scales
from sb3_ddpg_ext.errors import SettingsError
from sb3_ddpg_ext.files import atomic, lock, make_directory
from sb3_ddpg_ext.results.scales import Scale, scale_of
from sb3_ddpg_ext.run_arguments import check, check_is_evaluated, env_name, eval_freq, settings_of
from sb3_ddpg_ext.settings import Settings, algo_name, parse_settings, read_yaml
from sb3_ddpg_ext.tuning import require_packages, scoring
from sb3_ddpg_ext.tuning.pruners import WILCOXON_SEEDS, make_pruner
from sb3_ddpg_ext.tuning.samplers import ReproducibleSampler, require_sampler
from sb3_ddpg_ext.tuning.space import Space, make_space
from sb3_ddpg_ext.tuning.storage import Job, open_storage, reason_of, storage_of
from sb3_ddpg_ext.tuning.trial_checks import check_trials, legible

IS_INCUMBENT = "previous"
"""The attribute of the trial that has the incumbent's settings."""
_STUDY = "study"  # the attribute of Optuna's study that holds ours


@dataclass(frozen=True)
class StudyArguments:
    """
    The arguments of ``sb3-ddpg tune`` that a study cannot change once it has begun.

    :param env: Id of the environment
    :param algo: Name of the algorithm
    :param steps: Environment steps of each run; those of the settings if None
    :param seeds: Runs of each trial
    :param score: What is optimised
    :param pruner: Name of the pruner
    :param fix: Settings that are not tuned, as ``name=value``
    :param space: Content of the ``--space`` file
    :param eval_freq: Environment steps between evaluations
    :param eval_episodes: Episodes of each evaluation
    :param seed: Seed of the search
    :param sampler: Name of the sampler
    :param threshold: Return at which the environment counts as solved; None if that is not the score
    :param random: Mean return of random actions, if that is known and counts
    """

    env: str
    algo: str
    steps: int | None
    seeds: int
    score: ScoreKind
    pruner: PrunerName
    fix: tuple[str, ...]
    space: Mapping[str, Any]
    eval_freq: int | None
    eval_episodes: int
    seed: int
    sampler: SamplerName = "tpe"  # of studies that were begun when there was no other
    threshold: float | None = None
    random: float | None = None

    @classmethod
    def of(cls, args: TuneArgs) -> "StudyArguments":
        """:return: Those among the arguments of a command"""
        scale = scale_of_env(args) if scoring.is_time(args.score) else Scale()
        return cls(
            env=args.env,
            algo=args.algo,
            steps=args.steps,
            seeds=args.seeds,
            score=args.score,
            pruner=args.pruner or ("wilcoxon" if args.seeds >= WILCOXON_SEEDS else "median"),
            fix=args.fix,
            space={} if args.space is None else read_yaml(args.space),
            eval_freq=args.eval_freq,
            eval_episodes=args.eval_episodes,
            seed=args.seed,
            sampler=args.sampler,
            threshold=scale.threshold,
            random=scale.random,
        )

    def to_json(self) -> dict[str, Any]:
        """:return: What is stored in the database"""
        return {**asdict(self), "score": self.score.value, "fix": list(self.fix)}


@dataclass(frozen=True)
class Study:
    """
    A study as its database has it: the same for all who work on it.

    :param arguments: The arguments that it was created with
    :param incumbent: The settings before the search, with the study's steps, as an entry of a hyperparameter file
    :param entry_in_file: The entry that the file had then, with its own steps
    """

    arguments: StudyArguments
    incumbent: Mapping[str, Any]
    entry_in_file: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """:return: What is stored in the database"""
        return {"asked": self.arguments.to_json(), "previous": self.incumbent, "there": self.entry_in_file}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Study":
        """
        :param stored: What is stored in a database, which others may have written to
        :return: The study
        :raises SettingsError: If it is not what :meth:`to_json` writes
        """
        with legible():
            texts = {name: json.dumps(stored[name]) for name in ("asked", "previous", "there")}
            arguments = TypeAdapter(StudyArguments).validate_json(texts["asked"], strict=True)
            entries = [TypeAdapter(dict[str, Any]).validate_json(texts[n], strict=True) for n in ("previous", "there")]
        return cls(arguments, *entries)

    @functools.cached_property
    def space(self) -> Space:
        """The search space"""
        algo = self.arguments.algo
        incumbent = parse_settings(algo, self.incumbent, "previous settings")
        return make_space(algo, incumbent, self.arguments.space, self.arguments.fix)

    def incumbent_settings(self) -> Settings:
        """:return: The settings of the first trial: the incumbent's, as far as the space contains them"""
        return self.space.settings(self.space.incumbent_values(), "previous settings")

    @property
    def scale(self) -> Scale:
        """What the scores are measured against"""
        return Scale(self.arguments.random, threshold=self.arguments.threshold)

    @functools.cached_property
    def fixed(self) -> tuple[str, ...]:
        """What ``--fix`` and ``--space`` give one value, as ``name=value``. It holds for the incumbent, too"""
        searched = {dimension.name for dimension in self.space.dimensions} - self.space.fixed.keys()
        given = (f"{name}={value}" for name, value in self.arguments.space.items() if name not in searched)
        return (*given, *self.arguments.fix)

    @property
    def incumbent_label(self) -> str:
        """The incumbent's label. Where something is fixed, it is not what the file has, and is not called so"""
        return "previous with fix" if self.fixed else "previous"

    @functools.cached_property
    def confirmed_incumbent(self) -> Settings:
        """The settings to which the best trials are compared: the incumbent's, with what is fixed"""
        entry = self.space.incumbent_entry() if self.fixed else self.incumbent
        return parse_settings(self.arguments.algo, entry, "previous settings")

    def is_incumbent(self, trial: FrozenTrial) -> bool:
        """:return: Whether a trial has the incumbent's settings"""
        if trial.user_attrs.get(IS_INCUMBENT) and not self.arguments.space:
            return True
        # The first trial may have others if a space was given, and another trial may have come upon them
        return self.space.settings(trial.params, f"trial {trial.number}").raw == self.confirmed_incumbent.raw

    def train_args(self, seed: int) -> TrainArgs:
        """:return: The arguments of one run"""
        return TrainArgs(
            env=self.arguments.env,
            algo=self.arguments.algo,
            eval_freq=self.arguments.eval_freq,
            eval_episodes=self.arguments.eval_episodes,
            seed=seed,
            device="cpu",
            threads=1,
            quiet=True,
        )

    def n_evaluations(self, settings: Settings) -> int:
        """:return: How many evaluations a run with these settings has"""
        freq = eval_freq(self.train_args(0), settings)
        # All environments step together, so both numbers are rounded up to steps of all of them
        return int(-(-settings.n_timesteps // settings.n_envs) // -(-freq // settings.n_envs))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence Optuna, which logs the end of each trial and warns that heartbeats are experimental."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        try:
            yield
        finally:
            optuna.logging.set_verbosity(level)


def prepare(args: TuneArgs) -> tuple[Job, Study]:
    """
    Check all arguments, then create the study or load it.

    :param args: What to tune, and how
    :return: What the workers need to know, and the study
    :raises SettingsError: If an argument cannot be used
    """
    require_packages()
    require_sampler(args.sampler)
    _check_numbers(args)
    scoring.check(args.score, args.env, scale_of_env(args))
    train_args = _train_args(args)
    settings = settings_of(train_args)
    check(train_args, settings)
    check_is_evaluated(train_args, settings)
    study = Study(StudyArguments.of(args), settings.raw, read_entry(args))
    check(train_args, study.incumbent_settings())
    directory = run_directory(args)
    make_directory(directory)
    file = directory / "study.db"
    runs = directory / "trials" if args.resume else None
    if runs is not None:
        make_directory(runs)
    job = Job(args.storage or f"sqlite:///{file}", directory.name, args.trials, runs)
    with quiet(), lock(directory, wait=True):
        try:
            if args.storage is None and not os.path.lexists(file):
                # Under another name until it is complete: a process that is killed here leaves no damaged study.db
                with atomic(file) as partial:
                    partial.unlink(missing_ok=True)
                    _create_or_load(replace(job, url=f"sqlite:///{partial}"), study)
            return job, _create_or_load(job, study)
        except StorageInternalError as error:  # a full disk, for example
            raise SettingsError(f"--storage {job.shown_url}: {reason_of(error)}") from error


def scale_of_env(args: TuneArgs) -> Scale:
    """:return: What the scores of a study are measured against"""
    return scale_of(args.env, env_scales([args.env], args.scales, args.threshold))


def _check_numbers(args: TuneArgs) -> None:
    minimum = {"trials": 1, "seeds": 1, "top": 0, "confirm_seeds": 1, "workers": 0, "eval_episodes": 1, "seed": 0}
    for name, low in minimum.items():
        if getattr(args, name) < low:
            raise SettingsError(f"--{name.replace('_', '-')} must be {low} or more, got {getattr(args, name)}")
    if args.pruner == "wilcoxon" and args.seeds < WILCOXON_SEEDS:
        raise SettingsError(
            f"--pruner wilcoxon needs --seeds {WILCOXON_SEEDS} or more to tell anything, got {args.seeds}"
        )


def _train_args(args: TuneArgs) -> TrainArgs:
    return TrainArgs(
        args.env,
        args.algo,
        args.steps,
        hyperparams=args.hyperparams,
        eval_freq=args.eval_freq,
        eval_episodes=args.eval_episodes,
        device="cpu",
        quiet=True,
    )


def read_entry(args: TuneArgs) -> Mapping[str, Any]:
    """:return: The entry of the environment that the hyperparameter file has now"""
    return settings_of(replace(_train_args(args), steps=None)).raw


def run_directory(args: TuneArgs) -> Path:
    """:return: The directory with the files of a study"""
    return args.log_dir.absolute() / (args.study or f"{algo_name(args.algo)}_{env_name(args.env)}")


def _create_or_load(job: Job, study: Study) -> Study:
    """Create the study; if it exists, check that it was created with the same arguments."""
    storage = open_storage(job)
    try:
        optuna_study = optuna.create_study(storage=storage, study_name=job.name, direction="maximize")
        _initialise(optuna_study, study)
    except DuplicatedStudyError:
        optuna_study = optuna.load_study(storage=storage, study_name=job.name)
        if _stored_study(optuna_study) is None:  # another process was killed while it created the study
            if not all(trial.user_attrs.get(IS_INCUMBENT) for trial in optuna_study.trials):
                raise SettingsError(
                    f"the study {job.name} is not one of sb3-ddpg tune; choose another --study"
                ) from None
            _initialise(optuna_study, study)
    stored = _stored_study(optuna_study)
    assert stored is not None
    found = Study.from_json(stored)
    arguments, there = study.arguments.to_json(), found.arguments.to_json()
    if differing := [name for name in arguments if there[name] != arguments[name]]:
        raise SettingsError(
            f"the study {job.name} is there, but with other {' and '.join(differing)}; choose another --study or "
            "--log-dir"
        )
    return found


def _initialise(optuna_study: optuna.Study, study: Study) -> None:
    incumbent = study.space.incumbent_values()
    optuna_study.enqueue_trial(incumbent, user_attrs={IS_INCUMBENT: True}, skip_if_exists=True)
    optuna_study.set_user_attr(_STUDY, study.to_json())


def _stored_study(optuna_study: optuna.Study) -> Mapping[str, Any] | None:
    """What the database has; another process that is just creating the study is given some seconds."""
    for _ in range(10):
        with legible():
            stored: Mapping[str, Any] | None = optuna_study.user_attrs.get(_STUDY)
        if stored:
            return stored
        time.sleep(0.5)
    return None


@functools.lru_cache(maxsize=1)  # a process runs many trials of one study
def connect(job: Job) -> tuple[optuna.Study, Study]:
    """
    Load a study that was prepared.

    :param job: Where the study is stored
    :return: Optuna's study, and ours
    """
    with quiet():
        optuna_study = optuna.load_study(storage=storage_of(job), study_name=job.name)
        stored = _stored_study(optuna_study)
        if stored is None:
            raise SettingsError(f"the study {job.name} is not one of sb3-ddpg tune; choose another --study")
        study = Study.from_json(stored)
        check_trials(optuna_study, study.space)
        arguments = study.arguments
        optuna_study.sampler = ReproducibleSampler(arguments.sampler, arguments.seed)
        n_evaluations = study.n_evaluations(study.incumbent_settings())
        optuna_study.pruner = make_pruner(arguments.pruner, n_evaluations, scoring.is_time(arguments.score))
        return optuna_study, study
