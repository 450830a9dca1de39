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

from sb3_ddpg_ext.errors import require


def require_packages() -> None:
    """
    Check that the packages are installed that tuning and its report import.

    :raises SettingsError: With the command that installs them
    """
    for module in ("optuna", "plotly", "scipy", "jinja2"):  # the report would miss the last ones hours later
        require(module, "tune")
