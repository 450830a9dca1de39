"""
A plan of runs (algorithm x environment x seed) -> finished run directories.

Each run has a directory of its own, ``<log_dir>/<label>/<env>_<seed>/``, with the files of
:mod:`sb3_ddpg_ext.training`; ``result.json`` is written last, and says that the run is done. A lock, which the system
takes back from a process that dies, keeps two comparisons from doing the same run at once.
"""

import contextlib
import json
import shutil
import time
import warnings
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from stable_baselines3.common.callbacks import BaseCallback

from sb3_ddpg_ext.building import make_env, make_model
from sb3_ddpg_ext.cluster import run_all
from sb3_ddpg_ext.errors import describe, unknown
from sb3_ddpg_ext.files import LOCK, lock
from sb3_ddpg_ext.labels import pieces
from sb3_ddpg_ext.report.records import read_run
from sb3_ddpg_ext.settings import ALGORITHMS, Settings, SettingsError, hyperparams_file, require
from sb3_ddpg_ext.training import (
    EVAL_ENVS,
    FINAL_SEED,
    StopOnSignal,
    TrainArgs,
    check,
    env_name,
    failure,
    identity,
    score,
    settings_of,
    train_in,
    write_record,
)

MIN_EVAL_EPISODES = 10


@dataclass(frozen=True)
class CompareArgs:
    """
    Train algorithms on environments with several seeds each, and write a report. Finished runs are kept: the same
    command goes on where it was stopped, and more algorithms, environments or seeds add to it.
    """

    algos: str
    """separated by commas, with settings: ddpg,custom_ddpg:gamma=0.9,batch_size=128,custom_ddpg:hyperparams=ddpg"""
    envs: str
    """ids of Gymnasium environments, separated by commas"""
    seeds: int = 5
    """how many runs of each algorithm on each environment; their seeds are 0, 1, 2, ..."""
    steps: int | None = None
    """environment steps of each run; as the settings say if not given, where these agree"""
    eval_freq: int | None = None
    """environment steps between evaluations; a twentieth of the run if not given"""
    eval_episodes: int = 20
    """episodes of each evaluation, 10 or more"""
    baseline: str | None = None
    """the algorithm, as written in --algos, that the report compares the others with"""
    log_dir: Path = Path("runs/compare")
    """where run directories and report are made"""
    workers: int = 2
    """processes, one run at a time in each; 0 for this process alone"""
    scheduler: str | None = None
    """Dask scheduler whose workers are used instead: tcp://host:8786; it and they need this package, and the workers
    the log directory"""
    dry_run: bool = False
    """say what would be done, and about how long it takes"""
    quiet: bool = False
    """no progress display, only the result"""


@dataclass(frozen=True)
class Variant:
    """
    An algorithm with the settings it is to be compared with.

    :param label: What the user wrote
    :param algo: Name of the algorithm
    :param hyperparams: File of settings, None for the algorithm's own
    :param params: Overrides, ``name=value`` each
    """

    label: str
    algo: str
    hyperparams: Path | None = None
    params: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """
    One run of the plan. Plain data that can be sent to another process or machine.

    :param label: What the user calls the algorithm with its settings
    :param args: What to train, and how
    :param settings: The settings these arguments mean
    :param directory: The run directory, absolute
    """

    label: str
    args: TrainArgs
    settings: Settings
    directory: Path

    def identity(self) -> dict[str, Any]:
        """:return: See :func:`sb3_ddpg_ext.training.identity`"""
        return identity(self.args, self.settings, self.label)


def parse_variants(text: str) -> tuple[Variant, ...]:
    """
    Read a list such as ``ddpg,custom_ddpg:gamma=0.9,batch_size=128,sac``. A piece ``name=value`` belongs to the
    algorithm before it; commas inside brackets separate nothing.

    :param text: What the user wrote
    :return: The variants
    :raises SettingsError: If a setting has no algorithm before it
    """
    variants: list[list[str]] = []
    for piece in (piece.removesuffix(",").strip() for piece in pieces(text, ",")):
        if "=" not in piece.split(":")[0]:
            variants.append([piece])
        elif variants and ":" in variants[-1][0]:
            variants[-1].append(piece)
        else:
            algo = variants[-1][0] if variants else "custom_ddpg"
            raise SettingsError(f"--algos: {piece!r} belongs to no algorithm; expected for example {algo}:{piece}")
    return tuple(map(_variant, variants))


def _variant(written: Sequence[str]) -> Variant:
    algo, colon, first = written[0].partition(":")
    overrides = [first, *written[1:]] if colon else []
    overrides = ["=".join(map(str.strip, override.split("=", 1))) for override in overrides]
    names = Counter(override.partition("=")[0] for override in overrides)
    if twice := [name for name, times in names.items() if times > 1]:
        raise SettingsError(f"--algos: {','.join(written)} has {' and '.join(twice)} more than once")
    # A name of an algorithm stands for its file
    files = [o.removeprefix("hyperparams=") for o in overrides if o.startswith("hyperparams=")]
    paths = [hyperparams_file(file) if file in ALGORITHMS else Path(file) for file in files]
    params = tuple(o for o in overrides if not o.startswith("hyperparams="))
    return Variant(f"{algo.strip()}{colon}{','.join(overrides)}", algo.strip(), paths[-1] if paths else None, params)


def plan(args: CompareArgs) -> tuple[Run, ...]:
    """
    All runs of a comparison, those that are done included. What is wrong with one of them is found here, by building
    each algorithm on each environment once.

    :param args: What to compare, and how
    :return: The runs, the first seeds first
    :raises SettingsError: For anything that the caller has to mend
    """
    for module in ("scipy", "jinja2"):  # the report needs them, hours later
        require(module, "compare")
    if args.seeds < 1:
        raise SettingsError(f"--seeds must be 1 or more, got {args.seeds}")
    if args.workers < 0:
        raise SettingsError(f"--workers must be 0 (for this process alone) or more, got {args.workers}")
    if args.eval_episodes < MIN_EVAL_EPISODES:
        raise SettingsError(f"--eval-episodes must be {MIN_EVAL_EPISODES} or more, got {args.eval_episodes}")
    variants = parse_variants(args.algos)
    labels = [variant.label for variant in variants]
    if (baseline := baseline_of(args)) is not None and baseline not in labels:
        raise SettingsError(unknown("baseline", baseline, labels))
    firsts = [_first_run(args, variant, env.strip()) for env in args.envs.split(",") for variant in variants]
    for i, run in enumerate(firsts):
        # There are file systems to which small and capital letters are the same
        if str(run.directory).casefold() in [str(other.directory).casefold() for other in firsts[:i]]:
            raise SettingsError(f"{run.label} on {run.args.env} is there twice; both would be {run.directory.name}")
        here = {other.label: other.settings.n_timesteps for other in firsts if other.args.env == run.args.env}
        if len({*here.values()}) > 1:
            steps = ", ".join(f"{n:,} steps for {label}" for label, n in here.items())
            raise SettingsError(f"{run.args.env}: the settings have {steps}; to compare them, choose one with --steps")
    return tuple(_with_seed(run, seed) for seed in range(args.seeds) for run in firsts)


def baseline_of(args: CompareArgs) -> str | None:
    """:return: The label of the baseline that was asked for, if one was"""
    return None if args.baseline is None else ",".join(variant.label for variant in parse_variants(args.baseline))


def _first_run(args: CompareArgs, variant: Variant, env: str) -> Run:
    train_args = TrainArgs(
        env=env,
        algo=variant.algo,
        steps=args.steps,
        hyperparams=variant.hyperparams,
        params=variant.params,
        eval_freq=args.eval_freq,
        eval_episodes=args.eval_episodes,
        log_dir=args.log_dir.absolute(),
        device="cpu",
        threads=1,
        quiet=True,
    )
    try:
        if args.steps is not None and any(param.startswith("n_timesteps=") for param in variant.params):
            raise SettingsError(f"--steps {args.steps} is for all algorithms; leave it or n_timesteps= out")
        settings = settings_of(train_args)
        check(train_args, settings)
        if args.eval_freq is not None and not 1 <= args.eval_freq <= settings.n_timesteps:
            raise SettingsError(f"--eval-freq must be from 1 to {settings.n_timesteps} steps, got {args.eval_freq}")
    except SettingsError as error:
        raise SettingsError(f"{variant.label} on {env}: {error}") from error
    folder = quote(variant.label, safe="=,+ ")  # reversible, and good on any system
    if len(folder.encode()) > 255:
        raise SettingsError(
            f"{variant.label!r} is too long for a folder's name; write it into a file: hyperparams=FILE"
        )
    run = Run(variant.label, train_args, settings, train_args.log_dir / folder / env_name(env))
    return _with_seed(run, 0)


def _with_seed(run: Run, seed: int) -> Run:
    directory = run.directory.with_name(f"{env_name(run.args.env)}_{seed}")
    return replace(run, args=replace(run.args, seed=seed), directory=directory)


def finished(run: Run) -> dict[str, Any] | None:
    """
    Read the record of a run.

    :param run: One run of the plan
    :return: The record; None if the run is not done
    :raises SettingsError: If something else was done in its place, which is not ours to overwrite
    """
    record = _record(run)
    if record is None or "evaluations" not in record or read_run(run.directory).status != "finished":
        return None
    if differing := _differing(run, record):
        raise SettingsError(
            f"{run.directory} is finished, but with other {' and '.join(differing)}; choose another --log-dir or "
            "remove it"
        )
    return record


def _record(run: Run) -> dict[str, Any] | None:
    try:
        record = json.loads((run.directory / "result.json").read_text())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def _differing(run: Run, record: dict[str, Any]) -> list[str]:
    """What a record says otherwise than the plan."""
    return [key for key, wanted in run.identity().items() if record.get(key) != wanted]


def _changed(run: Run) -> int | None:
    """When a run's record was written, by the clock of its file system; None if there is none."""
    with contextlib.suppress(OSError):
        return (run.directory / "result.json").stat().st_mtime_ns
    return None


def _failure_of_another(run: Run, known: int | None) -> dict[str, Any] | None:
    """The record of a failed training of this run that was not there yet when another was known, or none was."""
    record = _record(run)
    if record is None or record.get("status") != "failed" or not record.get("trained", True) or _differing(run, record):
        return None
    return None if _changed(run) == known else record


def left_over(run: Run) -> str | None:
    """
    Say what there is of a run that is not done, and what will become of it.

    :param run: One run of the plan
    :return: None where nobody has begun it
    :raises SettingsError: If its directory is somebody else's, which is not ours to clear
    """
    if not run.directory.is_dir() or not any(run.directory.iterdir()) or finished(run) is not None:
        return None
    if not (run.directory / LOCK).exists():
        raise SettingsError(f"{run.directory} was not made by a comparison; choose another --log-dir or remove it")
    with lock(run.directory, wait=False) as free:
        if not free:
            return "another process is at it, whose result is waited for"
    found = read_run(run.directory)
    reason = "" if found.status == "not finished" else f" ({found.reason or 'without evaluations'})"
    return f"{found.status}{reason}, so it is run again, from scratch"


def run_missing(
    runs: Sequence[Run],
    *,
    workers: int,
    scheduler: str | None = None,
    on_start: Callable[[Run], object] = lambda _: None,
) -> Generator[tuple[Run, dict[str, Any]], None, None]:
    """
    Do what is not done, from scratch. To be closed if it is not iterated to its end.

    :param runs: Runs of a plan
    :param workers: See :func:`sb3_ddpg_ext.cluster.run_all`
    :param scheduler: Likewise
    :param on_start: Called with a run when it begins
    :return: Each run with its record, as they come; its status is finished or failed
    :raises SettingsError: If the log directory cannot be written to, and as ``run_all``
    """
    for folder in dict.fromkeys(run.directory.parent for run in runs):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SettingsError(f"cannot write to {folder}: {error.strerror}; choose another --log-dir") from error
    known = {run.directory: changed for run in runs if (changed := _changed(run)) is not None}
    for wait in (False, True):  # what another comparison has begun comes last: it may be done by then
        taken = []
        do = partial(execute, known=known, wait=wait)
        results = run_all(do, runs, workers=workers, scheduler=scheduler, on_start=on_start)
        with contextlib.closing(results):
            for run, result in results:
                if result is None:
                    taken.append(run)
                else:
                    yield run, result if isinstance(result, dict) else _failed(run, result)
        runs = taken


def execute(run: Run, *, known: Mapping[Path, int] | None = None, wait: bool = False) -> dict[str, Any] | None:
    """
    Do one run, unless it is done. Where training raises, the record says so.

    :param run: What to do
    :param known: When the records that the command found had been written; a failure that another process has recorded
        since then is taken for this run's
    :param wait: Whether another process that is at it is waited for
    :return: The record; None where another process is at it and is not waited for
    :raises SettingsError: If somebody has meanwhile put something else in its place
    """
    run.directory.mkdir(exist_ok=True)  # without parents: a worker that does not see the log directory shall not train
    with lock(run.directory, wait=wait) as free:
        if not free:
            return None
        if (record := finished(run)) is not None:
            return record
        if known is not None and (record := _failure_of_another(run, known.get(run.directory))) is not None:
            return record
        for path in run.directory.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != LOCK:
                path.unlink()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # those of the settings were seen when the plan was made
                return train_in(run.directory, run.args, run.settings, label=run.label, stop=StopOnSignal())
        except (Exception, SystemExit) as error:  # environments raise anything
            record = _failure(run, error)
            write_record(run.directory, record)
            return record


def _failure(run: Run, error: BaseException) -> dict[str, Any]:
    return failure(run.args, run.settings, run.label, error)


def _failed(run: Run, error: Exception) -> dict[str, Any]:
    """
    For what `execute` could not write itself: its process died, its disk is full. Another command, with other workers,
    may be luckier.
    """
    record = {**_failure(run, error), "trained": False}
    with contextlib.suppress(OSError):
        run.directory.mkdir(exist_ok=True)
        with lock(run.directory, wait=False) as free:
            if free and (_record(run) or {}).get("status") != "finished":  # whoever did it, and with whatever settings
                write_record(run.directory, record)
    return record


@dataclass(frozen=True)
class Expectation:
    """
    What a run is expected to cost.

    :param seconds: Of training and its evaluations, in one process; None if that is not known
    :param source: Where the number is from
    """

    seconds: float | None
    source: str


def expect(run: Run) -> Expectation:
    """
    Expect of a run what finished runs of the same algorithm and environment took, in proportion to their steps, or
    what a short training in this process takes. Writes nothing.

    :param run: A run of the plan
    :return: Its expected time
    """
    rates = []
    for file in run.directory.parent.glob(f"{env_name(run.args.env)}_*/result.json"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            record = json.loads(file.read_text())
            if record["status"] == "finished":
                rates.append((record["seconds"]["train"] + record["seconds"]["evaluate"]) / record["steps"])
    if rates:
        return Expectation(run.settings.n_timesteps * sum(rates) / len(rates), f"{len(rates)} finished")
    try:
        return _measure(run)
    except Exception as error:  # as in `execute`
        return Expectation(None, describe(error))


class _Speed(BaseCallback):
    """
    Takes the time of a short training. It does so between rollouts, each of which has its updates after it.

    :param updates: Ends it after so many
    :param seconds: Or after so much time
    """

    def __init__(self, updates: int = 300, seconds: float = 5.0) -> None:
        super().__init__()
        self.limits = updates, seconds
        self.idle: list[tuple[float, int]] = []
        self.updating: list[tuple[float, int]] = []

    def _on_rollout_start(self) -> None:
        readings = self.idle if self.model._n_updates == 0 else self.updating
        readings.append((time.perf_counter(), self.num_timesteps))

    def _on_step(self) -> bool:
        return self.model._n_updates < self.limits[0] and time.perf_counter() - self.idle[0][0] < self.limits[1]

    def rates(self) -> tuple[float, float, float]:
        """:return: Seconds of a step before the first update, of one after it, and what the first updates took more"""
        warm_up = _rate(self.idle[0], self.idle[-1])
        if not self.updating:
            return warm_up, warm_up, 0.0
        first, last = self.updating[0], self.updating[-1]
        update = _rate(first, last) if last > first else _rate(self.idle[-1], first)
        return warm_up, update, max(0.0, first[0] - self.idle[-1][0] - update * (first[1] - self.idle[-1][1]))


def _rate(start: tuple[float, int], end: tuple[float, int]) -> float:
    return (end[0] - start[0]) / max(end[1] - start[1], 1)


def _measure(run: Run) -> Expectation:
    args, steps = run.args, run.settings.n_timesteps
    learning_starts = min(run.settings.hyperparams.get("learning_starts", 100), steps)
    settings = replace(run.settings, hyperparams={**run.settings.hyperparams, "learning_starts": 100})
    with warnings.catch_warnings(), contextlib.ExitStack() as resources:
        warnings.simplefilter("ignore")
        env = resources.enter_context(contextlib.closing(make_env(args.env, settings, settings.n_envs, args.seed)))
        eval_env = make_env(args.env, settings, EVAL_ENVS, FINAL_SEED, training=False)
        resources.callback(eval_env.close)
        model = make_model(settings, args.algo, env, seed=args.seed, device=args.device)
        speed = _Speed()
        model.learn(steps, callback=speed)
        start = time.perf_counter()
        score(model, eval_env, EVAL_ENVS, FINAL_SEED)
        episode = (time.perf_counter() - start) / EVAL_ENVS
    warm_up, update, once = speed.rates()
    evaluations = steps // run.identity()["protocol"]["eval_freq"] + 1
    seconds = learning_starts * warm_up + (steps - learning_starts) * update + once
    return Expectation(seconds + evaluations * args.eval_episodes * episode, f"{model._n_updates} updates, timed here")
