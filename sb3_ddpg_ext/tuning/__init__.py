"""
Hyperparameters that hold on fresh seeds: a search with Optuna, and the confirmation of what it found.

``space``         the table of what can be tuned, and how it becomes an entry of a hyperparameter file
``scoring``       the evaluations of a trial's runs -> one number
``search``        a study in a database, and any number of processes that work on it
``confirmation``  the best trials and the previous settings, trained again on fresh seeds; the winner into its file
``pages``         the report

Optuna is imported by these modules only, and they are imported when something is tuned.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from sb3_ddpg_ext.errors import require

__all__ = ["TuneArgs", "require_packages"]


@dataclass(frozen=True)
class TuneArgs:
    """
    Search for better hyperparameters, train the best ones again on fresh seeds, and write the winner into hyperparams/.
    The same command goes on where it was stopped, and more of them, on any machine, work on the same study.
    """

    env: str
    """id of a Gymnasium environment, with the package to import first where it needs one: package:Env-v0"""
    algo: str = "custom_ddpg"
    """any algorithm that train knows"""
    trials: int = 50
    """trials of the study, those there are already included; the first one has the settings of hyperparams/"""
    steps: int | None = None
    """environment steps of each run; as the settings say if not given"""
    seeds: int = 3
    """runs of each trial; their seeds are 0, 1, 2, ..."""
    score: Literal["final", "area", "steps", "seconds"] = "final"
    """what is to be best: the final return, the area under the curve over steps, or the time to the environment's
    threshold, in steps or in CPU seconds of training"""
    pruner: Literal["median", "halving", "wilcoxon", "none"] | None = None
    """what ends trials early; wilcoxon from 5 seeds on, otherwise median, if not given"""
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
    """YAML file in RL Zoo's format, to begin with and to write to; this package's own if not given"""
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
    quiet: bool = False
    """no progress display, only the result"""


def require_packages() -> None:
    """
    Check that what tuning and its report need is there.

    :raises SettingsError: With the line that installs it
    """
    for module in ("optuna", "plotly", "scipy", "jinja2"):  # the report needs the others, hours later
        require(module, "tune")
