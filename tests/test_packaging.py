"""The wheel in a clean virtual environment, outside of the repository."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import sb3_ddpg_ext
from sb3_ddpg_ext.fused.kernel import LEVELS

ROOT = Path(__file__).parent.parent


def test_what_pypi_is_given(wheel: Path) -> None:
    files = [str(file) for file in wheel.parent.iterdir()]
    assert len(files) == 2
    check = subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *files], capture_output=True, text=True)
    assert check.returncode == 0, check.stdout
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = message_from_bytes(archive.read(name))
    assert metadata["Author"] == "The sb3_ddpg_ext contributors"
    assert metadata.get_all("Project-URL")
    # Neither pictures nor links that PyPI could not show, and nothing else is missing
    page, readme = str(metadata.get_payload()), (ROOT / "README.md").read_text()
    assert re.findall(r"\]\((?!http)[^)]*\)", page) == []
    assert "*Five runs each: lines" not in page
    assert "```python" in page
    assert re.findall(r"^## .*$", page, re.MULTILINE) == re.findall(r"^## .*$", readme, re.MULTILINE)


def test_versions_that_are_pinned() -> None:
    """Each line is a pin; those for Python 3.11 only say so, and a package is pinned once."""
    pins = [Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if line[0] != "#"]
    assert all(str(pin.specifier).startswith("==") for pin in pins)
    assert len({canonicalize_name(pin.name) for pin in pins}) == len(pins) > 100
    newer = {pin.name for pin in pins if pin.marker is not None and not pin.marker.evaluate({"python_version": "3.10"})}
    assert {"numpy", "matplotlib", "scipy"} <= newer
    assert not {"torch", "stable_baselines3", "gymnasium"} & newer


def test_wheel_contents(wheel: Path) -> None:
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    assert wheel.name == f"sb3_ddpg_ext-{sb3_ddpg_ext.__version__}-py3-none-{platform}.whl"  # for the kernel
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info" not in name}
    sources = (p for p in (ROOT / "sb3_ddpg_ext").rglob("*") if p.is_file() and p.suffix != ".pyc")
    package = {str(p.relative_to(ROOT)) for p in sources}
    settings = {f"sb3_ddpg_ext/hyperparams/{p.name}" for p in (ROOT / "hyperparams").iterdir()}
    compiled = {"identity", *(f"kernel-{level}" for level in LEVELS)}
    assert {f"sb3_ddpg_ext/fused/compiled/{name}.so" for name in compiled} <= package
    assert {"sb3_ddpg_ext/py.typed", "sb3_ddpg_ext/report/templates/report.html.j2"} <= package
    assert "sb3_ddpg_ext/hyperparams/custom_ddpg.yml" in settings
    assert names == package | settings


def test_without_a_compiler_the_wheel_has_no_kernel(tmp_path: Path) -> None:
    """Built from a copy, since the build removes kernels that it could not make anew."""
    for name in ("sb3_ddpg_ext", "hyperparams", "pyproject.toml", "README.md", "LICENSE", "hatch_build.py"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, tmp_path / name)
    command = [sys.executable, "-m", "build", "--wheel", tmp_path]
    environment = {**os.environ, "CC": "no-such-compiler"}
    built = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "kernel-x86-64-v3 is not compiled, Python or PyTorch computes instead: " in built.stdout + built.stderr
    (wheel,) = (tmp_path / "dist").iterdir()
    assert wheel.name == f"sb3_ddpg_ext-{sb3_ddpg_ext.__version__}-py3-none-any.whl"
    assert not [file for file in zipfile.ZipFile(wheel).namelist() if file.endswith(".so")]


@pytest.mark.slow
def test_a_clean_environment(wheel: Path, tmp_path: Path) -> None:
    venv, work = tmp_path / "venv", tmp_path / "work"
    work.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

    def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [venv / "bin" / command[0], *command[1:]], cwd=work, env=environment, capture_output=True, text=True
        )

    def install(what: str) -> None:
        # Most of PyTorch and SciPy is never imported here, so it need not be compiled; what is, once
        result = run("pip", "install", "-q", "--no-compile", "-c", ROOT / "constraints.txt", what)
        assert result.returncode == 0, result.stderr

    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    install(str(wheel))
    code = "from sb3_ddpg_ext import CustomDDPG; CustomDDPG('MlpPolicy', 'Pendulum-v1', buffer_size=500).learn(110)"
    assert run("python", "-W", "error", "-c", code).returncode == 0
    # The base install has what the algorithm needs, and names the extra for the rest
    refused = run("sb3-ddpg", "train", "--env", "Pendulum-v1")
    assert refused.returncode == 2
    assert refused.stderr == "error: tyro is not installed: pip install 'sb3_ddpg_ext[train]'\n"

    install(f"{wheel}[train]")
    trained = run("sb3-ddpg", "train", "--env", "Pendulum-v1", "--steps", "200", "--eval-episodes", "1")
    assert trained.returncode == 0, trained.stderr
    assert (work / "runs" / "custom_ddpg" / "Pendulum-v1_1" / "learning_curve.png").exists()
    missing = run("sb3-ddpg", "train", "--env", "Pendulum-v1", "--tensorboard")
    assert missing.stderr == "error: tensorboard is not installed: pip install 'sb3_ddpg_ext[tensorboard]'\n"
    missing = run("sb3-ddpg", "train", "--env", "Pendulum-v1", "--track", "wandb")
    assert missing.stderr == "error: wandb is not installed: pip install 'sb3_ddpg_ext[wandb]'\n"
    missing = run("sb3-ddpg", "compare", "--algos", "ddpg", "--envs", "Pendulum-v1", "--quiet")
    assert missing.stderr == "error: scipy is not installed: pip install 'sb3_ddpg_ext[compare]'\n"
    missing = run("sb3-ddpg", "train", "--env", "HalfCheetah-v5")
    assert missing.returncode == 2
    assert "pip install" in missing.stderr
    assert len(missing.stderr.splitlines()) == 1
