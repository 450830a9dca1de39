"""Sessions of a student and of a researcher: the installed wheel, in a terminal of 80 columns, outside of the clone."""

import os
import re
import shlex
import site
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import yaml
from terminal import screen

pytestmark = pytest.mark.slow
ENV = "my_env:PointMass"
MY_ENV = """
import gymnasium as gym
import numpy as np
from gymnasium import spaces


class PointMass(gym.Env):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 25}

    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        self.observation_space = spaces.Box(-2, 2, (2,), np.float32)
        self.action_space = spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position, self.speed, self.n = self.np_random.uniform(-1, 1), 0.0, 0
        return self.observation(), {}

    def step(self, action):
        self.n += 1
        self.speed = float(np.clip(self.speed + 0.2 * action[0], -1, 1))
        self.position = float(np.clip(self.position + 0.2 * self.speed, -2, 2))
        return self.observation(), -abs(self.position), False, self.n == 25, {}

    def observation(self):
        return np.array([self.position, self.speed], np.float32)

    def render(self):
        picture = np.full((64, 256, 3), 255, np.uint8)
        column = int((self.position + 2) / 4 * 248)
        picture[28:36, column : column + 8] = (200, 30, 30)
        return picture


gym.register("PointMass-v0", entry_point=PointMass, max_episode_steps=25)
"""
MINE = """
from sb3_ddpg_ext import CustomDDPG


class MyDDPG(CustomDDPG):
    def train(self, gradient_steps, batch_size=100):
        super().train(gradient_steps, batch_size // 2)
"""
IN_PYTHON = """
import sb3_ddpg_ext

if __name__ == "__main__":
    few = {"steps": 120, "eval_freq": 60, "eval_episodes": 10, "quiet": True}
    record = sb3_ddpg_ext.train("my_env:PointMass-v0", **few)
    print(record.directory, sb3_ddpg_ext.evaluate(str(record.directory), episodes=2)[1].returns.shape)
    algos = "mine:MyDDPG,plain=custom_ddpg:gamma=0.9"
    result = sb3_ddpg_ext.compare(algos, "my_env:PointMass-v0", seeds=1, workers=0, log_dir="runs/python", **few)
    print(result.report, len(result.records), "learning_curves_steps" in result.figures())
"""


@dataclass(frozen=True)
class Desk:
    """A folder to work in, and the environment variables with which the installed wheel is found."""

    folder: Path
    scripts: Path
    environment: dict[str, str]

    def screen(self, line: str, status: int = 0, **kwargs: object) -> list[str]:
        command, *arguments = shlex.split(line)
        ended, lines = screen([self.scripts / command, *arguments], self.folder, self.environment, **kwargs)  # type: ignore[arg-type]
        assert ended == status, "\n".join(lines)
        assert not any("Traceback" in line for line in lines), "\n".join(lines)
        return lines


@pytest.fixture(scope="module")
def scripts(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts of a virtual environment with the wheel, which has the other packages of this one."""
    venv = tmp_path_factory.mktemp("session") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    paths = sysconfig.get_paths(vars={"base": str(venv), "platbase": str(venv)})
    others = [path for path in site.getsitepackages() if Path(path).is_dir()]
    (Path(paths["purelib"]) / "others.pth").write_text("\n".join(others))
    pip = [sys.executable, "-m", "pip", "--python", venv / "bin/python", "install", "-q", "--no-deps", "--no-index"]
    subprocess.run([*pip, wheel], check=True)
    return venv / "bin"


@pytest.fixture
def desk(scripts: Path, tmp_path: Path) -> Desk:
    (tmp_path / "my_env.py").write_text(MY_ENV)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["OMP_NUM_THREADS"] = "1"
    code = "import sb3_ddpg_ext.settings as s; print(s.__file__, s.hyperparams_file('custom_ddpg'))"
    command = [scripts / "python", "-c", code]
    printed = subprocess.run(command, cwd=tmp_path, env=environment, text=True, capture_output=True, check=True).stdout
    assert all(Path(path).is_relative_to(scripts.parent) for path in printed.split())
    return Desk(tmp_path, scripts, environment)


def test_a_student(desk: Desk) -> None:
    assert desk.screen("sb3-ddpg --version")[0].startswith("sb3_ddpg_ext ")
    assert "did you mean 'train'?" in desk.screen("sb3-ddpg trian", status=2)[0]
    lines = desk.screen(f"sb3-ddpg check --env {ENV}-v0")
    assert lines[-1] == f"{ENV}-v0: errors 0, warnings 0"
    lines = desk.screen(f"sb3-ddpg train --env {ENV} --steps 1200 --eval-freq 400 --eval-episodes 2")
    assert "Settings: custom_ddpg.yml, default with n_timesteps=1200" in lines
    assert lines[-1] == "Saved in runs/custom_ddpg/PointMass_1"
    assert any(re.match(r"Last model: mean return -\d+\.\d ", line) for line in lines)
    run = desk.folder / "runs/custom_ddpg/PointMass_1"
    assert (run / "learning_curve.png").stat().st_size > 10_000

    lines = desk.screen("sb3-ddpg evaluate runs/custom_ddpg/PointMass_1 --video videos --episodes 2")
    assert not any("warning" in line for line in lines)
    assert lines[-1] == "Videos in videos"
    assert len(list((desk.folder / "videos").glob("*.mp4"))) == 2
    (line,) = desk.screen("sb3-ddpg evaluate runs/custom_ddpg/PointMass_1 --render", status=2)
    assert line.endswith("--render needs the render mode 'human'; its metadata['render_modes'] has only rgb_array")

    monitor = desk.folder / "runs/custom_ddpg/PointMass-v0_1/0.monitor.csv"
    small = "-p learning_starts=100 -p policy_kwargs.net_arch=[32]"
    started = f"sb3-ddpg train --env {ENV}-v0 --steps 2000 --eval-freq 0 {small}"
    lines = desk.screen(
        started, status=130, interrupt_when=lambda: monitor.exists() and len(monitor.read_text().splitlines()) > 12
    )
    assert not any("warning" in line for line in lines)
    resume = lines[-1].removeprefix("To go on: ")
    assert resume == "sb3-ddpg train --resume runs/custom_ddpg/PointMass-v0_1"
    assert "Trained custom_ddpg on my_env:PointMass-v0: 2,000 steps" in "".join(desk.screen(resume))

    (line,) = desk.screen(f"sb3-ddpg train --env {ENV} -p gama=0.9", status=2)
    assert line.endswith("unknown hyperparameter 'gama'; did you mean 'gamma'?")
    broken = MY_ENV.replace("self.n += 1\n", "self.n += 1\n        assert self.n < 20\n")
    (desk.folder / "my_env.py").write_text(broken)
    lines = desk.screen(f"sb3-ddpg train --env {ENV} --steps 300 --eval-freq 0", status=2)
    assert "error: environment 'my_env:PointMass' (index 0), step 20 (my_env.py:22): AssertionError (" in lines[-1]


def test_a_researcher(desk: Desk) -> None:
    (desk.folder / "mine.py").write_text(MINE)
    (desk.folder / "scales.yml").write_text(f"{ENV}: {{random: -15, reference: -1, threshold: -100}}")
    few = "--steps 200 --eval-freq 100 --eval-episodes 10"
    algos = "mine:MyDDPG,plain=custom_ddpg:gamma=0.9"
    formats = "--format pdf --format latex"
    lines = desk.screen(f"sb3-ddpg compare --algos {algos} --envs {ENV} --seeds 2 {few} --scales scales.yml {formats}")
    assert sum(line.startswith("warning: ") for line in lines) == 1  # of the time limit, for four runs
    assert any(line.endswith("4/4 4 finished, 0 running, 0 failed") for line in lines)
    assert lines[-1] == "Report: runs/compare/report.html"
    reports = desk.folder / "runs/compare"
    assert (reports / "learning_curves_steps.pdf").read_bytes().startswith(b"%PDF")
    summary = (reports / "summary.tex").read_text()
    assert all(name in summary for name in ("mine:MyDDPG", "plain"))
    assert "is not in the normalisation table" not in (reports / "report.md").read_text()

    (own_run,) = reports.glob("mine-MyDDPG-*/PointMass_0")
    assert "mean return" in "".join(desk.screen(f"sb3-ddpg evaluate {own_run} --episodes 1"))

    # Whether it wins is chance; what wins is read in the next line
    tune = f"sb3-ddpg tune --env {ENV} --trials 2 --seeds 1 --top 1 --confirm-seeds 2 --workers 0 {few}"
    lines = desk.screen(tune)
    own = desk.folder / "hyperparams/custom_ddpg.yml"
    assert (lines[-1] == "Written to hyperparams/custom_ddpg.yml") == own.exists()
    if not own.exists():
        own.parent.mkdir()
        own.write_text(yaml.safe_dump({"PointMass": {"n_timesteps": 200, "gamma": 0.9}}))
    lines = desk.screen(f"sb3-ddpg train --env {ENV} --eval-freq 100 --eval-episodes 2")
    assert "Settings: hyperparams/custom_ddpg.yml, PointMass" in lines
    used = yaml.safe_load((desk.folder / "runs/custom_ddpg/PointMass_1/PointMass/config.yml").read_text())
    assert used == yaml.safe_load(own.read_text())["PointMass"]
    lines = desk.screen("sb3-ddpg export runs/custom_ddpg/PointMass_1 --format onnx")
    assert lines[0].startswith("Written to runs/custom_ddpg/PointMass_1/best_model.onnx")
    session = onnxruntime.InferenceSession(desk.folder / "runs/custom_ddpg/PointMass_1/best_model.onnx")
    (action,) = session.run(None, {session.get_inputs()[0].name: np.array([[0.5, -0.1]], np.float32)})
    assert abs(action.item()) <= 1

    (desk.folder / "research.py").write_text(IN_PYTHON)
    lines = desk.screen("python research.py")
    assert lines[-2:] == ["runs/custom_ddpg/PointMass-v0_1 (2,)", "runs/python/report.html 2 True"]
