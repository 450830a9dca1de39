"""
One training run: settings -> environments, model, learn -> one run directory with one result record.

The directory has RL Zoo's layout, ``<log_dir>/<algo>/<env>_<n>/``:

===========================  ==========================================================================
``<env>.zip``                the last model; its VecNormalize statistics in ``<env>/vecnormalize.pkl``
``best_model.zip``           the model of the best evaluation; ``best_model_vecnormalize.pkl`` beside it
``evaluations.npz``          the evaluations during training (``timesteps``, ``results``, ``ep_lengths``)
``0.monitor.csv``            the episodes of training, one file for each environment
``<env>/config.yml``         the settings, which :func:`sb3_ddpg_ext.settings.parse_settings` reads again
``<env>/args.yml``           the arguments of the run
``result.json``              what came out: scores, times, versions, machine
===========================  ==========================================================================
"""

import contextlib
import json
import os
import platform
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch as th
import tyro
import yaml
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback, ProgressBarCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv, sync_envs_normalization

from sb3_ddpg_ext.building import make_env, make_model
from sb3_ddpg_ext.errors import FaultyEnvironmentError, NonFiniteError, describe, one_line, trace
from sb3_ddpg_ext.files import atomic
from sb3_ddpg_ext.settings import Settings, SettingsError, load_settings, require

# All algorithms and runs are evaluated with the same seeds; the final episodes are not those that chose the best model.
EVAL_SEED, FINAL_SEED = 1_000_000, 2_000_000
EVAL_ENVS = 5  # evaluated side by side, so that the policy is asked once for all of them


@dataclass(frozen=True)
class TrainArgs:
    """Train an algorithm on an environment with the settings of hyperparams/, and write a run directory."""

    env: str
    """id of a Gymnasium environment, with the package to import first where it needs one: package:Env-v0"""
    algo: str = "custom_ddpg"
    """custom_ddpg, ddpg, td3, sac (Stable-Baselines3), tqc, crossq (sb3-contrib), or SBX's: sbx_ddpg, sbx_sac, ..."""
    steps: int | None = None
    """environment steps, over all environments; as the settings say if not given"""
    seed: int = 0
    """seed of networks, environments and exploration"""
    n_envs: int | None = None
    """parallel environments; as the settings say if not given"""
    vec_env: Literal["dummy", "subproc"] = "dummy"
    """step the environments in this process or in one process each"""
    hyperparams: Path | None = None
    """YAML file in RL Zoo's format; this package's own if not given"""
    params: Annotated[
        tuple[str, ...], tyro.conf.arg(aliases=["-p"], metavar="NAME=VALUE"), tyro.conf.UseAppendAction
    ] = ()
    """override of one setting, e.g. -p gamma=0.98 -p policy_kwargs="dict(net_arch=[64, 64])" """
    eval_freq: int | None = None
    """environment steps between evaluations, 0 for none; a twentieth of the run if not given"""
    eval_episodes: int = 20
    """episodes of each evaluation, the final one included"""
    log_dir: Path = Path("runs")
    """where run directories are made"""
    tensorboard: bool = False
    """write TensorBoard logs into the run directory"""
    device: str = "auto"
    """cpu, cuda, or auto for the GPU where there is one"""
    threads: int | None = None
    """threads of PyTorch on the CPU; its own choice if not given"""
    quiet: bool = False
    """no progress bar, only the result"""


class InterruptedEvaluationError(Exception):
    """A signal arrived in the middle of an evaluation."""


class StopOnSignal(BaseCallback):
    """
    End training after the step in which Ctrl-C or SIGTERM arrives, so that nothing is half done when it is saved, and
    evaluations at once. As a context manager it listens; the second signal does what it did before.
    """

    def __init__(self) -> None:
        super().__init__()
        self.received = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopOnSignal":
        with contextlib.suppress(ValueError):  # signals can be caught in the main thread only
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, lambda *_: self._receive())
        return self

    def __exit__(self, *_: object) -> None:
        while self._previous:
            signal.signal(*self._previous.popitem())

    def _receive(self) -> None:
        self.received = True
        self.__exit__()

    def _on_step(self) -> bool:
        return not self.received

    def check(self, *_: object) -> None:
        """
        To be called at each step of an evaluation.

        :raises InterruptedEvaluationError: If a signal has arrived
        """
        if self.received:
            raise InterruptedEvaluationError


@contextlib.contextmanager
def _deaf_children() -> Iterator[None]:
    """Processes started here ignore Ctrl-C, which a terminal sends to all of them: the parent decides."""
    try:
        previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


class TrainingClock:
    """Wall-clock and CPU seconds of this process since now, without those spent on evaluations."""

    def __init__(self) -> None:
        self._start = self._now()
        self.evaluations = np.zeros(2)

    @staticmethod
    def _now() -> np.ndarray:
        return np.array([time.perf_counter(), time.process_time()])

    def read(self) -> tuple[float, float]:
        """:return: Wall-clock and CPU seconds"""
        wall, cpu = self._now() - self._start - self.evaluations
        return float(wall), float(cpu)

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Time that does not count."""
        start = self._now()
        try:
            yield
        finally:
            self.evaluations += self._now() - start


class Evaluation(EvalCallback):
    """
    SB3's evaluation, with the same seeds each time, on its own time, and its files written whole: the evaluations,
    and the best model together with the VecNormalize statistics that belong to it.

    :param directory: The run directory
    :param eval_env: Where the episodes are played
    :param eval_freq: Steps of the vectorized environment between two evaluations, 0 for none
    :param episodes: Episodes of each evaluation
    :param stop: What interrupts an evaluation
    :param on_evaluation: Called after each with :meth:`record`; what it raises ends training
    """

    def __init__(
        self,
        directory: Path,
        eval_env: VecEnv,
        eval_freq: int,
        episodes: int,
        stop: StopOnSignal,
        on_evaluation: Callable[[dict[str, Any]], object] = lambda _: None,
    ) -> None:
        super().__init__(eval_env, n_eval_episodes=episodes, eval_freq=eval_freq, verbose=0, log_path=str(directory))
        self.directory = directory
        self.stop = stop
        self.on_evaluation = on_evaluation
        self.clock = TrainingClock()
        self.clock_readings: list[tuple[float, float]] = []

    def _on_training_start(self) -> None:
        self.clock = TrainingClock()

    def _init_callback(self) -> None:
        with warnings.catch_warnings():
            # Training environments may be in other processes, those of evaluation never are
            warnings.filterwarnings("ignore", "Training and eval env are not of the same type")
            super()._init_callback()

    def _log_success_callback(self, locals_: dict[str, Any], globals_: dict[str, Any]) -> None:
        self.stop.check()
        super()._log_success_callback(locals_, globals_)

    def _on_step(self) -> bool:
        if self.eval_freq <= 0 or self.n_calls % self.eval_freq:
            return True
        reading = self.clock.read()
        with self.clock.stopped():
            return self._evaluate(reading)

    def _evaluate(self, reading: tuple[float, float]) -> bool:
        best = self.best_mean_reward
        self.eval_env.seed(EVAL_SEED)
        try:
            with atomic(self.directory / "evaluations.npz") as partial:
                self.log_path = str(partial)
                super()._on_step()
        except InterruptedEvaluationError:
            return False
        self.clock_readings.append(reading)
        _check_returns(self.evaluations_results[-1], f"An episode of the evaluation at step {self.num_timesteps}")
        if self.best_mean_reward > best:
            save_model(self.model, self.directory / "best_model.zip", self.directory / "best_model_vecnormalize.pkl")
        self.on_evaluation(self.record())
        return True

    def record(self) -> dict[str, Any]:
        """:return: The evaluations: their steps, the training time up to each, the return of each episode"""
        return {
            "steps": [int(step) for step in self.evaluations_timesteps],
            "seconds": [wall for wall, _ in self.clock_readings],
            "cpu_seconds": [cpu for _, cpu in self.clock_readings],
            "returns": [[float(r) for r in returns] for returns in self.evaluations_results],
        }

    def best(self) -> dict[str, Any] | None:
        """:return: Mean return and step of the evaluation that chose the best model, None if there was none"""
        if not self.evaluations_results:
            return None
        means = np.mean(self.evaluations_results, axis=1)
        best = int(np.argmax(means))
        return {"mean": float(means[best]), "step": int(self.evaluations_timesteps[best]), "seed": EVAL_SEED}


def save_model(model: Any, path: Path, vecnormalize: Path) -> None:
    """
    Save a model and, if it has any, the VecNormalize statistics that belong to it, each whole or not at all.

    :param model: An SB3 algorithm
    :param path: File of the model
    :param vecnormalize: File of the statistics
    """
    normalize = model.get_vec_normalize_env()
    with contextlib.ExitStack() as files:  # both are written, then both are renamed
        model.save(files.enter_context(atomic(path)))
        if normalize is not None:
            normalize.save(str(files.enter_context(atomic(vecnormalize))))


def set_threads(threads: int | None) -> None:
    """
    Set PyTorch's number of threads.

    :param threads: How many; None leaves it alone
    :raises SettingsError: If there are none
    """
    if threads is not None:
        if threads < 1:
            raise SettingsError(f"--threads must be 1 or more, got {threads}")
        th.set_num_threads(threads)


def check_device(device: str) -> None:
    """
    Refuse a GPU that is not there, in whose place SB3 would take the CPU without a word.

    :param device: As PyTorch names it, or auto
    :raises SettingsError: If it is not there
    """
    if device.startswith("cuda") and not th.cuda.is_available():
        raise SettingsError(f"--device {device}: PyTorch finds no CUDA device; use --device cpu, or auto")


def train(args: TrainArgs) -> dict[str, Any]:
    """
    One training run, from its arguments to its finished run directory.

    :param args: What to train, and how
    :return: The result record, as written to ``result.json``, and ``"directory"``, which says where
    :raises SettingsError: For anything that the caller has to mend before it begins
    :raises Exception: Whatever is raised in training, with the attribute ``run_directory``; a record says so, too
    """
    settings = settings_of(args)
    check(args, settings)
    directory = _make_run_directory(args.log_dir / args.algo, env_name(args.env))
    try:
        with StopOnSignal() as stop:
            record = train_in(directory, args, settings, label=args.algo, stop=stop)
    except (Exception, SystemExit) as error:
        with contextlib.suppress(OSError):  # of a full disk, which may be what ended it
            write_record(directory, failure(args, settings, args.algo, error))
        vars(error)["run_directory"] = directory
        raise
    return {**record, "directory": str(directory)}


def failure(args: TrainArgs, settings: Settings, label: str, error: BaseException) -> dict[str, Any]:
    """
    :param args: What was to be trained
    :param settings: Its settings
    :param label: What the user calls it
    :param error: What was raised
    :return: The record of a run that has failed
    """
    where = {"where": error.where} if isinstance(error, FaultyEnvironmentError) else {}
    record = {**identity(args, settings, label), "status": "failed", "error": describe(error), **where}
    return {**record, "traceback": trace(error)}


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


def check(args: TrainArgs, settings: Settings) -> None:
    """
    Whatever is refused is refused here, before anything is written.

    :param args: What to train, and how
    :param settings: Its settings
    :raises SettingsError: For anything that the caller has to mend
    """
    if args.eval_episodes < 1:
        raise SettingsError(f"--eval-episodes must be 1 or more, got {args.eval_episodes}")
    if args.eval_freq is not None and args.eval_freq < 0:
        raise SettingsError(f"--eval-freq must be 0 (for no evaluations) or more, got {args.eval_freq}")
    set_threads(args.threads)
    check_device(args.device)
    if args.tensorboard:
        require("tensorboard", "tensorboard")
    if not args.quiet:
        require("tqdm", "train")
        require("rich", "train")
    _make_callbacks(settings)
    with contextlib.closing(make_env(args.env, settings, 1, args.seed)) as env:
        make_model(settings, args.algo, env, seed=args.seed, device=args.device)


def _make_callbacks(settings: Settings) -> list[BaseCallback]:
    try:
        return [callback(**kwargs) for callback, kwargs in settings.callback]
    except Exception as error:  # as in `make_model`
        raise SettingsError(f"callback: {one_line(error)}") from error


def identity(args: TrainArgs, settings: Settings, label: str) -> dict[str, Any]:
    """
    What a run is, and all that its result depends on but the machine: two runs with equal ones are the same run.

    :param args: What to train, and how
    :param settings: Its settings
    :param label: What the user calls this algorithm with these settings
    :return: The first entries of its result record
    """
    return {
        "label": label,
        "algo": args.algo,
        "env": args.env,
        "seed": args.seed,
        "planned_steps": settings.n_timesteps,
        # JSON has no infinities, which YAML has
        "settings": json.loads(json.dumps(settings.raw, default=str), parse_constant=str),
        "protocol": {
            "eval_freq": _eval_freq(args, settings),
            "eval_episodes": args.eval_episodes,
            "seeds": [EVAL_SEED, FINAL_SEED],
        },
        "vec_env": args.vec_env,
        "threads": args.threads or th.get_num_threads(),
    }


def _eval_freq(args: TrainArgs, settings: Settings) -> int:
    return max(settings.n_timesteps // 20, 1) if args.eval_freq is None else args.eval_freq


def train_in(
    directory: Path,
    args: TrainArgs,
    settings: Settings,
    *,
    label: str,
    stop: StopOnSignal,
    on_evaluation: Callable[[dict[str, Any]], object] = lambda _: None,
) -> dict[str, Any]:
    """
    One training run in a directory that is there, and is its own. Its record is written last.

    :param directory: Where
    :param args: What to train, and how
    :param settings: Its settings
    :param label: What the user calls this algorithm with these settings
    :param stop: What ends it before its time
    :param on_evaluation: Called after each evaluation with those so far; what it raises ends the run without a record
    :return: The result record
    :raises NonFiniteError: If a return of an evaluation, or what CustomDDPG is given or gives, is not finite
    :raises FaultyEnvironmentError: If the environment raises, or returns what no environment may return
    """
    name = env_name(args.env)
    set_threads(args.threads)
    arguments = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(args).items()}
    arguments |= {"label": label, "params": list(args.params)}
    (directory / name).mkdir(exist_ok=True)
    for file, content in (("config.yml", dict(settings.raw)), ("args.yml", arguments)):
        with atomic(directory / name / file) as partial:
            partial.write_text(yaml.safe_dump(content))

    with contextlib.ExitStack() as resources:
        with _deaf_children() if args.vec_env == "subproc" else contextlib.nullcontext():
            env = make_env(args.env, settings, settings.n_envs, args.seed, vec_env=args.vec_env, monitor_dir=directory)
        resources.callback(env.close)
        eval_env = make_env(args.env, settings, min(EVAL_ENVS, args.eval_episodes), EVAL_SEED, training=False)
        resources.callback(eval_env.close)
        tensorboard_log = str(directory / "tensorboard") if args.tensorboard else None
        model = make_model(
            settings, args.algo, env, seed=args.seed, device=args.device, tensorboard_log=tensorboard_log
        )
        # At least so many steps of all environments together
        eval_freq = -(-_eval_freq(args, settings) // settings.n_envs)
        evaluation = Evaluation(directory, eval_env, eval_freq, args.eval_episodes, stop, on_evaluation)
        bars = [] if args.quiet else [ProgressBarCallback()]
        callbacks = [*_make_callbacks(settings), evaluation, stop, *bars]

        files = directory / f"{name}.zip", directory / name / "vecnormalize.pkl"
        try:
            model.learn(settings.n_timesteps, callback=callbacks)
        except BaseException:  # whatever ended training, what was reached is kept
            with contextlib.suppress(OSError):  # what ended it is to be said, and not that the disk is full as well
                save_model(model, *files)
            raise
        finally:
            for bar in bars:
                if hasattr(bar, "pbar"):  # SB3 leaves it open after an error, which would not be the last thing seen
                    bar.pbar.close()
        wall, cpu = evaluation.clock.read()
        save_model(model, *files)
        final = _final_score(model, env, eval_env, args.eval_episodes, stop)

    record = {
        **identity(args, settings, label),
        "status": "interrupted" if final is None else "finished",
        "error": None,
        "steps": model.num_timesteps,
        "updates": model._n_updates,
        "score": final,
        "best_evaluation": evaluation.best(),
        "evaluations": evaluation.record(),
        "seconds": {"train": wall, "evaluate": float(evaluation.clock.evaluations[0]), "cpu": cpu},
        "device": str(model.device),
        **versions_and_machine(),
    }
    write_record(directory, record)
    return record


def write_record(directory: Path, record: dict[str, Any]) -> None:
    """
    Write the record that ends a run, whole or not at all.

    :param directory: The run directory
    :param record: What came out, without NaN and infinity
    """
    with atomic(directory / "result.json") as partial:
        partial.write_text(json.dumps(record, indent=2, allow_nan=False))


def _final_score(
    model: OffPolicyAlgorithm, env: VecEnv, eval_env: VecEnv, episodes: int, stop: StopOnSignal
) -> dict[str, Any] | None:
    """The last model's score, None if a signal came first."""
    if model.get_vec_normalize_env() is not None:
        sync_envs_normalization(env, eval_env)
    try:
        stop.check()
        return score(model, eval_env, episodes, FINAL_SEED, callback=stop.check)
    except InterruptedEvaluationError:
        return None


def env_name(env_id: str) -> str:
    """:return: The id of an environment as a file name: without the package, and ``/`` replaced as RL Zoo does"""
    return env_id.split(":")[-1].replace("/", "-")


def _make_run_directory(parent: Path, name: str) -> Path:
    """The first ``<name>_<n>`` that nobody has yet; making a directory is what decides between two at once."""
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
        except FileExistsError:  # somebody else made it at this moment, or `parent` is a file
            if not parent.is_dir():
                raise SettingsError(f"cannot write to {parent}: it is not a directory") from None
        except OSError as error:
            raise SettingsError(f"cannot write to {parent}: {error.strerror}; choose another --log-dir") from error


def score(model: OffPolicyAlgorithm, env: VecEnv, episodes: int, seed: int, **kwargs: Any) -> dict[str, Any]:
    """
    Play episodes.

    :param model: The policy to be asked, deterministically unless ``kwargs`` say otherwise
    :param env: Where; VecNormalize must not be in training
    :param episodes: How many, over all environments of ``env``
    :param seed: Seed of the first environment, the others' follow
    :param kwargs: Further arguments of SB3's ``evaluate_policy``
    :return: Mean and standard deviation of the returns, the returns themselves, and the lengths in steps
    """
    env.seed(seed)
    returns, lengths = evaluate_policy(model, env, episodes, return_episode_rewards=True, **kwargs)
    _check_returns(returns, "An episode of the evaluation")
    return {
        "mean": float(np.mean(returns)),
        "std": float(np.std(returns)),
        "episodes": episodes,
        "seed": seed,
        "returns": [float(r) for r in np.ravel(returns)],
        "lengths": [int(n) for n in np.ravel(lengths)],
    }


def _check_returns(returns: Any, what: str) -> None:
    bad = np.ravel(returns)[~np.isfinite(np.ravel(returns))]
    if bad.size:
        raise NonFiniteError(
            f"{what} has the return {bad[0]}: rewards must be finite; if they are, the weights have diverged, and a "
            "lower learning_rate may help."
        )


def versions_and_machine() -> dict[str, Any]:
    """:return: What the figures of a record depend on: ``versions`` of packages, and the ``machine``"""
    versions = {"python": platform.python_version()}
    packages = "sb3_ddpg_ext stable_baselines3 sb3_contrib torch gymnasium numpy mujoco sbx_rl jax"
    for package in packages.split():
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    machine = {"system": platform.platform(), "processor": _processor(), "cores": os.cpu_count()}
    return {"versions": versions, "machine": machine}


def _processor() -> str:
    with contextlib.suppress(OSError):  # Linux tells its name here only
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
