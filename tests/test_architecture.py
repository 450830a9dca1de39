"""The house rules that can be checked: imports in one direction, and a light `import sb3_ddpg_ext`."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_imports_go_in_one_direction() -> None:
    result = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    "module", ["optuna", "matplotlib", "dask", "distributed", "scipy", "tyro", "yaml", "pydantic", "sb3_contrib"]
)
def test_importing_the_package_is_light(module: str) -> None:
    code = f"import sys, sb3_ddpg_ext; sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_each_module_has_its_tests() -> None:
    package = ROOT / "sb3_ddpg_ext"
    modules = {p.stem for p in package.glob("*.py")} | {p.parent.name for p in package.glob("*/__init__.py")}
    tests = {p.stem.removeprefix("test_") for p in (ROOT / "tests").glob("test_*.py")}
    # The policies' one default is tested with the algorithm, evaluation with the runs it is made of
    assert modules - {"__init__", "__main__", "policies", "evaluation"} == tests - {
        *("parity", "packaging", "architecture", "readme"),
        *(p.stem for p in package.glob("*/*.py")),  # parts of a package may have their own
    }
