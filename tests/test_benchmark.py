"""The benchmark measures with real processes; what it says is checked on figures by hand."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from sb3_ddpg_ext.arguments import BenchmarkArgs
from sb3_ddpg_ext.benchmark import benchmark, picture, process, table
from sb3_ddpg_ext.errors import SettingsError

TINY: dict[str, Any] = {"cases": ("small",), "threads": (1,), "rounds": 2, "seconds": 0.01}


def by_hand() -> dict[str, Any]:
    baseline = {"learn": [0.004, 0.006, 0.005], "update": [0.003, 0.003, 0.003], "collect": [8e-4, 8e-4, 9e-4]}
    ours = {"learn": [0.002, 0.001, 0.002], "update": [0.001, 0.0015, 0.001], "collect": [2e-4, 4e-4, 3e-4]}
    return {
        "rounds": 3,
        "seconds": 1.0,
        "load": 0.04,
        "machine": {"processor": "Abacus", "cores": 2, "system": "Linux"},
        "versions": {"torch": "2.13.0"},
        "results": [
            {
                "env": "Pendulum-v1",
                "net_arch": [64, 64],
                "batch_size": 64,
                "threads": 1,
                "n_envs": n_envs,
                "gemm": [0.0005, 0.0005, 0.0005],
                "contestants": {
                    "SB3 DDPG": {**baseline, "peak_memory": 300_000_000},
                    "CustomDDPG": {**ours, "peak_memory": 250_000_000},
                },
            }
            for n_envs in (1, 8)
        ],
    }


def test_figures_by_hand() -> None:
    lines = table(by_hand()).splitlines()
    # Medians: learn 0.005 and 0.002, update 0.003 and 0.001, collect 8e-4 and 3e-4; ranges: of each round's own ratio
    ours = "| CustomDDPG | 500 | 2.50 (2.00 to 6.00) | 1.00 | 2.00 (2.00 to 3.00) | 300 | 0.37 (0.25 to 0.50) | 250 |"
    theirs = "| SB3 DDPG | 200 | 1.00 (1.00 to 1.00) | 3.00 | 6.00 (6.00 to 6.00) | 800 | 1.00 (1.00 to 1.00) | 300 |"
    assert lines.count(ours) == lines.count(theirs) == 2, lines
    assert lines[0].startswith("Abacus, 2 cores (load at the start 0.0), Linux; torch 2.13.0")
    header = "**Pendulum-v1, [64, 64], batch 64, 1 thread, 8 environments** (matrix products of an update: 0.50 ms)"
    assert header in lines


def test_bars_by_hand() -> None:
    figure = picture(by_hand())
    assert [axes.get_title() for axes in figure.axes] == ["1 thread, 1 environment", "1 thread, 8 environments"]
    for axes in figure.axes:
        assert [bar.get_height() for bar in axes.patches] == pytest.approx([1.0, 2.5])
        assert [list(line.get_ydata()) for line in axes.lines] == [[1.0, 1.0], pytest.approx([2.0, 6.0])]


@pytest.mark.slow
def test_it_measures(tmp_path: Path) -> None:
    record = benchmark(BenchmarkArgs(**TINY, n_envs=(1, 2), log_dir=tmp_path / "new"))
    assert json.loads((tmp_path / "new/benchmark.json").read_text()) == record
    assert (tmp_path / "new/benchmark.md").read_text() == table(record)
    assert (tmp_path / "new/benchmark.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in (tmp_path / "new").iterdir()} == {f"benchmark.{s}" for s in ("json", "md", "png")}
    assert [result["n_envs"] for result in record["results"]] == [1, 2]
    for result in record["results"]:
        assert {"SB3 DDPG", "SB3 TD3", "CustomDDPG"} <= set(result["contestants"])
        assert all(0 < seconds < 0.01 for seconds in result["gemm"])
        for each in result["contestants"].values():
            for measure in ("learn", "update", "collect"):
                assert len(each[measure]) == 2
                assert all(0 < seconds < 1 for seconds in each[measure])
            assert 50e6 < each["peak_memory"] < 5e9


def test_noise_alone(tmp_path: Path) -> None:
    record = benchmark(BenchmarkArgs(cases=("noise",), rounds=2, log_dir=tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"benchmark.json", "benchmark.md"}
    assert json.loads((tmp_path / "benchmark.json").read_text()) == record
    assert record["noise"].keys() == {"1", "64"}
    assert all(f"| {name} |" in table(record) for name in record["noise"]["64"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rounds": 0}, "--rounds, --threads and --n-envs must be 1 or more, --seconds above 0"),
        ({"threads": (2, 0)}, "must be 1 or more"),
        ({"seconds": 0.0}, "--seconds above 0"),
        ({"sbx_python": Path("/nowhere/python")}, "/nowhere/python: no SBX there; pip install sbx-rl"),
        ({"log_dir": Path("/proc/nowhere")}, "cannot write to /proc/nowhere"),
    ],
)
def test_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=re.escape(message)):
        benchmark(BenchmarkArgs(**{**TINY, "n_envs": (1,), "rounds": 1, "log_dir": tmp_path, **changes}))
    assert list(tmp_path.iterdir()) == []


def test_a_contestant_that_fails_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(process.ALGORITHMS, "SB3 TD3", "stable_baselines3:TD4")
    message = "stable_baselines3:TD4 on Pendulum-v1 could not be measured: AttributeError: .*TD4"
    with pytest.raises(SettingsError, match=message):
        benchmark(BenchmarkArgs(**TINY, n_envs=(1,), log_dir=tmp_path))
