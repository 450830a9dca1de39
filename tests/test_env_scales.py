"""Thresholds and scales of the user's own, up to the report and the search."""

from pathlib import Path

import gymnasium as gym
import pytest
from gymnasium.envs.classic_control import PendulumEnv
from small_runs import CUSTOM, FIXED

from sb3_ddpg_ext.__main__ import main
from sb3_ddpg_ext.env_scales import env_scales
from sb3_ddpg_ext.errors import SettingsError
from sb3_ddpg_ext.results.scales import SCALES, Scale

gym.register("Solvable-v0", PendulumEnv, max_episode_steps=20, reward_threshold=-400.0)


def test_what_the_user_says_comes_before_the_table_and_the_registry(tmp_path: Path) -> None:
    file = tmp_path / "scales.yml"
    file.write_text("Own-v0: {random: -9, reference: 1}\nPendulum-v1: {threshold: -150}\n")
    scales = env_scales(["Solvable-v0", "package:Own-v0", "Pendulum-v1", "Nowhere-v0"], file)
    assert scales["Solvable-v0"] == Scale(threshold=-400.0, threshold_source="Gymnasium's reward_threshold")
    assert scales["Own-v0"] == Scale(-9, 1, f"given in {file}")
    assert (scales["Pendulum-v1"].threshold, scales["Pendulum-v1"].random) == (-150, -1211.8)
    assert scales["Nowhere-v0"] == Scale()
    assert env_scales(["Pendulum-v1"], file, -100)["Pendulum-v1"].threshold == -100
    assert env_scales(["Pendulum-v1"]) == SCALES
    with pytest.raises(SettingsError, match="--threshold: expected a finite number, got nan"):
        env_scales(["Pendulum-v1"], None, float("nan"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Own-v0: 3", "Own-v0: Input should be a valid dictionary"),
        ("Own-v0: {random: low, reference: 1}", "Own-v0: random: Input should be a valid number"),
        ("Own-v0: {random: -9}", "Own-v0: random and reference belong together, and differ"),
        ("Own-v0: {random: 1, reference: 1}", "Own-v0: random and reference belong together, and differ"),
        ("Own-v0: {threshold: .nan}", "Own-v0: threshold: Input should be a finite number"),
        ("Own-v0: {treshold: 1}", "Own-v0: treshold: Extra inputs are not permitted"),
        ("- Own-v0", "expected a mapping"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "scales.yml").write_text(text)
    with pytest.raises(SettingsError, match=said):
        env_scales(["Own-v0"], tmp_path / "scales.yml")


def test_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "scales.yml").write_text("Solvable-v0: {random: -200, reference: -10, source: guessed}\n")
    few = "--seeds 1 --steps 120 --eval-freq 60 --eval-episodes 10 --workers 0 --quiet"
    command = [
        "compare",
        "--algos",
        CUSTOM,
        "--envs",
        "Solvable-v0,Pendulum-v1",
        "--log-dir",
        str(tmp_path),
        *few.split(),
    ]

    def report(*further: str) -> str:
        assert main([*command, *further]) == 0
        return (tmp_path / "report.md").read_text()

    page = report()
    assert f"| Solvable-v0 | {CUSTOM.split(':')[0].replace('_', chr(92) + '_')}" in page
    assert "| -400 |" in page.split("## Time to a threshold")[1]
    assert "Solvable-v0 is not in the normalisation table." in page
    page = report("--scales", str(tmp_path / "scales.yml"), "--threshold", "-350")
    assert "| all environments |" in page
    assert "| Solvable-v0 | -200.0 | -10.00 | guessed | -350 | --threshold |" in page.replace("\\", "")
    assert main([*command, "--scales", str(tmp_path / "none.yml")]) == 2
    assert "none.yml: cannot be read: No such file or directory" in capsys.readouterr().err


def test_tune(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = "--trials 2 --steps 120 --eval-freq 60 --eval-episodes 1 --seeds 1 --top 0 --workers 0 --score steps"
    fixed = [word for setting in FIXED for word in ("--fix", setting)]
    command = ["tune", "--env", "Solvable-v0", "--log-dir", str(tmp_path), *few.split(), *fixed]
    assert main([*command, "--quiet"]) == 0  # its threshold is registered, and reached at once
    assert "60 steps to the threshold" in (tmp_path / "custom_ddpg_Solvable-v0" / "report.html").read_text()
    assert main([*command, "--quiet", "--threshold", "-1"]) == 2
    assert "but with other threshold" in capsys.readouterr().err
    assert main([*command, "--quiet", "--threshold", "1", "--study", "never"]) == 0
    assert "threshold not reached" in (tmp_path / "never" / "report.html").read_text()
