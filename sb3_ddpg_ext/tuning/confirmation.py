"""
The best of many noisy scores is not the best: the first trials of the ranking and the previous settings are trained
again on seeds that chose nothing. (Final scores are also of episodes that chose nothing; areas and times are of the
same evaluation episodes as in the search.) The winner goes into the hyperparameter file, with what it rests on.
"""

import datetime
import math
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from sb3_ddpg_ext.comparison import PlannedRun
from sb3_ddpg_ext.errors import SettingsError
from sb3_ddpg_ext.files import atomic, lock
from sb3_ddpg_ext.results import statistics
from sb3_ddpg_ext.results.records import Array, RunRecord
from sb3_ddpg_ext.results.statistics import Estimate
from sb3_ddpg_ext.settings import Settings, hyperparams_file, parse_settings, read_yaml
from sb3_ddpg_ext.training import env_name
from sb3_ddpg_ext.tuning import TuneArgs, scoring
from sb3_ddpg_ext.tuning.search import ranking
from sb3_ddpg_ext.tuning.study import Job, Study, connect, entry_there, run_directory

PREVIOUS = "previous"


@dataclass(frozen=True, eq=False)
class Confirmed:
    """
    What became of a candidate on fresh seeds.

    :param label: ``trial <number>`` or ``previous``
    :param settings: Its settings
    :param scores: Of its runs; the worst there is for those that failed, ``[runs]``
    :param failed: How many these are
    :param versions: Of the libraries that its runs were made with, in words
    :param estimate: IQM and its interval
    :param better: Probability that one of its runs is better than one with the previous settings
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
    The runs that confirm, those that are done included.

    :param args: What is tuned
    :param job: Where the study is
    :param study: What is searched
    :return: The runs, the first seeds first
    """
    directory = confirm_directory(args)
    first = study.asked["seeds"]  # the seeds before it have chosen
    return tuple(
        PlannedRun(label, study.train_args(seed), settings, directory / label / f"{env_name(args.env)}_{seed}")
        for seed in range(first, first + args.confirm_seeds)
        for label, settings in _candidates(args, job, study).items()
    )


def confirm_directory(args: TuneArgs) -> Path:
    """:return: Where the runs that confirm are"""
    return run_directory(args) / "confirm"


def _candidates(args: TuneArgs, job: Job, study: Study) -> dict[str, Settings]:
    candidates = {PREVIOUS: parse_settings(args.algo, study.previous, "previous settings")}
    entries: list[Mapping[str, Any]] = []
    restricted = study.asked["fix"] or study.asked["space"]
    for trial in ranking(job):
        settings = study.space.settings(trial.params, f"trial {trial.number}")
        same = settings.raw in entries or (trial.user_attrs.get("previous") and not restricted)
        if not same and len(entries) < args.top:
            entries.append(settings.raw)
            candidates[f"trial {trial.number}"] = settings
    return candidates


def rank(runs: Sequence[PlannedRun], records: Mapping[Path, RunRecord], study: Study) -> tuple[Confirmed, ...]:
    """
    :param runs: The runs of :func:`plan`
    :param records: Their records, by directory
    :param study: What is searched
    :return: The candidates, the best first; of equals, the previous settings
    """
    score = study.asked["score"]
    scores = {
        label: np.array([_score(score, records[run.directory]) for run in runs if run.label == label])
        for label in dict.fromkeys(run.label for run in runs)
    }
    upward = {label: scoring.ascending(score, values) for label, values in scores.items()}
    confirmed = [
        Confirmed(
            label,
            next(run.settings for run in runs if run.label == label),
            values,
            sum(not records[run.directory].is_finished for run in runs if run.label == label),
            _versions([records[run.directory] for run in runs if run.label == label]),
            _estimate(statistics.iqm, values),
            Estimate(math.nan)
            if label == PREVIOUS
            else _estimate(statistics.probability_of_improvement, upward[label], upward[PREVIOUS]),
        )
        for label, values in scores.items()
    ]
    return tuple(sorted(confirmed, key=lambda c: -float(scoring.ascending(score, np.array(c.estimate.value)))))


def _versions(records: Sequence[RunRecord]) -> str:
    finished = [record.versions for record in records if record.is_finished]
    said = (", ".join(f"{name} {number}" for name, number in versions.items()) for versions in finished)
    return " and ".join(dict.fromkeys(said))


def _score(score: str, record: RunRecord) -> float:
    if record.score is None or record.evaluations is None:
        return scoring.worst(score)
    if score == "final":
        return record.score.mean  # of episodes that no trial has seen
    return scoring.measure(score, record.evaluations, record.env)


def _estimate(statistic: Any, *strata: Array) -> Estimate:
    return statistics.estimate(statistic, strata, np.random.default_rng(0))


@dataclass(frozen=True)
class Entry:
    """
    The winner as an entry of a hyperparameter file.

    :param env: Id of the environment
    :param values: The settings
    :param comments: What it rests on, in lines for people
    """

    env: str
    values: Mapping[str, Any]
    comments: tuple[str, ...]

    @property
    def text(self) -> str:
        """The entry in YAML, with its comments"""
        lines = [f"# {line}" for line in self.comments]
        lines += yaml.dump(dict(self.values), Dumper=_Dumper, sort_keys=False).splitlines()
        return "\n".join([f"{self.env}:", *(f"  {line}" for line in lines)])


def winner(args: TuneArgs, study: Study, ranked: Sequence[Confirmed], trials: int) -> Entry | None:
    """
    :param args: What was tuned
    :param study: What was searched
    :param ranked: The confirmed candidates, the best first
    :param trials: Trials of the study
    :return: The entry of the best; None where the previous settings are, or nobody came to the end
    """
    best, previous = ranked[0], next(c for c in ranked if c.label == PREVIOUS)
    if best is previous or not math.isfinite(best.estimate.value):
        return None
    first, asked = study.asked["seeds"], study.asked
    comments = (
        f"sb3-ddpg tune, {datetime.date.today()}: {best.label} of {trials} of the study {run_directory(args).name}, "
        f"{first} seeds each",
        f"{scoring.SCORES[asked['score']]}, IQM of {len(best.scores)} fresh seeds ({first} to "
        f"{first + len(best.scores) - 1}) and 95% interval: {_numbers(best.estimate)}",
        f"the settings before: {_numbers(previous.estimate)}; {best.settings.n_timesteps:,} steps each, evaluations of "
        f"{asked['eval_episodes']} episodes",
        f"{best.versions}, optuna {version('optuna')}",
    )
    name = args.env if args.env in read_yaml(_file(args)) else args.env.split(":")[-1]
    return Entry(name, best.settings.raw, comments)


def _file(args: TuneArgs) -> Path:
    return args.hyperparams or hyperparams_file(args.algo)


def _numbers(estimate: Estimate) -> str:
    return f"{estimate.value:.4g} [{estimate.low:.4g}, {estimate.high:.4g}]"


# --- The file ---


def target(args: TuneArgs) -> Path:
    """
    :param args: What is tuned
    :return: The file that the winner is written to
    :raises SettingsError: If that is not possible, long before it is
    """
    file = _file(args)
    real = file.resolve()
    if not (real.is_file() and os.access(real, os.W_OK) and os.access(real.parent, os.W_OK)):  # a new file replaces it
        raise SettingsError(f"{file} cannot be written to; name a copy of it with --hyperparams, or use --no-write")
    return file


def write_winner(args: TuneArgs, job: Job, study: Study, entry: Entry) -> bool:
    """
    Write the winner into its file, in the place of the settings before the study, or of an earlier winner of it.

    :param args: What was tuned
    :param job: Where the study is
    :param study: What was searched
    :param entry: The winner
    :return: Whether it was not there yet
    :raises SettingsError: If the settings have become others since, which are not ours to overwrite, or as
        :func:`write_entry`
    """
    file = target(args)
    with lock(file.parent, wait=True):  # studies of other environments may end now, too
        current = entry_there(args)
        if current == entry.values:
            return False
        found, _ = connect(job)
        written = found.user_attrs.get("written", [])
        if current not in (study.there, *written):
            raise SettingsError(
                f"{file}: the settings of {entry.env} were changed since the study began, so the winner, which is "
                "above, is not written; put it there by hand, or start another --study from the present ones"
            )
        found.set_user_attr("written", [*written, entry.values])
        write_entry(file, entry)
        return True


def write_entry(file: Path, entry: Entry) -> None:
    """
    Put an entry into a hyperparameter file, in the place of the one there is or at the end. Nothing else changes, but
    that an anchor moves to the first entry that refers to it, line ends become alike, and empty lines at the end go.

    :param file: The file
    :param entry: The entry
    :raises SettingsError: If the file is written in a way in which this is not possible; it is left as it is
    """
    file = file.resolve()  # what a link points to is replaced, not the link
    before, text = read_yaml(file), f"{file.read_text(encoding='utf-8').rstrip()}\n"
    there = _find(text, entry.env)
    text = f"{text}\n{entry.text}\n" if there is None else _replaced(there, entry)
    with atomic(file) as partial:
        partial.write_text(text, encoding="utf-8", newline="\r\n" if b"\r\n" in file.read_bytes() else "\n")
        shutil.copymode(file, partial)
        try:
            after: Any = read_yaml(partial)
        except SettingsError:
            after = None
        if after != {**before, entry.env: entry.values} or (there is None) != (entry.env not in before):
            raise SettingsError(f"{file}: {entry.env} cannot be replaced without touching other entries; do it by hand")


def _find(text: str, name: str) -> re.Match[str] | None:
    """The key, and all lines after it that are indented, with the empty ones between them."""
    body = r"(?P<body>(?:[ \t]+\S.*\n|[ \t]*\n(?=(?:[ \t]*\n)*[ \t]+\S))*)"
    return re.search(rf"^{re.escape(name)}:(?P<rest>.*)\n{body}", text, re.MULTILINE)


def _replaced(there: re.Match[str], entry: Entry) -> str:
    rest = there.string[there.end() :]
    if anchor := re.match(r"\s*&(\S+)", there["rest"]):  # the first entry that refers to it takes it over
        body = re.sub(r"^(?=.)", "  ", there["body"], flags=re.MULTILINE)
        rest = re.sub(rf"<<: \*{re.escape(anchor[1])}\s*\n", lambda _: f"<<: &{anchor[1]}\n{body}", rest, count=1)
    return f"{there.string[: there.start()]}{entry.text}\n{rest}"


class _Dumper(yaml.SafeDumper):
    """Lists on one line, ``net_arch: [64, 64]``, and no references."""


_Dumper.ignore_aliases = lambda *_: True  # type: ignore[method-assign]
_Dumper.add_representer(list, lambda dumper, value: dumper.represent_sequence("tag:yaml.org,2002:seq", value, True))
