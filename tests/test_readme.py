"""
Every block of the README is run, but for `make train` and `make test`, which CI runs on a clean checkout; figures are
those of the data in docs/.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
PYTHON = [text for language, text in BLOCKS if language == "python"]
SHELL = [text for language, text in BLOCKS if language == "bash" and "make " not in text]
# Tests run side by side: threads of PyTorch that wait for a core take several times as long
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    "OMP_NUM_THREADS": "1",
}


def test_the_blocks_are_found() -> None:
    assert len(PYTHON) == 2
    assert len(SHELL) == 3
    assert len(PYTHON[0].strip().splitlines()) <= 8


@pytest.mark.parametrize("code", PYTHON)
def test_python(code: str, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", code]
    result = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    if "evaluate_policy" in code:
        score = re.fullmatch(r"mean return (-\d+), standard deviation \d+\n", result.stdout)
        assert score is not None, result.stdout
        assert int(score[1]) > -250


@pytest.mark.parametrize("code", SHELL)
def test_shell(code: str, tmp_path: Path) -> None:
    result = subprocess.run(["bash", "-ec", code], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    if "--video" in code:
        assert (tmp_path / "videos" / "best_model-episode-0.mp4").exists()
    if "tune" in code:
        runs = tmp_path / "runs" / "tune" / "custom_ddpg_Pendulum-v1"
        assert len(list(runs.glob("confirm/*/*/result.json"))) == 3 * 3
        assert (runs / "report.html").exists()
    if "compare" in code:
        assert len(list((tmp_path / "runs" / "compare").glob("*/*/result.json"))) == 2 + 3 + 3
        assert (tmp_path / "runs" / "compare" / "report.html").exists()


@pytest.mark.parametrize("target", re.findall(r"\]\(([^h#)][^)]*)\)", (ROOT / "README.md").read_text()))
def test_links_lead_somewhere(target: str) -> None:
    assert (ROOT / target).exists()


def speed_row(result: dict[str, Any]) -> str:
    seconds = {
        (name, measure): median(each[measure])
        for name, each in result["contestants"].items()
        for measure in ("learn", "update", "collect")
    }
    ours, sb3, sbx = "CustomDDPG", "SB3 DDPG", "SBX DDPG"
    floor = median(result["gemm"])
    cells = [
        f"{result['env']}, {result['net_arch']}, {result['batch_size']}",
        str(result["threads"]),
        str(result["n_envs"]),
        f"{seconds[sb3, 'learn'] / seconds[ours, 'learn']:.1f}",
        f"{seconds[sbx, 'learn'] / seconds[ours, 'learn']:.1f}",
        f"{seconds[ours, 'update'] / floor:.1f} ({seconds[sb3, 'update'] / floor:.1f})",
        f"{seconds[ours, 'collect'] / seconds[sb3, 'collect']:.2f}",
    ]
    return f"| {' | '.join(cells)} |"


def test_speed_is_what_was_measured() -> None:
    record = json.loads((ROOT / "docs/benchmark/benchmark.json").read_text())
    rows = [speed_row(result) for result in record["results"]]
    assert len(rows) == 12
    assert "\n".join(rows) in (ROOT / "README.md").read_text()


def test_results_are_those_of_the_report() -> None:
    report, readme = ((ROOT / name).read_text() for name in ("docs/compare/report.md", "README.md"))
    summary = report.split("\n## ")[1]
    numbers = {"Pendulum-v1": (-200, 8), "MountainCarContinuous-v0": (90, 6), "HalfCheetah-v5": (None, 7)}
    for env, (threshold, number) in {**numbers, "all environments": (None, 6)}.items():
        rows = re.findall(rf"^\| {env} {'[|] (.*?) ' * 6}[|]$", summary, re.MULTILINE)
        reached = rf"^\| {env} \| (.*?) \| {threshold} \| \d of 5 \| .*? \| (.*?) \|$"
        seconds = dict(re.findall(reached, report, re.MULTILINE))
        assert len(rows) == number
        assert len(seconds) == (0 if threshold is None else number)
        for label, final, area, area_over_seconds, better, speed in rows:
            time = seconds.get(label, area_over_seconds)
            assert f"| {label} | {final} | {area} | {time} | {better} | {speed} |\n" in readme


def noise_scores(section: str) -> dict[tuple[str, str], str]:
    report = (ROOT / "docs/noise/report.md").read_text()
    (part,) = (part for part in report.split("\n## ") if part.startswith(f"{section}\n"))
    label = r"custom\\_ddpg:hyperparams=agent\.yml,action\\_noise="
    rows = re.findall(rf"^\| ([\w -]+?) \| {label}(.*?) \| \d+ \| (.*?) \|", part, re.MULTILINE)
    return {(env, noise.replace("\\", "")): score for env, noise, score in rows}


def test_noise_is_what_was_compared() -> None:
    final, area = noise_scores("Final score"), noise_scores("Area under the curve over steps")
    noises = list(dict.fromkeys(noise for _, noise in final))
    assert len(noises) == 13
    for noise in noises:
        cells = [
            f"`{noise.replace('null', 'None')}`",
            final["all environments", noise],
            area["all environments", noise],
            area["Pendulum-v1", noise],
            final["MountainCarContinuous-v0", noise],
            final["HalfCheetah-v5", noise],
        ]
        assert f"| {' | '.join(cells)} |\n" in (ROOT / "README.md").read_text()


def test_calls_of_noise_cost_what_was_measured() -> None:
    record = json.loads((ROOT / "docs/noise/benchmark.json").read_text())
    one, many = ({name: median(times) for name, times in record["noise"][n].items()} for n in ("1", "64"))
    ours = [name for name in one if not name.startswith("SB3")]
    baseline = "SB3 NormalActionNoise"
    assert max(one[name] for name in ours) < 0.51 * one[baseline]
    ratios = [many[baseline] / many[name] for name in ours]
    assert (round(min(ratios)), round(max(ratios), -1)) == (34, 110)


def test_the_picture_of_the_noise(tmp_path: Path) -> None:
    picture = tmp_path / "noise.png"
    subprocess.run([sys.executable, ROOT / "scripts/draw_noise.py", picture], check=True)
    assert picture.read_bytes().startswith(b"\x89PNG")
