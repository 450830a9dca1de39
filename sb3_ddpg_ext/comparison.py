"""
A plan of runs (algorithm x environment x seed) -> finished run directories.

Each run has a directory of its own, ``<log_dir>/<algorithm>/<env>_<seed>/``, with the files of
:mod:`sb3_ddpg_ext.training`; ``result.json`` is written last, and says that the run is done. A lock, which the system
releases when a process dies, keeps two comparisons from doing the same run at once.
"""

import contextlib
import warnings
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from sb3_ddpg_ext.arguments import CompareArgs, TrainArgs
from sb3_ddpg_ext.callbacks import StopOnSignal
from sb3_ddpg_ext.cluster import run_all
from sb3_ddpg_ext.env_scales import env_scales
from sb3_ddpg_ext.errors import SettingsError, require, unknown
from sb3_ddpg_ext.files import LOCK, lock, make_directory
from sb3_ddpg_ext.results.records import RunIdentity, RunRecord
from sb3_ddpg_ext.results.result_file import read_run, write_record
from sb3_ddpg_ext.results.scales import Scale
from sb3_ddpg_ext.run_arguments import check, check_is_evaluated, env_name, identity, settings_of
from sb3_ddpg_ext.settings import Settings
from sb3_ddpg_ext.training import can_resume, train_from_last_checkpoint
from sb3_ddpg_ext.variants import Variant, parse_variants

MIN_EVAL_EPISODES = 10


@dataclass(frozen=True)
class PlannedRun:
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

    def identity(self) -> RunIdentity:
        """:return: See :func:`sb3_ddpg_ext.run_arguments.identity`"""
        return identity(self.args, self.settings, self.label)


def plan(args: CompareArgs) -> tuple[PlannedRun, ...]:
    """
    All runs of a comparison, finished ones included. Each algorithm is built once on each environment, so that whatever
    is wrong with one of them is found here.

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
    scales_of(args)
    variants = parse_variants(args.algos)
    labels = [variant.label for variant in variants]
    if (baseline := baseline_of(args)) is not None and baseline not in labels:
        raise SettingsError(unknown("baseline", baseline, labels))
    firsts = [_first_run(args, variant, env.strip()) for env in args.envs.split(",") for variant in variants]
    for i, run in enumerate(firsts):
        # Some file systems do not distinguish small and capital letters
        if str(run.directory).casefold() in [str(other.directory).casefold() for other in firsts[:i]]:
            raise SettingsError(f"{run.label} on {run.args.env} is there twice; both would be {run.directory.name}")
        on_env = {other.label: other.settings.n_timesteps for other in firsts if other.args.env == run.args.env}
        if args.equal == "steps" and len({*on_env.values()}) > 1:
            steps = ", ".join(f"{n:,} steps for {label}" for label, n in on_env.items())
            raise SettingsError(
                f"{run.args.env}: the settings have {steps}; choose one with --steps, or --equal seconds"
            )
    return tuple(_with_seed(run, seed) for seed in range(args.seeds) for run in firsts)


def scales_of(args: CompareArgs) -> dict[str, Scale]:
    """:return: What the scores of a comparison are measured against"""
    return env_scales([env.strip() for env in args.envs.split(",")], args.scales, args.threshold)


def baseline_of(args: CompareArgs) -> str | None:
    """:return: The label of the baseline that was asked for, if one was"""
    return None if args.baseline is None else ",".join(variant.label for variant in parse_variants(args.baseline))


def _first_run(args: CompareArgs, variant: Variant, env: str) -> PlannedRun:
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
        check_is_evaluated(train_args, settings)
    except SettingsError as error:
        raise SettingsError(f"{variant.label} on {env}: {error}") from error
    folder = train_args.log_dir / variant.folder
    return _with_seed(PlannedRun(variant.label, train_args, settings, folder / env_name(env)), 0)


def _with_seed(run: PlannedRun, seed: int) -> PlannedRun:
    directory = run.directory.with_name(f"{env_name(run.args.env)}_{seed}")
    return replace(run, args=replace(run.args, seed=seed), directory=directory)


def finished(run: PlannedRun) -> RunRecord | None:
    """
    Read the record of a run.

    :param run: One run of the plan
    :return: The record; None if the run is not finished
    :raises SettingsError: If another run is finished in its directory, which is not overwritten
    """
    record = read_run(run.directory)
    if not record.is_finished:
        return None
    if differences := run.identity().differences(record):
        raise SettingsError(
            f"{run.directory} is finished, but with other {' and '.join(differences)}; choose another --log-dir or "
            "remove it"
        )
    return record


def unfinished_state(run: PlannedRun, resume: bool = True) -> str | None:
    """
    Say what there is of a run that is not finished, and what will be done with it.

    :param run: One run of the plan
    :param resume: Whether it goes on from its last checkpoint, if it was killed
    :return: None if nobody has begun it
    :raises SettingsError: If its directory was not made by a comparison, so that it is not cleared
    """
    if not run.directory.is_dir() or not any(run.directory.iterdir()) or finished(run) is not None:
        return None
    if not (run.directory / LOCK).exists():
        raise SettingsError(f"{run.directory} was not made by a comparison; choose another --log-dir or remove it")
    with lock(run.directory, wait=False) as acquired:
        if not acquired:
            return "another process is at it, whose result is waited for"
    record = read_run(run.directory)
    reason = f" ({record.reason})" if record.status != "not finished" else ""
    if resume and can_resume(run.directory, run.identity()):
        return f"{record.status}{reason}, so it goes on from its last checkpoint"
    return f"{record.status}{reason}, so it is run again, from scratch"


def steps_so_far(run: PlannedRun) -> int:
    """:return: Environment steps of the episodes that a run has finished, as its monitor files have them"""
    steps = 0
    for file in run.directory.glob("*.monitor.csv"):
        with contextlib.suppress(OSError):
            lines = file.read_text(errors="replace").split("\n")[2:-1]  # the last one may be incomplete
            lengths = (line.partition(",")[2].partition(",")[0] for line in lines)
            steps += sum(int(length) for length in lengths if length.isdigit())
    return min(steps, run.settings.n_timesteps)


def run_missing(
    runs: Sequence[PlannedRun],
    *,
    workers: int,
    scheduler: str | None = None,
    resume: bool = True,
    on_start: Callable[[PlannedRun], object] = lambda _: None,
) -> Generator[tuple[PlannedRun, RunRecord], None, None]:
    """
    Do the runs that are not finished. To be closed if it is not iterated to its end.

    :param runs: Runs of a plan
    :param workers: See :func:`sb3_ddpg_ext.cluster.run_all`
    :param scheduler: Likewise
    :param resume: Whether runs that were killed go on from their last checkpoint
    :param on_start: Called with a run when it begins
    :return: Each run with its record, in the order in which they end; their status is finished or failed
    :raises SettingsError: If the log directory cannot be written to, and as ``run_all``
    """
    for folder in dict.fromkeys(run.directory.parent for run in runs):
        make_directory(folder)
    for wait in (False, True):  # runs that another process is doing come last: they may be finished by then
        locked = []
        do = partial(execute, wait=wait, resume=resume)
        results = run_all(do, runs, workers=workers, scheduler=scheduler, on_start=on_start)
        with contextlib.closing(results):
            for run, result in results:
                if result is None:
                    locked.append(run)
                else:
                    yield run, result if isinstance(result, RunRecord) else _record_failure(run, result)
        runs = locked


def execute(run: PlannedRun, *, wait: bool = False, resume: bool = True) -> RunRecord | None:
    """
    Do one run, unless it is finished. If training raises an exception, the record says so.

    :param run: What to do
    :param wait: Whether to wait if another process is doing it
    :param resume: Whether to go on from the last checkpoint, if there is one
    :return: The record; None if another process is doing it and ``wait`` is false
    :raises SettingsError: If another run was finished in its directory meanwhile
    """
    run.directory.mkdir(exist_ok=True)  # without parents: a worker that does not see the log directory must not train
    with lock(run.directory, wait=wait) as acquired:
        if not acquired:
            return None
        if (record := finished(run)) is not None:
            return record
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the user saw those of the settings when the plan was made
                return train_from_last_checkpoint(
                    run.directory, run.args, run.settings, label=run.label, stop=StopOnSignal(), resume=resume
                )
        except (Exception, SystemExit) as error:  # environments raise anything
            record = RunRecord.of_failure(run.identity(), run.directory, error)
            write_record(record)
            return record


def _record_failure(run: PlannedRun, error: Exception) -> RunRecord:
    """Record a failure that ``execute`` could not record itself: its process died, or its disk is full."""
    record = RunRecord.of_failure(run.identity(), run.directory, error)
    with contextlib.suppress(OSError):
        run.directory.mkdir(exist_ok=True)
        with lock(run.directory, wait=False) as acquired:
            if acquired and not read_run(run.directory).is_finished:  # another command may have finished it
                write_record(record)
    return record
