"""What there is to choose from: ``sb3-ddpg list``. Everything is read from the tables that the commands use."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from sb3_ddpg_ext.building import SB3_NOISES
from sb3_ddpg_ext.noise import NOISES
from sb3_ddpg_ext.settings import ALGORITHMS, hyperparams_file, own_file, read_yaml

_PACKAGES = {"sbx": "sbx-rl"}  # where PyPI has another name than the module


def tables(what: str) -> list[Group]:
    """
    :param what: ``"algorithms"``, ``"environments"``, ``"noises"`` or ``"all"``
    :return: The tables that show them
    :raises SettingsError: If a file of settings cannot be read
    """
    lists = {"algorithms": _algorithms, "environments": _environments, "noises": _noises}
    return [table for name, of in lists.items() if what in (name, "all") for table in of()]


def _algorithms() -> list[Group]:
    rows = []
    for name, location in ALGORITHMS.items():
        module = location.split(":")[0].split(".")[0]
        package = _PACKAGES.get(module, module)
        rows.append((name, package, _version(package)))
    rows.append(("module:Class", "a class of yours", ""))
    return [_table("Algorithms, for --algo and --algos", ("algorithm", "package", "installed"), rows)]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "no"


def _environments() -> list[Group]:
    """The user's own entries first, as in training."""
    package = {file.resolve() for file in hyperparams_file("").parent.glob("*.yml")}
    folder = own_file("").parent
    own = {file.resolve() for file in folder.glob("*.yml")} - package  # in a clone of this package they are the same
    titles = (f"Environments with settings of yours, in {folder}/", "Environments with settings of the package")
    found = []
    for title, files in zip(titles, (own, package), strict=True):
        algorithms: dict[str, list[str]] = {}
        for file in sorted(files):
            for env in read_yaml(file):
                algorithms.setdefault(str(env), []).append(file.stem)
        names = sorted(algorithms, key=lambda name: (name == "default", name))
        rows = [("any other" if env == "default" else env, " ".join(algorithms[env])) for env in names]
        if rows:
            found.append(_table(title, ("environment", "algorithms and presets"), rows))
    return found


def _noises() -> list[Group]:
    of = {"Noises of custom_ddpg, for -p noise_type=...": NOISES, "Noises of Stable-Baselines3, for all": SB3_NOISES}
    return [_table(title, ("noise", "what it is"), _summaries(noises)) for title, noises in of.items()]


def _summaries(table: Mapping[str, Callable[..., object]]) -> Iterable[tuple[str, str]]:
    """:return: Each name with the first paragraph of the docstring, without markup"""
    for name, documented in table.items():
        yield name, " ".join((inspect.getdoc(documented) or "").split("\n\n")[0].replace("`", "").split())


def _table(title: str, columns: Iterable[str], rows: Iterable[Iterable[str]]) -> Group:
    table = Table(*columns, box=SIMPLE_HEAD)
    for row in rows:
        table.add_row(*row)
    return Group(Text(title, "bold"), table)
