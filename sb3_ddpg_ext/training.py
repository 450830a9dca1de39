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
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch as th
import tyro
import yaml
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv, sync_envs_normalization

from sb3_ddpg_ext.building import make_env, make_model, one_line
from sb3_ddpg_ext.files import atomic
from sb3_ddpg_ext.settings import Settings, SettingsError, load_settings

# All algorithms and runs are evaluated on the same episodes; the final ones are not those that chose the best model.
EVAL_SEED, FINAL_SEED = 1_000_000, 2_000_000
EVAL_ENVS = 5  # evaluated side by side, so that the policy is asked once for all of them


@dataclass(frozen=True)
class TrainArgs:
    """Train an algorithm on an environment with the settings of hyperparams/, and write a run directory."""

    env: str
    """id of a Gymnasium environment, with the package to import first where it needs one: package:Env-v0"""
    algo: str = "custom_ddpg"
    """custom_ddpg, ddpg, td3, sac (Stable-Baselines3) or tqc, crossq (sb3-contrib)"""
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


def require(module: str, extra: str) -> None:
    """
    Check that an optional package is there.

    :param module: What will be imported
    :param extra: The extra of this package that brings it
    :raises SettingsError: With the line that installs it
    """
    if find_spec(module) is None:
        raise SettingsError(f"{module} is not installed: pip install 'sb3_ddpg_ext[{extra}]'")


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


class Evaluation(EvalCallback):
    """
    SB3's evaluation, with the same episodes each time, its time taken, and its files written whole: the evaluations,
    and the best model together with the VecNormalize statistics that belong to it.

    :param directory: The run directory
    :param eval_env: Where the episodes are played
    :param eval_freq: Steps of the vectorized environment between two evaluations, 0 for none
    :param episodes: Episodes of each evaluation
    :param stop: What interrupts an evaluation
    """

    def __init__(self, directory: Path, eval_env: VecEnv, eval_freq: int, episodes: int, stop: StopOnSignal) -> None:
        super().__init__(eval_env, n_eval_episodes=episodes, eval_freq=eval_freq, verbose=0, log_path=str(directory))
        self.directory = directory
        self.stop = stop
        self.seconds = 0.0

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
        start = time.perf_counter()
        best = self.best_mean_reward
        self.eval_env.seed(EVAL_SEED)
        try:
            with atomic(self.directory / "evaluations.npz") as partial:
                self.log_path = str(partial)
                super()._on_step()
        except InterruptedEvaluationError:
            return False
        if self.best_mean_reward > best:
            save_model(self.model, self.directory / "best_model.zip", self.directory / "best_model_vecnormalize.pkl")
        self.seconds += time.perf_counter() - start
        return True


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
    :return: The result record, as written to ``result.json`` (``"directory"`` says where)
    :raises SettingsError: For anything that the caller has to mend
    """
    overrides = [*args.params]
    overrides += [] if args.steps is None else [f"n_timesteps={args.steps}"]
    overrides += [] if args.n_envs is None else [f"n_envs={args.n_envs}"]
    settings = load_settings(args.algo, args.env, args.hyperparams, overrides)
    _check(args, settings)
    with StopOnSignal() as stop:
        return _train(args, settings, stop)


def _check(args: TrainArgs, settings: Settings) -> None:
    """Whatever is refused is refused here, before anything is written."""
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


def _train(args: TrainArgs, settings: Settings, stop: StopOnSignal) -> dict[str, Any]:
    name = env_name(args.env)
    directory = _make_run_directory(args.log_dir / args.algo, name)
    arguments = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(args).items()}
    arguments["params"] = list(args.params)
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
        eval_freq = max(settings.n_timesteps // 20, 1) if args.eval_freq is None else args.eval_freq
        evaluation = Evaluation(directory, eval_env, -(-eval_freq // settings.n_envs), args.eval_episodes, stop)
        callbacks = [*_make_callbacks(settings), evaluation, stop]

        wall, cpu = time.perf_counter(), time.process_time()
        try:
            model.learn(settings.n_timesteps, callback=callbacks, progress_bar=not args.quiet)
        finally:  # whatever ended training, what was reached is kept
            seconds = {
                "train": time.perf_counter() - wall - evaluation.seconds,
                "evaluate": evaluation.seconds,
                "cpu": time.process_time() - cpu,
            }
            save_model(model, directory / f"{name}.zip", directory / name / "vecnormalize.pkl")
        final = _final_score(model, env, eval_env, args.eval_episodes, stop)

    record = {
        "status": "interrupted" if final is None else "finished",
        "directory": str(directory),
        **{key: arguments[key] for key in ("algo", "env", "seed")},
        "steps": model.num_timesteps,
        "updates": model._n_updates,
        "score": final,
        "best_evaluation": _best_evaluation(evaluation),
        "seconds": seconds,
        "settings": dict(settings.raw),
        "vec_env": args.vec_env,
        "device": str(model.device),
        "threads": th.get_num_threads(),
        **versions_and_machine(),
    }
    with atomic(directory / "result.json") as partial:
        partial.write_text(json.dumps(record, indent=2))
    return record


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
    return {
        "mean": float(np.mean(returns)),
        "std": float(np.std(returns)),
        "episodes": episodes,
        "seed": seed,
        "returns": [float(r) for r in np.ravel(returns)],
        "lengths": [int(n) for n in np.ravel(lengths)],
    }


def _best_evaluation(evaluation: Evaluation) -> dict[str, Any] | None:
    if not evaluation.evaluations_results:
        return None
    means = np.mean(evaluation.evaluations_results, axis=1)
    best = int(np.argmax(means))
    return {"mean": float(means[best]), "step": int(evaluation.evaluations_timesteps[best]), "seed": EVAL_SEED}


def versions_and_machine() -> dict[str, Any]:
    """:return: What the figures of a record depend on: ``versions`` of packages, and the ``machine``"""
    versions = {"python": platform.python_version()}
    for package in ("sb3_ddpg_ext", "stable_baselines3", "sb3_contrib", "torch", "gymnasium", "numpy", "mujoco"):
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
