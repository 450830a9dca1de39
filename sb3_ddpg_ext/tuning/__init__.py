"""
Hyperparameter tuning: a search with Optuna, then a confirmation of the best trials on fresh seeds.

``table``         the hyperparameters that can be tuned, and how an entry of a hyperparameter file holds them
``space``         the search space of a study, made from the table
``scoring``       the score of a run and of a trial
``storage``       the database of a study
``samplers``      samplers that give the same trials after an interruption
``pruners``       pruners that a thousand workers can use at once
``study``         what a study is; creating and loading it
``objective``     one trial
``search``        any number of processes that work on one study
``confirmation``  the best trials and the incumbent, trained again on fresh seeds
``winner_file``   writing the winner to a hyperparameter file
``display``       progress and ranking in the terminal
``pages``         the report

The *incumbent* is the settings in the hyperparameter file when the study was created; users read of it as "the previous
settings". Only these modules import Optuna, and they are imported only for ``sb3-ddpg tune``.
"""

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Literal

import tyro

from sb3_ddpg_ext.errors import require

__all__ = ["PrunerName", "SamplerName", "ScoreKind", "TuneArgs", "require_packages"]

PrunerName = Literal["median", "halving", "wilcoxon", "none"]
SamplerName = Literal["tpe", "random", "cmaes", "gp"]


class ScoreKind(str, Enum):
    """What a search optimises. The values are what users write on the command line, and what a study stores."""

    FINAL = "final"
    AREA_OVER_STEPS = "area"
    STEPS_TO_THRESHOLD = "steps"
    SECONDS_TO_THRESHOLD = "seconds"


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
    """URL of a database, such as postgresql+psycopg://user@host/optuna; a file in the run directory if not given"""
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


def require_packages() -> None:
    """
    Check that the packages are installed that tuning and its report import.

    :raises SettingsError: With the command that installs them
    """
    for module in ("optuna", "plotly", "scipy", "jinja2"):  # the report would miss the last ones hours later
        require(module, "tune")
