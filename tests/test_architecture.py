"""House rules that can be checked, beside those of `make lint`: `import sb3_ddpg_ext` is light, modules have tests."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_importing_the_package_is_light() -> None:
    heavy = {"optuna", "matplotlib", "dask", "distributed", "scipy", "tyro", "yaml", "pydantic", "sb3_contrib"}
    code = f"import sys, sb3_ddpg_ext; sys.exit(' '.join({heavy} & set(sys.modules)) or None)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_each_module_has_its_tests() -> None:
    package = ROOT / "sb3_ddpg_ext"
    modules = {p.stem for p in package.glob("*.py")} | {p.parent.name for p in package.glob("*/__init__.py")}
    tests = {p.stem.removeprefix("test_") for p in (ROOT / "tests").glob("test_*.py")}
    tested_elsewhere = {
        *("policies", "rollouts", "fast_path"),  # with the algorithm
        *("arguments", "inspect_args", "evaluation", "callbacks", "episodes"),  # with training runs
        *("conversion", "expressions"),  # with the settings
        "display",  # with the commands
        "results",  # its parts in test_report and test_statistics
    }
    assert modules - {"__init__", "__main__"} - tested_elsewhere <= tests
