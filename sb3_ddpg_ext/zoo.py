"""
CustomDDPG in RL Zoo: ``python -m sb3_ddpg_ext.zoo train|optimize|enjoy|record_video ...`` with the zoo's own options.

The zoo's scripts run as they are. Before that they are told of the algorithm, of its search space, and of this
package's settings, which the zoo imports from here: it takes the name of a module for ``--conf-file``, too.
"""

import argparse
import importlib
import runpy
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sb3_ddpg_ext.ddpg import CustomDDPG
from sb3_ddpg_ext.errors import SettingsError, require
from sb3_ddpg_ext.expressions import is_name
from sb3_ddpg_ext.settings import NOISE_KEYS, Settings, hyperparams_file, load_settings, read_yaml
from sb3_ddpg_ext.tuning.space import Space, make_space

ALGO = "custom_ddpg"
_SCRIPTS: Mapping[str, Sequence[str]] = {
    "train": ("train",),
    "optimize": ("train", "--optimize-hyperparameters"),
    "enjoy": ("enjoy",),
    "record_video": ("record_video",),
}


def for_the_zoo(entry: Mapping[str, Any]) -> dict[str, Any]:
    """
    Write an entry of this package's hyperparameter file so that RL Zoo understands it, too.

    >>> for_the_zoo({"noise_type": "pink", "noise_std": 0.3, "policy_kwargs": {"activation_fn": "nn.Tanh"}})
    {'policy_kwargs': 'dict(activation_fn=nn.Tanh)', 'action_noise': {'type': 'pink', 'std': 0.3}}

    :param entry: The entry
    :return: The same settings. The zoo hands ``action_noise`` on to the constructor, where it knows two noises itself,
        and it takes names of classes from a string only
    """
    translated = {name: value for name, value in entry.items() if name not in NOISE_KEYS}
    if isinstance(translated.get("policy_kwargs"), dict):
        translated["policy_kwargs"] = _expression(translated["policy_kwargs"])
    if "noise_type" in entry:
        std = {} if entry.get("noise_std") is None else {"std": entry["noise_std"]}
        noise = {"type": entry["noise_type"], **std, **(entry.get("noise_kwargs") or {})}
        translated["action_noise"] = None if noise["type"] is None else noise
    return translated


def _expression(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"dict({', '.join(f'{name}={_expression(inner)}' for name, inner in value.items())})"
    return str(value) if isinstance(value, str) and is_name(value) else repr(value)


hyperparams = {name: for_the_zoo(entry) for name, entry in read_yaml(hyperparams_file(ALGO)).items()}
"""What the zoo reads from ``--conf-file sb3_ddpg_ext.zoo``."""


def _sample(space: Space, trial: Any, *_: Any) -> dict[str, Any]:
    """:return: Arguments of the constructor that an Optuna trial suggests"""
    return _arguments(space.settings(space.sample(trial), "sampled"))


def _arguments(settings: Settings) -> dict[str, Any]:
    noise = settings.noise
    if noise is None:
        return dict(settings.hyperparams)
    std = {} if noise.std is None else {"std": noise.std}
    action_noise = None if noise.type is None else {"type": noise.type, **std, **noise.kwargs}
    return {**settings.hyperparams, "action_noise": action_noise}


def register(env_id: str) -> None:
    """
    Add CustomDDPG to RL Zoo's algorithms, in this process.

    :param env_id: The environment whose settings the search begins with
    :raises SettingsError: If RL Zoo is not installed
    """
    require("rl_zoo3", "zoo")
    zoo: Any = importlib.import_module("rl_zoo3")
    search: Any = importlib.import_module("rl_zoo3.hyperparams_opt")
    space = make_space(ALGO, load_settings(ALGO, env_id), {}, ())
    zoo.ALGOS[ALGO] = CustomDDPG
    search.HYPERPARAMS_SAMPLER[ALGO] = partial(_sample, space)
    # Of a trial in a database: the zoo goes on to convert it as an entry of a file
    search.HYPERPARAMS_CONVERTER[ALGO] = lambda values: for_the_zoo(space.entry(values))


def main(argv: Sequence[str]) -> int:
    """
    Run one of RL Zoo's scripts.

    :param argv: Its name and its arguments
    :return: Exit status
    """
    if not argv or argv[0] not in _SCRIPTS:
        sys.stderr.write(
            f"usage: python -m sb3_ddpg_ext.zoo {{{','.join(_SCRIPTS)}}} ...  (--help lists the options)\n"
        )
        return 2
    (script, *options), arguments = _SCRIPTS[argv[0]], list(argv[1:])
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--algo", default=ALGO)
    parser.add_argument("--env", default="default")
    parser.add_argument("-conf", "--conf-file")
    given, _ = parser.parse_known_args(arguments)
    options += ["--algo", given.algo]
    if script == "train" and given.algo == ALGO and given.conf_file is None:
        options += ["--conf-file", "sb3_ddpg_ext.zoo"]
    try:
        register(given.env)
    except SettingsError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.argv = [f"rl_zoo3.{script}", *options, *arguments]
    runpy.run_module(f"rl_zoo3.{script}", run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.path.append(str(Path.cwd()))  # for environments in a file, with --gym-packages
    sys.exit(main(sys.argv[1:]))
