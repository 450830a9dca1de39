"""
The arguments of all commands, as a user gives them.

This module needs neither PyTorch nor Stable-Baselines3, so that `--help` answers at once.
"""

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Literal

import tyro

from sb3_ddpg_ext.protocol import EVAL_MAX_STEPS, FINAL_SEED

PrunerName = Literal["median", "halving", "wilcoxon", "none"]
SamplerName = Literal["tpe", "random", "cmaes", "gp"]
ExportFormat = Literal["torchscript", "onnx"]


class ScoreKind(str, Enum):
    """What a search optimises. The values are what users write on the command line, and what a study stores."""

    FINAL = "final"
    AREA_OVER_STEPS = "area"
    STEPS_TO_THRESHOLD = "steps"
    SECONDS_TO_THRESHOLD = "seconds"


@dataclass(frozen=True)
class TrainArgs:
    """Train an algorithm on an environment with the settings of hyperparams/, and write a run directory."""

    env: Annotated[str, tyro.conf.arg(help_behavior_hint="(required, except with --resume)")] = ""
    """id of a Gymnasium environment, with the module to import first where it needs one (module:Env-v0), or a class
    (module:Class)"""
    algo: str = "custom_ddpg"
    """custom_ddpg, ddpg, td3, sac (Stable-Baselines3), tqc, crossq (sb3-contrib), SBX's: sbx_ddpg, sbx_sac, ...,
    or a class of yours: module:Class"""
    steps: int | None = None
    """environment steps, over all environments; as the settings say if not given"""
    seed: int = 0
    """seed of networks, environments and exploration"""
    n_envs: int | None = None
    """parallel environments; as the settings say if not given"""
    vec_env: Literal["dummy", "subproc"] = "dummy"
    """step the environments in this process or in one process each"""
    hyperparams: Path | None = None
    """YAML file in RL Zoo's format, or the name of one of this package: few_steps, ddpg, ...; the algorithm's own if
    not given"""
    params: Annotated[
        tuple[str, ...], tyro.conf.arg(aliases=["-p"], metavar="NAME=VALUE"), tyro.conf.UseAppendAction
    ] = ()
    """override of one setting, e.g. -p gamma=0.98, or of a part of one: -p policy_kwargs.net_arch=[64,64]"""
    eval_freq: int | None = None
    """environment steps between evaluations, 0 for none; a twentieth of the run if not given"""
    eval_episodes: int = 20
    """episodes of each evaluation, the final one included"""
    eval_max_steps: int = EVAL_MAX_STEPS
    """steps after which an episode of an evaluation is cut off, 0 for never"""
    checkpoint_freq: int | None = None
    """environment steps between checkpoints, from which a run goes on after whatever has ended it, 0 for none; a
    twentieth of the run, and at least 1000, if not given"""
    resume: Annotated[Path | None, tyro.conf.arg(metavar="RUN")] = None
    """go on with the run in this directory from its last checkpoint; all other arguments stay what they were"""
    log_dir: Path = Path("runs")
    """where run directories are made"""
    tensorboard: bool = False
    """write TensorBoard logs into the run directory"""
    track: Literal["wandb", "mlflow", "trackio"] | None = None
    """track the run in Weights & Biases, MLflow or Trackio; nothing is uploaded unless you are logged in to Weights &
    Biases, or an environment variable names a server"""
    device: str = "auto"
    """cpu, cuda, or auto for the GPU where there is one"""
    threads: int | None = None
    """threads of PyTorch on the CPU; if not given, one for small networks, and otherwise its own choice"""
    quiet: bool = False
    """no progress bar, only the result"""


@dataclass(frozen=True)
class EvaluateArgs:
    """Play episodes with a trained model, and print what it scores."""

    run_or_model: tyro.conf.Positional[Path]
    """run directory, or a model's .zip file"""
    episodes: int = 20
    """how many episodes"""
    eval_max_steps: int = EVAL_MAX_STEPS
    """steps after which an episode is cut off, 0 for never"""
    model: Literal["best", "last"] = "best"
    """which model of a run directory"""
    stochastic: bool = False
    """let the policy sample its actions (SAC, TQC and CrossQ; DDPG and TD3 are deterministic anyway)"""
    render: bool = False
    """show the episodes in a window"""
    video: Path | None = None
    """record the episodes into this folder"""
    seed: int = FINAL_SEED
    """seed of the first environment"""
    algo: str | None = None
    """algorithm of a model that lies outside of a run directory"""
    env: str | None = None
    """environment to play in; that of the run if not given"""
    device: str = "auto"
    """cpu, cuda, or auto for the GPU where there is one"""
    threads: int | None = None
    """threads of PyTorch on the CPU; its own choice if not given"""
    trusted: bool = False
    """trust the author of the run: let its settings import modules that lie in its directory, and run code from the
    model's files, where they are pickles: those of SB3, SBX and early versions"""


@dataclass(frozen=True)
class InspectArgs:
    """Draw what happened in a run on one page, inspection.html in its directory, and say what looks wrong."""

    run: tyro.conf.Positional[Path]
    """run directory"""


@dataclass(frozen=True)
class CompareArgs:
    """
    Train algorithms on environments with several seeds each, and write a report. Finished runs are kept: the same
    command goes on where it was stopped, and more algorithms, environments or seeds add to it.
    """

    algos: str
    """separated by commas, with settings: custom_ddpg:gamma=0.9,tau=0.01 or
    custom_ddpg:hyperparams=ddpg; with a name of yours: short=custom_ddpg:gamma=0.9; classes of yours: module:Class"""
    envs: str
    """ids of Gymnasium environments, or classes (module:Class), separated by commas"""
    seeds: int = 5
    """how many runs of each algorithm on each environment; their seeds are 0, 1, 2, ..."""
    steps: int | None = None
    """environment steps of each run; as the settings say if not given, where these agree"""
    equal: Literal["steps", "seconds"] = "steps"
    """compare after the same number of steps; or after the same CPU seconds of training, when the fastest run ends:
    give each algorithm with n_timesteps=... the steps that take about as long"""
    eval_freq: int | None = None
    """environment steps between evaluations; a twentieth of the run if not given"""
    eval_episodes: int = 20
    """episodes of each evaluation, 10 or more"""
    baseline: str | None = None
    """the algorithm, as written in --algos, that the report compares the others with; ddpg if it is among them, and
    otherwise the first, if not given"""
    threshold: float | None = None
    """the return at which each environment counts as solved; that of --scales, of the package's table, or of the
    environment's registration if not given"""
    scales: Path | None = None
    """YAML file of scores to normalise by: Env-v0: {random: -1200, reference: -150, threshold: -200}"""
    format: Annotated[tuple[Literal["pdf", "svg", "latex"], ...], tyro.conf.UseAppendAction] = ()
    """what to write of the report beside its pages: each picture as pdf or svg, each table as latex; repeat it for
    more than one: --format pdf --format latex"""
    log_dir: Path = Path("runs/compare")
    """where run directories and report are made"""
    workers: int = 2
    """processes, one run at a time in each; 0 for this process alone"""
    scheduler: str | None = None
    """Dask scheduler whose workers are used instead: tcp://host:8786; it and they need this package, and the workers
    the log directory"""
    resume: bool = True
    """go on with runs that were killed from their last checkpoint, not from scratch"""
    dry_run: bool = False
    """say what would be done, and about how long it takes"""
    quiet: bool = False
    """no progress display, only the result"""


@dataclass(frozen=True)
class TuneArgs:
    """
    Search for better hyperparameters, train the best ones again on fresh seeds, and write the winner into hyperparams/
    in the current folder. The same command goes on where it was stopped, and more of them, on any machine, work on the
    same study.
    """

    env: str
    """id of a Gymnasium environment, with the module to import first where it needs one (module:Env-v0), or a class
    (module:Class)"""
    algo: str = "custom_ddpg"
    """any algorithm that train knows"""
    trials: int = 50
    """trials of the study, those there are already included; the first one has the settings of hyperparams/"""
    steps: int | None = None
    """environment steps of each run; as the settings say if not given"""
    seeds: int = 3
    """runs of each trial; their seeds are 0, 1, 2, ..."""
    score: tyro.conf.EnumChoicesFromValues[ScoreKind] = ScoreKind.FINAL
    """what is to be best: the final return, the area under the curve over steps, or the time to the environment's
    threshold, in steps or in CPU seconds of training"""
    threshold: float | None = None
    """the return at which the environment counts as solved; that of --scales, of the package's table, or of Gymnasium's
    registry if not given"""
    scales: Path | None = None
    """YAML file with returns of the environment: Env-v0: {random: -1200, reference: -150, threshold: -200}"""
    pruner: PrunerName | None = None
    """what ends trials early; wilcoxon from 5 seeds on, otherwise median, if not given"""
    sampler: SamplerName = "tpe"
    """what proposes the settings of the next trial: Optuna's tree-structured Parzen estimator, chance, CMA-ES, or a
    Gaussian process"""
    fix: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE"), tyro.conf.UseAppendAction] = ()
    """a setting that is not tuned, e.g. --fix gamma=0.99 --fix n_envs=4"""
    space: Path | None = None
    """YAML file that narrows or extends the search space: name: [choices], {low, high, log}, or a value"""
    top: int = 5
    """how many of the best trials are trained again on fresh seeds; 0 for the search alone"""
    confirm_seeds: int = 10
    """fresh seeds for each of them, and for the previous settings"""
    write: bool = True
    """write the winner into the hyperparameter file"""
    hyperparams: Path | None = None
    """YAML file in RL Zoo's format, to begin with and to write to; hyperparams/<algo>.yml of the current folder if not
    given, which is made if need be"""
    eval_freq: int | None = None
    """environment steps between evaluations; a twentieth of the run if not given"""
    eval_episodes: int = 20
    """episodes of each evaluation"""
    seed: int = 0
    """seed of the search"""
    storage: str | None = None
    """URL of a database, such as postgresql+psycopg://host/optuna; a file in the run directory if not given"""
    study: str | None = None
    """name of the study, and of its run directory; <algo>_<env> if not given"""
    log_dir: Path = Path("runs/tune")
    """where run directories are made"""
    workers: int = 2
    """processes, one run at a time in each; 0 for this process alone"""
    scheduler: str | None = None
    """Dask scheduler whose workers are used instead: tcp://host:8786"""
    resume: bool = True
    """go on with runs that were killed from their last checkpoint, not from scratch"""
    quiet: bool = False
    """no progress display, only the result"""


@dataclass(frozen=True)
class BenchmarkArgs:
    """Measure CustomDDPG's speed against SB3's DDPG and TD3, and SBX's DDPG where it is installed."""

    cases: Annotated[
        tuple[Literal["small", "mujoco", "default", "noise"], ...], tyro.conf.arg(metavar="CASE [CASE ...]")
    ] = ("small", "mujoco", "default", "noise")
    """small: Pendulum-v1, [64, 64], batches of 64; mujoco: HalfCheetah-v5, [256, 256], 256; default: Pendulum-v1,
    [400, 300], 256; noise: calls of action noise alone"""
    threads: tuple[int, ...] = (1, 2)
    """threads and cores of each contestant"""
    n_envs: tuple[int, ...] = (1, 8)
    """environments; there is one gradient step for each transition"""
    rounds: int = 5
    """measurements of each contestant; the median of an odd number is one of them"""
    seconds: float = 1.0
    """length of one measurement"""
    sbx_python: Path | None = None
    """Python of a virtual environment with sbx-rl, if not this one"""
    log_dir: Path = Path("runs/benchmark")
    """where benchmark.json, .md and .png are written"""


@dataclass(frozen=True)
class ExportArgs:
    """Write a trained policy as one file that runs without this package, and check it against the model."""

    run_or_model: tyro.conf.Positional[Path]
    """run directory, or a model's .zip file"""
    format: ExportFormat = "torchscript"
    """torchscript for PyTorch (also in C++), onnx for all that read ONNX"""
    output: Path | None = None
    """the file to write; beside the model, with its name, if not given"""
    model: Literal["best", "last"] = "best"
    """which model of a run directory"""
    algo: str | None = None
    """algorithm of a model that lies outside of a run directory"""
    env: str | None = None
    """environment of such a model"""
    trusted: bool = False
    """trust the author of the run, as in `sb3-ddpg evaluate`"""


@dataclass(frozen=True)
class CheckArgs:
    """Check an environment: with the checkers of Stable-Baselines3 and Gymnasium, and for what DDPG needs."""

    env: str
    """id of a Gymnasium environment, with the module to import first where it needs one (module:Env-v0), or a class
    (module:Class)"""
    algo: str = "custom_ddpg"
    """algorithm whose settings say how the environment is made (env_kwargs, env_wrapper)"""
    hyperparams: Path | None = None
    """YAML file in RL Zoo's format, or the name of one of this package: few_steps, ddpg, ...; the algorithm's own if
    not given"""
    params: Annotated[
        tuple[str, ...], tyro.conf.arg(aliases=["-p"], metavar="NAME=VALUE"), tyro.conf.UseAppendAction
    ] = ()
    """override of one setting, e.g. -p env_kwargs.speed=0.4"""
    steps: int = 500
    """steps of random actions in which the scales of observations and rewards are measured"""
    seed: int = 0
    """seed of the environment and of the actions"""


@dataclass(frozen=True)
class ListArgs:
    """List the algorithms, the environments that have settings of their own, and the noises."""

    what: tyro.conf.Positional[Literal["all", "algorithms", "environments", "noises"]] = "all"
    """what to list"""


@dataclass(frozen=True)
class PushArgs:
    """Upload a finished run to the Hugging Face Hub, with a model card."""

    run: tyro.conf.Positional[Path]
    """directory of the run"""
    repo: Annotated[str, tyro.conf.arg(metavar="USER/NAME")]
    """the repository, which is made if it is not there"""
    private: bool = False
    """only you can see it"""
    video: bool = True
    """record an episode; needs the extra video"""


@dataclass(frozen=True)
class PullArgs:
    """Download a run from the Hugging Face Hub. No code of its author is run, or downloaded."""

    repo: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="USER/NAME")]
    """the repository"""
    directory: tyro.conf.Positional[Path | None] = None
    """the run directory to make; NAME if not given"""


Command = (
    Annotated[TrainArgs, tyro.conf.subcommand("train")]
    | Annotated[EvaluateArgs, tyro.conf.subcommand("evaluate")]
    | Annotated[InspectArgs, tyro.conf.subcommand("inspect")]
    | Annotated[CompareArgs, tyro.conf.subcommand("compare")]
    | Annotated[TuneArgs, tyro.conf.subcommand("tune")]
    | Annotated[BenchmarkArgs, tyro.conf.subcommand("benchmark")]
    | Annotated[ExportArgs, tyro.conf.subcommand("export")]
    | Annotated[CheckArgs, tyro.conf.subcommand("check")]
    | Annotated[ListArgs, tyro.conf.subcommand("list")]
    | Annotated[PushArgs, tyro.conf.subcommand("push")]
    | Annotated[PullArgs, tyro.conf.subcommand("pull")]
)
"""All commands, by the names that the command line gives them."""
