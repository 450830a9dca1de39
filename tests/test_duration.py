"""What a dry run expects of runs."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from comparison_envs import Quick
from small_runs import CUSTOM, compare_arguments

from sb3_ddpg_ext.comparison import plan, run_missing
from sb3_ddpg_ext.duration import expect
from sb3_ddpg_ext.results.result_file import to_json


def test_expected_time_is_that_of_finished_runs_in_proportion(tmp_path: Path) -> None:
    (run,) = plan(compare_arguments(tmp_path, steps=600))
    ((_, done),) = run_missing(plan(compare_arguments(tmp_path / "other", steps=100)), workers=0)
    for seed, (steps, train, status) in enumerate([(100, 8, "finished"), (300, 54, "finished"), (9, 9, "failed")]):
        directory = run.directory.with_name(f"Quick-v0_{seed}")
        directory.mkdir(parents=True)
        seconds = {"train": train, "evaluate": 2 * steps / 100, "cpu": 1}
        record = {**to_json(done), "status": status, "steps": steps, "seconds": seconds}
        (directory / "result.json").write_text(json.dumps(record))
    (directory.with_name("Quick-v0_7")).mkdir()
    (directory.with_name("Quick-v0_7") / "result.json").write_text("{")
    expected = expect(run)  # (8 + 2) / 100 and (54 + 6) / 300 seconds a step
    assert expected.seconds == pytest.approx(600 * (0.1 + 0.2) / 2)
    assert expected.source == "2 finished"


def test_expected_time_is_measured_where_nothing_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step takes a second by this clock; 20 evaluations and the final one are of 10 episodes of 20 steps each."""
    monkeypatch.setattr("sb3_ddpg_ext.duration.time", SimpleNamespace(perf_counter=lambda: Quick.steps / 1000))
    (run,) = plan(compare_arguments(tmp_path, steps=2000))
    expected = expect(run)
    assert expected.source == "300 updates, timed here"
    assert expected.seconds == pytest.approx((2000 + 21 * 10 * 20) / 1000)
    assert list(tmp_path.iterdir()) == []
    for train_freq in (50, "[1, episode]"):  # whose updates come at once
        algo = f"{CUSTOM},train_freq={train_freq},gradient_steps=-1"
        (run,) = plan(compare_arguments(tmp_path, [algo], steps=2000))
        assert expect(run).seconds == pytest.approx((2000 + 21 * 10 * 20) / 1000)
    (run,) = plan(compare_arguments(tmp_path, env="Crash"))
    assert expect(run).seconds is None
    assert expect(run).source == "RuntimeError: the simulator has exploded"
