"""
The confirmation: the best trials and the incumbent are trained again, on seeds that the search has not used.

The trial with the highest score has been chosen among many noisy scores, so its score is too high. Fresh seeds correct
that. Final returns are measured on episodes that no trial has seen, too; areas and times are measured by the same
evaluation episodes as in the search.
"""

import datetime
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from sb3_ddpg_ext.arguments import ScoreKind, TuneArgs
from sb3_ddpg_ext.comparison import PlannedRun
from sb3_ddpg_ext.errors import SettingsError
from sb3_ddpg_ext.files import lock, make_directory
from sb3_ddpg_ext.results import statistics
from sb3_ddpg_ext.results.records import Array, RunRecord
from sb3_ddpg_ext.results.statistics import Estimate
from sb3_ddpg_ext.run_arguments import env_name
from sb3_ddpg_ext.settings import Settings, own_file, read_yaml
from sb3_ddpg_ext.tuning import scoring
from sb3_ddpg_ext.tuning.search import ranking
from sb3_ddpg_ext.tuning.storage import Job
from sb3_ddpg_ext.tuning.study import Study, connect, read_entry, run_directory
from sb3_ddpg_ext.tuning.winner_file import WinningEntry, write_entry

_WRITTEN = "written"  # the attribute of Optuna's study that holds the entries written to the hyperparameter file


@dataclass(frozen=True, eq=False)
class Confirmed:
    """
    The result of a candidate on fresh seeds.

    :param label: ``trial <number>``, or :attr:`.Study.incumbent_label`
    :param settings: Its settings
    :param scores: Scores of its runs, ``[runs]``; for failed runs the worst score there is
    :param failed: Number of failed runs
    :param versions: Versions of the libraries that its runs used, in words
    :param estimate: IQM of the scores
    :param better: Probability that a run of it is better than a run of the incumbent
    """

    label: str
    settings: Settings
    scores: Array
    failed: int
    versions: str
    estimate: Estimate
    better: Estimate


def plan(args: TuneArgs, job: Job, study: Study) -> tuple[PlannedRun, ...]:
    """
    All runs of the confirmation, finished ones included.

    :param args: Arguments of the command
    :param job: Where the study is stored
    :param study: The study
    :return: The runs, in the order of their seeds
    """
    directory = confirm_directory(args)
    first = study.arguments.seeds  # the search has used the seeds below
    return tuple(
        PlannedRun(label, study.train_args(seed), settings, directory / _folder(label) / f"{env_name(args.env)}_{seed}")
        for seed in range(first, first + args.confirm_seeds)
        for label, settings in _candidates(args, job, study).items()
    )


def confirm_directory(args: TuneArgs) -> Path:
    """:return: The directory with the runs of the confirmation"""
    return run_directory(args) / "confirm"


def _folder(label: str) -> str:
    return label.replace(" ", "_")


def _candidates(args: TuneArgs, job: Job, study: Study) -> dict[str, Settings]:
    """The incumbent and the best trials with different settings, by their labels."""
    candidates = {study.incumbent_label: study.confirmed_incumbent}
    entries: list[Mapping[str, Any]] = []
    for trial in ranking(job):
        settings = study.space.settings(trial.params, f"trial {trial.number}")
        is_known = study.is_incumbent(trial) or settings.raw in entries
        if not is_known and len(entries) < args.top:
            entries.append(settings.raw)
            candidates[f"trial {trial.number}"] = settings
    return candidates


def rank(runs: Sequence[PlannedRun], records: Mapping[Path, RunRecord], study: Study) -> tuple[Confirmed, ...]:
    """
    :param runs: The runs of :func:`plan`
    :param records: Their records, by run directory
    :param study: The study
    :return: The candidates, the best first; the incumbent comes before others with the same estimate
    """
    score = study.arguments.score
    scores = {
        label: np.array([_score_of(records[run.directory], study) for run in runs if run.label == label])
        for label in dict.fromkeys(run.label for run in runs)
    }
    upward = {label: scoring.higher_is_better(score, values) for label, values in scores.items()}
    confirmed = [
        Confirmed(
            label,
            next(run.settings for run in runs if run.label == label),
            values,
            sum(not records[run.directory].is_finished for run in runs if run.label == label),
            _versions([records[run.directory] for run in runs if run.label == label]),
            _estimate(statistics.iqm, values),
            Estimate(math.nan)
            if label == study.incumbent_label
            else _estimate(statistics.probability_of_improvement, upward[label], upward[study.incumbent_label]),
        )
        for label, values in scores.items()
    ]
    return tuple(sorted(confirmed, key=lambda c: -float(scoring.higher_is_better(score, np.array(c.estimate.value)))))


def _versions(records: Sequence[RunRecord]) -> str:
    finished = [record.versions for record in records if record.is_finished]
    in_words = (", ".join(f"{name} {number}" for name, number in versions.items()) for versions in finished)
    return " and ".join(dict.fromkeys(in_words))


def _score_of(record: RunRecord, study: Study) -> float:
    score = study.arguments.score
    if record.score is None or record.evaluations is None:
        return scoring.score_of_failed_run(score)
    if score is ScoreKind.FINAL:
        return record.score.mean  # of episodes after training, which no trial has seen
    return scoring.score_of_run(score, record.evaluations, study.scale)


def _estimate(statistic: Any, *strata: Array) -> Estimate:
    return statistics.estimate(statistic, strata, np.random.default_rng(0))


def winner(args: TuneArgs, study: Study, ranked: Sequence[Confirmed], n_trials: int) -> WinningEntry | None:
    """
    :param args: Arguments of the command
    :param study: The study
    :param ranked: The confirmed candidates, the best first
    :param n_trials: Trials of the study
    :return: The entry of the best candidate; None if that is the incumbent, or if no candidate has a finite score
    """
    best, incumbent = ranked[0], next(c for c in ranked if c.label == study.incumbent_label)
    if best is incumbent or not math.isfinite(best.estimate.value):
        return None
    arguments = study.arguments
    first, n_seeds = arguments.seeds, len(best.scores)
    comments = (
        f"sb3-ddpg tune, {datetime.date.today()}: {best.label} of {n_trials} of the study {run_directory(args).name}, "
        f"{arguments.seeds} seed{'' if arguments.seeds == 1 else 's'} each",
        f"{scoring.DESCRIPTIONS[arguments.score]}, IQM of {n_seeds} fresh seeds ({first} to {first + n_seeds - 1}) and "
        f"95% interval: {_numbers(best.estimate)}",
        f"the settings before{with_fixed(study)}: {_numbers(incumbent.estimate)}; "
        f"{best.settings.n_timesteps:,} steps each, evaluations of {arguments.eval_episodes} episodes",
        f"{best.versions}, optuna {version('optuna')}",
    )
    file = _file(args)
    name = args.env if file.exists() and args.env in read_yaml(file) else args.env.split(":")[-1]
    return WinningEntry(name, best.settings.raw, comments)


def with_fixed(study: Study) -> str:
    """:return: What distinguishes the incumbent that was confirmed from the one in the file, in words"""
    return f", with {', '.join(study.fixed)}" if study.fixed else ""


def _numbers(estimate: Estimate) -> str:
    return f"{estimate.value:.4g} [{estimate.low:.4g}, {estimate.high:.4g}]"


def _file(args: TuneArgs) -> Path:
    return args.hyperparams or own_file(args.algo)


def target(args: TuneArgs) -> Path:
    """
    The hyperparameter file for the winner. To be called before the search, which may take hours.

    :param args: Arguments of the command
    :return: The file; it may not be there if it is the user's own
    :raises SettingsError: If it cannot be written
    """
    file = _file(args)
    real = file.resolve()
    if args.hyperparams is None and not os.path.lexists(file):
        made_in = real.parent if real.parent.exists() else real.parent.parent
        is_writable = made_in.is_dir() and os.access(made_in, os.W_OK)
    else:
        is_writable = real.is_file() and os.access(real, os.W_OK) and os.access(real.parent, os.W_OK)
    if not is_writable:
        raise SettingsError(f"{file} cannot be written to; name a copy of it with --hyperparams, or use --no-write")
    return file


def write_winner(args: TuneArgs, job: Job, study: Study, entry: WinningEntry) -> bool:
    """
    Write the winner to its file, in the place of the incumbent or of an earlier winner of the same study.

    :param args: Arguments of the command
    :param job: Where the study is stored
    :param study: The study
    :param entry: The winner
    :return: Whether the file has changed; False if it had these settings already
    :raises SettingsError: If somebody has changed the settings since the study began, or as :func:`write_entry`
    """
    file = target(args)
    make_directory(file.parent, "--hyperparams")
    # Studies of other environments may end at the same time, and name the file by other links
    with lock(file.resolve().parent, wait=True):
        current = read_entry(args)
        if current == entry.values:
            return False
        optuna_study, _ = connect(job)
        written = optuna_study.user_attrs.get(_WRITTEN, [])
        if current not in (study.entry_in_file, *written):
            raise SettingsError(
                f"{file}: the settings of {entry.env} were changed since the study began, so the winner, which is "
                "above, is not written; put it there by hand, or start another --study from the present ones"
            )
        optuna_study.set_user_attr(_WRITTEN, [*written, entry.values])
        write_entry(file, entry)
        return True
