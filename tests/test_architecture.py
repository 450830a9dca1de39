"""House rules that can be checked, beside those of `make lint`: imports are light, modules have tests."""

import subprocess
import sys
from pathlib import Path

import pytest

import sb3_ddpg_ext

ROOT = Path(__file__).parent.parent


COMMANDS = {"ComparisonResult", "TuningResult", "compare", "evaluate", "train", "tune"}
HEAVY = {"optuna", "matplotlib", "dask", "distributed", "scipy", "tyro", "yaml", "pydantic", "sb3_contrib"}


@pytest.mark.parametrize(
    ("statement", "heavy"),
    [
        ("import sb3_ddpg_ext", {*HEAVY, "torch", "stable_baselines3", "gymnasium", "numpy"}),
        (f"from sb3_ddpg_ext import {', '.join({*sb3_ddpg_ext.__all__} - COMMANDS)}", HEAVY),
    ],
    ids=["package", "algorithm"],
)
def test_importing_is_light(statement: str, heavy: set[str]) -> None:
    code = f"{statement}; import sys; sys.exit(' '.join({heavy} & set(sys.modules)) or None)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_names_are_there_before_their_modules() -> None:
    code = "import sb3_ddpg_ext as p; before = dir(p); from sb3_ddpg_ext import *; print({*p.__all__} <= {*before})\n"
    code += "print(all(globals()[name] is getattr(p, name) for name in p.__all__), CustomDDPG.__module__)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "True\nTrue sb3_ddpg_ext.ddpg\n", result.stderr


def test_each_module_has_its_tests() -> None:
    package = ROOT / "sb3_ddpg_ext"
    modules = {p.stem for p in package.glob("*.py")} | {p.parent.name for p in package.glob("*/__init__.py")}
    tests = {p.stem.removeprefix("test_") for p in (ROOT / "tests").glob("test_*.py")}
    tested_elsewhere = {
        "fast_path",  # with the algorithm
        *("arguments", "run_arguments", "protocol", "evaluation", "callbacks", "episodes"),  # with training runs
        "progress",  # on a terminal, with the user's own environments
        *("conversion", "expressions"),  # with the settings
        *("display", "terminal"),  # with the commands
        "results",  # its parts in test_report and test_statistics
    }
    assert modules - {"__init__", "__main__"} - tested_elsewhere <= tests
