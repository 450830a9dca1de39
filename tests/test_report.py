"""Reports of all kinds of run directories: numbers, notes, pictures, pages. Statistics are in test_statistics."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import many_runs
import numpy as np
import pytest
from matplotlib.figure import Figure
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver

from sb3_ddpg_ext import report
from sb3_ddpg_ext.errors import SettingsError
from sb3_ddpg_ext.report import drawing, pictures, sections, tables
from sb3_ddpg_ext.report.analysis import ALL_ENVIRONMENTS, Comparison, compare
from sb3_ddpg_ext.report.groups import SCORES, Equal
from sb3_ddpg_ext.report.latex import latex
from sb3_ddpg_ext.report.notes import notes
from sb3_ddpg_ext.results import statistics
from sb3_ddpg_ext.results.result_file import read_runs
from sb3_ddpg_ext.results.scales import SCALES, Scale, scale_of

AWKWARD = 'ddpg:a=<b>&"x",b=1|2,c=$_$'
STEPS = np.arange(100, 1_001, 100)


def record(label: str, env: str, seed: int, *, steps: int = 1_000, speed: float = 100.0, **changes: Any) -> Any:
    """A finished run that climbs from -1,000 towards a level of its own, with 2 episodes for each evaluation."""
    evaluated = np.array([step for step in STEPS if step <= steps])
    means = -1_000 + 0.9 * evaluated + seed
    return {
        "label": label,
        "algo": label.split(":")[0],
        "env": env,
        "seed": seed,
        "status": "finished",
        "error": None,
        "steps": steps,
        "planned_steps": steps,
        "updates": steps // 2,
        "score": {"returns": [means[-1] - 10, means[-1] + 10], "episodes": 2, "seed": 2_000_000},
        "evaluations": {
            "steps": evaluated.tolist(),
            "seconds": (evaluated / speed * 1.25).tolist(),  # with some waiting
            "cpu_seconds": (evaluated / speed).tolist(),
            "returns": np.stack([means - 1, means + 1], axis=1).tolist(),
        },
        "seconds": {"train": steps / speed * 1.25, "evaluate": 1.0, "cpu": steps / speed},
        "settings": {"n_timesteps": steps},
        "device": "cpu",
        "threads": 1,
        "versions": {"python": "3.11.0", "torch": "2.13.0"},
        "machine": {"system": "Linux", "cores": 2},
        **changes,
    }


def save(log_dir: Path, content: Any, directory: str | None = None) -> Path:
    """Write a record where a comparison would, or into the directory named."""
    names = "".join(c if c.isalnum() or c in "_-=.," else "_" for c in content["label"])
    run = log_dir / (directory or f"{names}/{content['env'].split(':')[-1]}_{content['seed']}")
    run.mkdir(parents=True)
    (run / "result.json").write_text(json.dumps(content))
    return run


def comparison_of(log_dir: Path, baseline: str | None = None, equal: Equal = "steps") -> Comparison:
    return compare(read_runs(log_dir), baseline, equal=equal)


def save_all(log_dir: Path, label: str, speed: float = 100.0) -> None:
    for env in ("Pendulum-v1", "HalfCheetah-v5"):
        for seed in range(3):
            save(log_dir, record(label, env, seed, speed=speed))


@pytest.fixture
def log_dir(tmp_path: Path) -> Path:
    """Two algorithms, two environments, three seeds each, nothing amiss; custom_ddpg is twice as fast."""
    save_all(tmp_path, "ddpg")
    save_all(tmp_path, "custom_ddpg", speed=200.0)
    return tmp_path


# --- Reading ---


def test_records_are_read(log_dir: Path) -> None:
    runs = read_runs(log_dir)
    assert len(runs) == 12
    run = next(run for run in runs if (run.label, run.env, run.seed) == ("custom_ddpg", "Pendulum-v1", 2))
    assert (run.name, run.status, run.steps) == ("custom_ddpg/Pendulum-v1_2", "finished", 1_000)
    assert (run.seconds.train, run.seconds.cpu) == (6.25, 5)
    assert run.score is not None
    assert run.score.returns.tolist() == [-108, -88]
    assert run.evaluations is not None
    assert run.evaluations.means[:2].tolist() == [-908, -818]
    assert run.evaluations.seconds[:2].tolist() == [0.625, 1.25]


def test_seeds_are_numbers(tmp_path: Path) -> None:
    for seed in (10, 9, 2):
        save(tmp_path, record("ddpg", "Pendulum-v1", seed))
    assert [run.seed for run in read_runs(tmp_path)] == [2, 9, 10]


def drop(key: str) -> Callable[[dict[str, Any]], str]:
    return lambda r: json.dumps({k: v for k, v in r.items() if k != key})


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (lambda _: "", "Expecting value"),
        (lambda r: json.dumps(r)[:100], "result.json cannot be read"),
        (lambda _: "[1]", "cannot be read"),
        (drop("seed"), "no 'seed' in it"),
        (drop("score"), "no 'score' in it"),
        (lambda r: json.dumps({**r, "steps": float("nan")}), "NaN is not JSON"),
        (lambda r: json.dumps({**r, "status": "odd"}), "unknown status 'odd'"),
        (lambda r: json.dumps({**r, "seconds": None}), "cannot be read"),
        (
            lambda r: json.dumps({**r, "seconds": {**r["seconds"], "cpu": 0.0}}),
            "1000 steps and 0.0 CPU seconds",
        ),
        (lambda r: json.dumps({**r, "steps": 0}), "training took 0 steps and 10.0 CPU seconds"),
        (lambda r: json.dumps(r).replace('"steps": 1000', '"steps": 1e999', 1), "cannot convert float infinity"),
        (lambda r: json.dumps({**r, "score": {"returns": []}}), "not all numbers"),
        (lambda r: json.dumps({**r, "score": {"returns": [1, None]}}), "not all numbers"),
        (lambda r: json.dumps({**r, "evaluations": {**r["evaluations"], "seconds": [1]}}), "differ in length"),
    ],
)
def test_corrupt_records_are_named(break_it: Callable[[dict[str, Any]], str], reason: str, log_dir: Path) -> None:
    content = record("ddpg", "Pendulum-v1", 7)
    run = save(log_dir, content)
    (run / "result.json").write_text(break_it(content))
    (corrupt,) = (run for run in read_runs(log_dir) if run.seed == 7)
    assert (corrupt.label, corrupt.env, corrupt.status) == ("ddpg", "Pendulum-v1", "corrupt")
    assert reason in corrupt.reason
    assert len(corrupt.reason.splitlines()) == 1
    assert f"{corrupt.name}: corrupt ({corrupt.reason}). It is in no statistic." in notes(comparison_of(log_dir))


def test_unfinished_runs_get_their_names_from_records_beside_them(tmp_path: Path) -> None:
    run = save(tmp_path, record(AWKWARD, "package:Env-v0", 0))
    (run.parent / "Env-v0_1" / "Env-v0").mkdir(parents=True)
    (unfinished,) = (run for run in read_runs(tmp_path) if run.status == "not finished")
    assert (unfinished.label, unfinished.env, unfinished.seed) == (AWKWARD, "package:Env-v0", 1)


def test_runs_without_any_record_are_named_after_their_folder(tmp_path: Path) -> None:
    (tmp_path / "ddpg-gamma-0.9-1a2b3c" / "Pendulum-v1_0").mkdir(parents=True)
    (run,) = read_runs(tmp_path)
    assert (run.label, run.env, run.seed) == ("ddpg-gamma-0.9-1a2b3c", "Pendulum-v1", 0)
    save(tmp_path, record("ddpg:gamma=0.9", "Pendulum-v1", 1), "ddpg-gamma-0.9-1a2b3c/Pendulum-v1_1")
    assert [run.label for run in read_runs(tmp_path)] == ["ddpg:gamma=0.9"] * 2


def test_failed_and_interrupted_runs(log_dir: Path) -> None:
    failed = {key: record("ddpg", "Pendulum-v1", 8)[key] for key in ("label", "algo", "env", "seed")}
    save(log_dir, {**failed, "status": "failed", "error": "reward is NaN"})
    save(log_dir, record("ddpg", "Pendulum-v1", 9, status="interrupted", score=None, steps=300, planned_steps=1_000))
    all_notes = notes(comparison_of(log_dir))
    assert "ddpg/Pendulum-v1_8: failed (reward is NaN). It is in no statistic." in all_notes
    assert "ddpg/Pendulum-v1_9: interrupted (stopped before its end). It is in no statistic." in all_notes
    assert any(note.startswith("Failed runs have no scores") for note in all_notes)
    assert {run.seed for run in comparison_of(log_dir).groups["Pendulum-v1", "ddpg"].runs} == {0, 1, 2}


def test_a_directory_without_runs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ddpg" / "notes").mkdir(parents=True)
    (tmp_path / "ddpg" / "file_1").write_text("")
    with pytest.raises(SettingsError, match=r"no runs found; expected directories such as ddpg/Pendulum-v1_0 in it"):
        report.write_report(tmp_path)


# --- Numbers ---


def test_scores_by_hand(log_dir: Path) -> None:
    group = comparison_of(log_dir).groups["Pendulum-v1", "ddpg"]
    assert group.scores["final"].tolist() == [-100, -99, -98]
    # From the evaluation at step 100 (-910) to that at 1,000 (-100): a straight line
    assert group.scores["area_over_steps"] == pytest.approx([-505, -504, -503])
    # From 0.5 s (custom_ddpg's first evaluation) to 5 s (its last): ddpg is at -910 until 1 s, then climbs to -550
    assert group.scores["area_over_seconds"] == pytest.approx([-750, -749, -748])
    fast = comparison_of(log_dir).groups["Pendulum-v1", "custom_ddpg"]
    assert fast.scores["area_over_seconds"] == pytest.approx([-505, -504, -503])
    assert group.speed.tolist() == [100, 100, 100]


def test_times_to_a_threshold(log_dir: Path) -> None:
    content = record("ddpg", "Pendulum-v1", 3)
    content["evaluations"]["returns"] = (np.array(content["evaluations"]["returns"]) - 150).tolist()
    save(log_dir, content)
    comparison = comparison_of(log_dir)
    group = comparison.groups["Pendulum-v1", "ddpg"]  # threshold -200: -190 at step 900, and never
    assert group.steps_to_threshold.tolist() == [900, 900, 900, np.inf]
    assert group.seconds_to_threshold.tolist() == [9, 9, 9, np.inf]
    (row,) = (row for row in comparison.threshold_rows if (row.env, row.label) == ("Pendulum-v1", "ddpg"))
    assert (row.reached, row.runs, row.threshold, row.steps.value) == (3, 4, -200, 900)
    assert row.steps.high == np.inf
    assert tables.interval(row.steps) == "900.0 [900.0,\u00a0not reached]"


def test_rows_of_all_environments(log_dir: Path) -> None:
    comparison = comparison_of(log_dir)
    first = comparison.score_rows["final"][0]
    scores = np.array([-100.0, -99, -98])
    by_hand = [
        (scores + 289.9) / (9637 + 289.9),  # HalfCheetah, random -289.9 and reference 9,637
        (scores + 1211.8) / (1211.8 - 151.9),
    ]
    assert (first.env, first.label, first.runs) == (None, "custom_ddpg", 6)
    assert first.estimates["IQM"].value == pytest.approx(float(statistics.iqm(by_hand)))
    assert first.estimates["mean"].value == pytest.approx(np.mean(by_hand))
    everything = comparison.improvement_rows["area_over_seconds"][0]
    assert (everything.env, everything.label, everything.probability.value) == (None, "custom_ddpg", 1)
    assert (everything.runs, everything.baseline_runs) == (6, 6)
    speed = comparison.speed_rows[0]
    assert (speed.env, speed.label, speed.speedup.value) == (None, "custom_ddpg", pytest.approx(2))
    assert speed.updates_per_step == 0.5


def test_comparisons_with_the_baseline_by_hand(log_dir: Path) -> None:
    for seed in range(3):
        save(log_dir, record("td3", "Pendulum-v1", seed + 10))  # above all others
    rows = comparison_of(log_dir).improvement_rows["final"]
    pendulum = {row.label: row for row in rows if row.env == "Pendulum-v1"}
    assert pendulum["td3"].probability.value == 1
    assert pendulum["td3"].p == pytest.approx(0.1)  # 3 v 3: two of 20 splits
    assert pendulum["td3"].holm == pendulum["td3"].smallest == pytest.approx(0.2)
    assert (pendulum["custom_ddpg"].probability.value, pendulum["custom_ddpg"].p, pendulum["custom_ddpg"].holm) == (
        0.5,
        1,
        1,
    )
    half_cheetah = {row.label: row for row in rows if row.env == "HalfCheetah-v5"}
    assert half_cheetah["custom_ddpg"].smallest == pytest.approx(0.1)  # nothing to correct


def test_no_corrected_p_is_smaller_than_the_least(tmp_path: Path) -> None:
    for label, number in (("ddpg", 4), ("sac", 4), ("td3", 9)):
        for seed in range(number):
            save(tmp_path, record(label, "Pendulum-v1", seed + 10 * len(label)))  # ddpg above all others
    sac, td3 = comparison_of(tmp_path).improvement_rows["final"]
    assert (td3.p, sac.p) == pytest.approx((2 / 715, 2 / 70))  # of 13 the 4, of 8 the 4
    assert (td3.holm, sac.holm) == pytest.approx((4 / 715, 2 / 70))  # the smaller one twice
    assert (td3.smallest, sac.smallest) == (td3.holm, sac.holm)


def test_small_p_are_no_zeros(tmp_path: Path) -> None:
    for seed in range(10):
        save(tmp_path, record("ddpg", "Pendulum-v1", seed))
        save(tmp_path, record("sac", "Pendulum-v1", seed + 100))
    (row,) = comparison_of(tmp_path).improvement_rows["final"]
    assert row.p == pytest.approx(2 / 184_756)  # of 20 over 10 ways to split them the most extreme two
    report.write_report(tmp_path)
    assert "| 10 v 10 | 1.000 \\[1.000, 1.000\\] | 1e-05 | 1e-05 | 1e-05 |" in (tmp_path / "report.md").read_text()


def test_the_baseline(log_dir: Path) -> None:
    assert comparison_of(log_dir).baseline == "ddpg"
    assert comparison_of(log_dir, "custom_ddpg").baseline == "custom_ddpg"
    assert {row.label for row in comparison_of(log_dir, "custom_ddpg").improvement_rows["final"]} == {"ddpg"}
    shutil.rmtree(log_dir / "ddpg")
    save(log_dir, record("sac", "Pendulum-v1", 0))
    assert comparison_of(log_dir).baseline == "custom_ddpg"
    with pytest.raises(SettingsError, match=r"^baseline 'ddgp' has no runs here; there are: 'custom_ddpg', 'sac'$"):
        report.write_report(log_dir, baseline="ddgp")


def test_others_do_not_change_an_interval(log_dir: Path) -> None:
    for seed, score in enumerate(np.random.default_rng(0).normal(size=7), start=3):
        final = {"returns": [float(score)], "episodes": 1, "seed": 0}
        save(log_dir, record("ddpg", "Pendulum-v1", seed, score=final))
    before = {(row.env, row.label): row for row in comparison_of(log_dir).score_rows["final"]}
    for seed in range(2):
        save(log_dir, record("a_new_one", "Pendulum-v1", seed))
    after = {(row.env, row.label): row for row in comparison_of(log_dir).score_rows["final"]}
    assert before.items() <= after.items()


def test_the_table_of_scales() -> None:
    for scale in SCALES.values():
        assert scale.normalise(np.array([scale.random, scale.reference])).tolist() == [0, 1]
        assert scale.random < scale.reference
        assert scale.threshold is None or scale.threshold > scale.random


# --- Many runs ---


@pytest.mark.skipif(sys.platform != "linux", reason="limits the memory of a process as Linux does")
@pytest.mark.parametrize("seeds", [60, pytest.param(1_000, marks=pytest.mark.long)])
def test_many_runs_need_no_more_memory_than_there_is(seeds: int, tmp_path: Path) -> None:
    many_runs.write(tmp_path, ["ddpg", "sac"], ["Pendulum-v1"], seeds)
    code = (
        "import resource; from pathlib import Path\n"
        "from sb3_ddpg_ext import report; from sb3_ddpg_ext.report import pages\n"
        "address_space = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, 2 * (address_space + 2**30,))\n"
        "report.write_report(Path('.'))"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    page = (tmp_path / "report.md").read_text()
    assert re.search(rf"\| Pendulum-v1 \| sac \| {seeds} v {seeds} \| 0\.\d+ \\\[0\.\d+, 0\.\d+\\] \| 0\.\d+ \|", page)
    assert re.search(rf"\| Pendulum-v1 \| sac \| 0 to {seeds - 1} \|", page)
    assert files(tmp_path) >= PICTURES | TEXTS


def test_of_many_runs_the_report_says_how_p_was_found(tmp_path: Path) -> None:
    many_runs.write(tmp_path, ["ddpg", "sac"], ["Pendulum-v1"], seeds=51)
    normal = "the normal approximation where both have more than 50 runs"
    assert normal in sections.improvement_text(comparison_of(tmp_path))[1]
    shutil.rmtree(tmp_path / "sac" / "Pendulum-v1_50")
    assert normal not in sections.improvement_text(comparison_of(tmp_path))[1]


@pytest.mark.parametrize(
    ("seeds", "text"),
    [
        ([*range(5)], "0, 1, 2, 3, 4"),
        ([*range(20)], ", ".join(map(str, range(20)))),
        ([*range(1_000)], "0 to 999"),
        ([*range(10), 11, *range(13, 30)], "0 to 9, 11, 13 to 29"),
    ],
)
def test_many_seeds_are_shown_as_ranges(seeds: list[int], text: str) -> None:
    assert tables.seed_ranges(seeds) == text


@pytest.mark.parametrize(("p", "text"), [(0.0234, "0.0234"), (1e-5, "1e-05"), (0.0, "<1e-300"), (np.nan, "-")])
def test_p_values(p: float, text: str) -> None:
    assert tables.p_value(p) == text


# --- Notes ---


def test_equal_and_complete_runs_have_no_notes(log_dir: Path) -> None:
    assert notes(comparison_of(log_dir)) == ()


def test_missing_seeds_are_named_and_the_rest_is_compared(log_dir: Path) -> None:
    shutil.rmtree(log_dir / "ddpg" / "Pendulum-v1_1")
    comparison = comparison_of(log_dir)
    (note,) = notes(comparison)
    assert note.startswith("Pendulum-v1: ddpg has no finished run with seed 1, but others have.")
    row = next(row for row in comparison.improvement_rows["final"] if row.env == "Pendulum-v1")
    assert (row.runs, row.baseline_runs) == (3, 2)


def test_an_algorithm_without_an_environment_is_left_out_of_all_of_them(log_dir: Path) -> None:
    for seed in range(3):
        save(log_dir, record("sac", "Pendulum-v1", seed))
        save(log_dir, record("td3", "Pendulum-v1", seed))
    comparison = comparison_of(log_dir)
    for score in SCORES["steps"]:
        assert {row.label for row in comparison.score_rows[score] if row.env is None} == {"custom_ddpg", "ddpg"}
        assert {row.label for row in comparison.improvement_rows[score] if row.env is None} == {"custom_ddpg"}
    assert notes(comparison)[:2] == (
        "HalfCheetah-v5: no finished runs of sac; td3.",
        "Results on several environments leave out algorithms that were not run on all of them: sac; td3.",
    )


def test_an_algorithm_without_a_score_on_one_environment_is_left_out_of_this_score(log_dir: Path) -> None:
    for seed in range(3):
        save(log_dir, record("sac", "Pendulum-v1", seed))
        save(log_dir, record("sac", "HalfCheetah-v5", seed, evaluations=None))
    comparison = comparison_of(log_dir)
    assert {row.label for row in comparison.score_rows["final"] if row.env is None} == {"custom_ddpg", "ddpg", "sac"}
    assert {row.label for row in comparison.score_rows["area_over_steps"] if row.env is None} == {"custom_ddpg", "ddpg"}
    (left_out,) = (note for note in notes(comparison) if "left out" in note)
    titles = "area under the curve over steps and no area under the curve over seconds"
    assert left_out.startswith(f"sac has no {titles} on HalfCheetah-v5: it is left out")


def test_shorter_and_longer_runs(log_dir: Path) -> None:
    save(log_dir, record("ddpg", "Pendulum-v1", 3, steps=500))
    longer = record("custom_ddpg", "Pendulum-v1", 3, speed=200.0)
    longer["evaluations"] = {key: [*value, value[-1]] for key, value in longer["evaluations"].items()}
    longer["evaluations"]["steps"][-1], longer["evaluations"]["cpu_seconds"][-1] = 2_000, 10.0
    longer["evaluations"]["returns"] = [[-500, -500]] * 10 + [[0, 0]]
    save(log_dir, {**longer, "steps": 2_000, "planned_steps": 2_000})
    comparison = comparison_of(log_dir)
    assert comparison.groups["Pendulum-v1", "ddpg"].budget == 1_000
    short, long = (comparison.groups["Pendulum-v1", label] for label in ("ddpg", "custom_ddpg"))
    assert [len(short.scores[score]) for score in SCORES["steps"]] == [3, 3, 3]
    assert [len(long.scores[score]) for score in SCORES["steps"]] == [3, 4, 4]
    assert long.scores["area_over_steps"][3] == -500  # up to step 1,000
    assert long.steps_to_threshold[3] == np.inf
    assert (len(short.steps_to_threshold), len(long.steps_to_threshold), len(short.speed)) == (3, 4, 3)
    all_notes = notes(comparison)
    compared = "but runs on Pendulum-v1 are compared after 1,000."
    assert f"ddpg/Pendulum-v1_3: 500 steps, {compared} It has a curve but no scores." in all_notes
    assert any(note.startswith(f"custom_ddpg/Pendulum-v1_3: 2,000 steps, {compared} Its areas") for note in all_notes)


def test_algorithms_with_steps_of_their_own_are_compared_at_equal_seconds(tmp_path: Path) -> None:
    for seed in range(3):
        save(tmp_path, record("ddpg", "Pendulum-v1", seed))  # 1,000 steps in 10 s
        save(tmp_path, record("sac", "Pendulum-v1", seed, steps=500, speed=40.0))  # in 12.5 s
    save(tmp_path, record("sac", "Pendulum-v1", 3, steps=400, planned_steps=500, speed=40.0))
    comparison = comparison_of(tmp_path, equal="seconds")
    ddpg, sac = (comparison.groups["Pendulum-v1", label] for label in ("ddpg", "sac"))
    assert (ddpg.budget, sac.budget) == (1_000, 500)
    assert ddpg.scores.keys() == sac.scores.keys() == comparison.score_rows.keys() == SCORES["seconds"].keys()
    assert ddpg.scores["at_equal_seconds"] == pytest.approx([-100, -99, -98])
    assert sac.scores["at_equal_seconds"] == pytest.approx([-640, -639, -638])  # 10 s are 400 of its steps
    # From 1 s to 10 s: at -910, the first evaluation, until 2.5 s, then a straight line
    assert sac.scores["area_over_seconds"] == pytest.approx([-797.5, -796.5, -795.5])
    assert (sac.speed.tolist(), len(sac.steps_to_threshold)) == ([40, 40, 40], 3)
    all_notes = notes(comparison)
    assert (
        "Pendulum-v1: algorithms are compared after 10 CPU seconds, when the fastest run ended. Steps by then, in the "
        "median: ddpg 1,000, sac 400." in all_notes
    )
    short = "400 of 500 steps, but runs of sac on Pendulum-v1 are compared after 500. It has a curve but no scores."
    assert f"sac/Pendulum-v1_3: {short}" in all_notes
    summary = tables.summary(comparison)
    assert summary.header[2:5] == ("score at equal seconds", "area under the curve over seconds", "P")
    assert "P: probability of a better score at equal seconds than ddpg" in summary.caption
    titles = [section.title for section in sections.sections(comparison)]
    assert "Score at equal seconds" in titles
    assert "Final score" not in titles
    assert {"scores_at_equal_seconds", "improvement", "profiles"} <= report.figures(comparison).keys()
    # Without the option, one of the two has no scores: here the longer one, since more runs have 500 steps
    assert not len(comparison_of(tmp_path).groups["Pendulum-v1", "ddpg"].scores["final"])


def test_a_run_that_a_callback_ended_early_is_a_short_one(log_dir: Path) -> None:
    before = comparison_of(log_dir)
    for seed in range(3):
        save(log_dir, record("sac", "Pendulum-v1", seed, steps=200, planned_steps=1_000))
    after = comparison_of(log_dir)
    for label in ("ddpg", "custom_ddpg"):
        for score in SCORES["steps"]:
            scores = [comparison.groups["Pendulum-v1", label].scores[score].tolist() for comparison in (before, after)]
            assert scores[0] == scores[1]
    assert all(len(after.groups["Pendulum-v1", "sac"].scores[score]) == 0 for score in SCORES["steps"])
    expected = "200 of 1,000 steps, but runs on Pendulum-v1 are compared after 1,000. It has a curve but no scores."
    assert f"sac/Pendulum-v1_1: {expected}" in notes(after)


def test_rarer_evaluations_do_not_change_an_area_over_steps(log_dir: Path) -> None:
    rarer = record("sac", "Pendulum-v1", 0)
    rarer["evaluations"] = {key: value[2::3] for key, value in rarer["evaluations"].items()}
    save(log_dir, rarer)
    groups = comparison_of(log_dir).groups
    # All between steps 300 and 900, from -730 to -190
    assert groups["Pendulum-v1", "sac"].scores["area_over_steps"] == pytest.approx([-460])
    assert groups["Pendulum-v1", "ddpg"].scores["area_over_steps"] == pytest.approx([-460, -459, -458])


def test_a_seed_counts_once(log_dir: Path) -> None:
    save(log_dir, record("ddpg", "Pendulum-v1", 0), "ddpg/Pendulum-v1_99")
    comparison = comparison_of(log_dir)
    assert len(comparison.groups["Pendulum-v1", "ddpg"].runs) == 3
    repeated = "there is another run of ddpg on Pendulum-v1 with seed 0. This one does not count."
    assert f"ddpg/Pendulum-v1_99: {repeated}" in notes(comparison)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"threads": 2}, "same threads: 2 (1 of a); 1 (6 of custom_ddpg, 6 of ddpg). Seconds are not comparable"),
        ({"machine": {"system": "Linux", "cores": 8}}, "same machine: system Linux, cores 8 (1 of a)"),
        ({"device": "cuda"}, "same device: cuda (1 of a); cpu (6 of custom_ddpg, 6 of ddpg)"),
        ({"versions": {"python": "3.12.0"}}, "same versions: python 3.12.0 (1 of a);"),
        ({"score": {"returns": [1.0], "episodes": 1, "seed": 0}}, "same final episodes: 1 from seed 0 (1 of a);"),
        ({"updates": 0}, "Pendulum-v1: a did not learn: no run made a single update."),
        ({"evaluations": None}, "a/Pendulum-v1_0: fewer than two evaluations. It has no curve and no areas."),
    ],
)
def test_unequal_conditions_are_named(changes: dict[str, Any], expected: str, log_dir: Path) -> None:
    save(log_dir, record("a", "Pendulum-v1", 0, **changes))
    assert any(expected in note for note in notes(comparison_of(log_dir)))


def test_unequal_settings_and_evaluations_are_named(log_dir: Path) -> None:
    other = record("ddpg", "Pendulum-v1", 3, settings={"gamma": 0.9})
    other["evaluations"] = {key: value[1::2] for key, value in other["evaluations"].items()}
    save(log_dir, other)
    all_notes = notes(comparison_of(log_dir))
    assert "Pendulum-v1: the runs of ddpg were not all made with the same settings." in all_notes
    assert any(
        "10 x 2 episodes (3 of custom_ddpg, 3 of ddpg); 5 x 2 episodes (1 of ddpg)" in note for note in all_notes
    )


def test_an_environment_without_a_scale(log_dir: Path) -> None:
    for label in ("ddpg", "custom_ddpg"):
        for seed in range(3):
            save(log_dir, record(label, "Own-v0", seed))
    comparison = comparison_of(log_dir)
    assert comparison.scaled_envs == ("HalfCheetah-v5", "Pendulum-v1")
    rows = comparison.score_rows["final"]
    assert {row.runs for row in rows if row.env is None} == {6}
    own = next(row for row in rows if row.env == "Own-v0")
    assert "optimality gap" not in own.estimates
    assert own.estimates["IQM"].value == -99
    assert comparison.improvement_rows["final"][0].runs == 9  # it needs no scale
    assert any(note.startswith("Own-v0 is not in the normalisation table.") for note in notes(comparison))


def test_environments_of_packages_have_a_scale(log_dir: Path) -> None:
    assert scale_of("a_package:Pendulum-v1") is scale_of("Pendulum-v1") is SCALES["Pendulum-v1"]
    assert scale_of("Own-v0") == Scale()


def test_an_environment_without_a_threshold(tmp_path: Path) -> None:
    for seed in range(2):
        save(tmp_path, record("ddpg", "Walker2d-v5", seed))
    comparison = comparison_of(tmp_path)
    assert comparison.threshold_rows == ()
    assert "Walker2d-v5: it has no threshold, so there are no times to one." in notes(comparison)


def test_until_its_first_evaluation_a_run_counts_with_the_value_of_that_evaluation(tmp_path: Path) -> None:
    for label, speed in (("ddpg", 1.0), ("sac", 100.0)):
        save(tmp_path, record(label, "Pendulum-v1", 0, speed=speed))
    groups = comparison_of(tmp_path).groups
    assert groups["Pendulum-v1", "sac"].scores["area_over_seconds"] == pytest.approx([-505])
    assert groups["Pendulum-v1", "ddpg"].scores["area_over_seconds"] == pytest.approx([-910])
    (late,) = (note for note in notes(comparison_of(tmp_path)) if "no evaluation yet" in note)
    assert late.startswith(
        "Pendulum-v1: 1 of ddpg had no evaluation yet when the fastest run ended, after 10 CPU seconds"
    )


def test_an_environment_without_the_baseline_is_named(log_dir: Path) -> None:
    for seed in range(3):
        shutil.rmtree(log_dir / "ddpg" / f"HalfCheetah-v5_{seed}")
    comparison = comparison_of(log_dir)
    assert {row.env for row in comparison.improvement_rows["final"]} == {"Pendulum-v1"}
    assert "ddpg, the baseline, was not run on HalfCheetah-v5: nothing is compared with it there" in str(
        notes(comparison)
    )


def test_a_curve_that_cannot_be_drawn_is_named(tmp_path: Path) -> None:
    for seed, speed in enumerate((1.0, 100.0)):
        save(tmp_path, record("ddpg", "Pendulum-v1", seed, speed=speed))
    comparison = comparison_of(tmp_path)
    assert [picture.draw(comparison) is None for picture in pictures.CURVES] == [False, True]
    missing = [note for note in notes(comparison) if "in common" in note]
    assert missing == ["Pendulum-v1: the runs of ddpg have no CPU seconds in common, so it has no curve over them."]


def test_runs_that_waited_for_busy_cores_are_named(log_dir: Path) -> None:
    waited = record("ddpg", "Pendulum-v1", 3)
    waited["seconds"]["train"] = 1.6 * waited["seconds"]["cpu"]
    save(log_dir, waited)
    (waiting,) = (note for note in notes(comparison_of(log_dir)) if "busy" in note)
    assert waiting.startswith("Pendulum-v1: 1 of ddpg took more than 1.5 times their CPU seconds")


# --- Pictures ---


def lines(figure: Figure | None) -> list[Any]:
    assert figure is not None
    return [line for axes in figure.axes for line in axes.get_lines()]


def test_an_algorithm_has_one_colour(log_dir: Path) -> None:
    save(log_dir, record(AWKWARD, "Pendulum-v1", 0))
    comparison = comparison_of(log_dir)
    styles = [drawing.style(comparison, label) for label in comparison.labels]
    assert len(set(styles)) == 3
    for picture in pictures.CURVES:
        figure = picture.draw(comparison)
        assert figure is not None
        on_pendulum = [line.get_color() for line in figure.axes[1].get_lines()]
        assert on_pendulum[:3] == [colour for colour, _ in styles]
        assert figure.axes[0].get_lines()[0].get_color() == styles[0][0]
    many = [f"label {n}" for n in range(20)]
    for label in many:
        save(log_dir, record(label, "Pendulum-v1", 0))
    comparison = comparison_of(log_dir)
    assert len({drawing.style(comparison, label) for label in comparison.labels}) == 23


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["ddpg", "custom_ddpg"], ["ddpg", "custom_ddpg"]),
        (["custom_ddpg:tau=0.1", "custom_ddpg:tau=0.2"], ["custom_ddpg:tau=0.1", "custom_ddpg:tau=0.2"]),
        (["custom_ddpg:tau=0.01,gamma=0.90", "custom_ddpg:tau=0.01,gamma=0.95"], ["…gamma=0.90", "…gamma=0.95"]),
        (
            ["ddpg:a={b: 1, c: 2},batch_size=8", "ddpg:a={b: 1, c: 3}"],
            ["…a={b: 1, c: 2},batch_size=8", "…a={b: 1, c: 3}"],
        ),
        (
            ["ddpg:net=dict(net_arch=[64,64])", "ddpg:net=dict(net_arch=[64,32])"],
            ["…net=dict(net_arch=[64,64])", "…net=dict(net_arch=[64,32])"],
        ),
        (["ddpg", "ddpg:learning_rate=0.001,gamma=0.9"], ["ddpg", "ddpg:learning_rate=0.001,\ngamma=0.9"]),
        (["custom_ddpg:gradient_steps=1,tau=0.1"], ["custom_ddpg:gradient_steps=1,\ntau=0.1"]),
    ],
)
def test_the_common_beginning_of_long_labels_is_left_out_of_pictures(labels: list[str], names: list[str]) -> None:
    assert drawing.short_names(labels, 30) == names


def test_thresholds_are_shown_where_a_run_reached_them(log_dir: Path) -> None:
    titles = [
        part.get_suptitle()
        for part in pictures.THRESHOLDS.draw(comparison_of(log_dir)).subfigs  # type: ignore[union-attr]
    ]
    assert titles == ["Pendulum-v1: first evaluation at or above -200"]  # no run on HalfCheetah comes near 4,800


def test_curves_end_where_the_first_of_their_runs_ends(log_dir: Path) -> None:
    save(log_dir, record("ddpg", "Pendulum-v1", 3, steps=500))
    comparison = comparison_of(log_dir)
    over_steps, over_seconds = (
        [[line.get_xdata()[0], line.get_xdata()[-1]] for line in picture.draw(comparison).axes[1].get_lines()[:2]]
        for picture in pictures.CURVES
    )
    assert over_steps == [[100, 1_000], [100, 500]]
    assert over_seconds == [[0.5, 5], [1, 5]]


@pytest.mark.parametrize(
    ("speed", "labels"),
    [(100, ["1", "2", "5", "10"]), (1, ["100", "200", "500", "1k"]), (0.02, ["5k", "10k", "20k", "50k"])],
)
def test_ticks_of_logarithmic_curves_are_short_numbers(tmp_path: Path, speed: float, labels: list[str]) -> None:
    save(tmp_path, record("ddpg", "Pendulum-v1", 0, speed=speed))  # evaluations after 100 to 1,000 steps
    figure = pictures.CURVES[1].draw(comparison_of(tmp_path))
    assert figure is not None
    figure.draw_without_rendering()
    (axes,) = figure.axes
    low, high = axes.get_xlim()
    ticks = axes.get_xticks(), axes.get_xticklabels()
    assert [label.get_text() for tick, label in zip(*ticks, strict=True) if low <= tick <= high] == labels
    assert not any(label.get_text() for label in axes.get_xticklabels(minor=True))


def test_legends_fit(tmp_path: Path) -> None:
    for label in ("ddpg", "custom_ddpg", "custom_ddpg:hyperparams=ddpg", "ddpg:hyperparams=custom_ddpg"):
        save(tmp_path, record(label, "Pendulum-v1", 0))
    figure = pictures.CURVES[0].draw(comparison_of(tmp_path))
    assert figure is not None
    figure.savefig(tmp_path / "curves.png")
    (legend,) = figure.legends
    extent = legend.get_window_extent()
    assert extent.x0 >= 0
    assert extent.x1 <= figure.bbox.width
    assert len(legend.get_texts()) == 4


def test_curves_show_the_iqm_of_the_runs(log_dir: Path) -> None:
    figure = pictures.CURVES[0].draw(comparison_of(log_dir))
    assert lines(figure)[0].get_ydata() == pytest.approx(-999 + 0.9 * STEPS)  # seeds 0, 1 and 2 add 0, 1 and 2


# --- Pages ---


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (12_345.6, "12,346"),
        (123.45, "123.5"),
        (9.8765, "9.877"),
        (-0.006, "-0.006"),
        (-0.0, "0.000"),
        (0.0004, "4.0e-04"),
        (np.nan, "-"),
        (np.inf, "not reached"),
    ],
)
def test_numbers(value: float, text: str) -> None:
    assert tables.number(value) == text


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a report, of an algorithm with an awkward name and of runs that did not finish, too."""
    directory = tmp_path_factory.mktemp("compare")
    for label in ("ddpg", "custom_ddpg", AWKWARD):
        save_all(directory, label)
    save(directory, {**record("ddpg", "Pendulum-v1", 3), "status": "failed", "error": "<script>alert(1)</script>"})
    (directory / "ddpg" / "Pendulum-v1_4").mkdir()
    assert report.write_report(directory) == directory / "report.html"
    return directory


def files(directory: Path) -> set[str]:
    return {p.name for p in directory.iterdir() if p.is_file()}


PICTURES = {
    *("learning_curves_steps.png", "learning_curves_seconds.png", "scores_final.png", "scores_steps.png"),
    *("scores_seconds.png", "improvement.png", "profiles.png", "thresholds.png", "speed.png"),
}
TEXTS = {"report.html", "report.md", "runs.csv", "evaluations.csv"}


def test_the_summary_includes_algorithms_that_were_run_on_one_environment_only(tmp_path: Path) -> None:
    for label, envs in {"ddpg": ("Pendulum-v1", "HalfCheetah-v5"), "sac": ("Pendulum-v1",)}.items():
        for env in envs:
            save(tmp_path, record(label, env, 0))
    summary = tables.summary(comparison_of(tmp_path))
    assert {row[:2] for row in summary.rows} == {
        (ALL_ENVIRONMENTS, "ddpg"),
        ("Pendulum-v1", "ddpg"),
        ("Pendulum-v1", "sac"),
        ("HalfCheetah-v5", "ddpg"),
    }


def test_pictures_of_an_earlier_report_are_removed_if_there_is_nothing_to_show(tmp_path: Path) -> None:
    save(tmp_path, record("ddpg", "Pendulum-v1", 0))
    (tmp_path / "improvement.png").write_bytes(b"old")
    report.write_report(tmp_path)
    assert not (tmp_path / "improvement.png").exists()
    assert (tmp_path / "speed.png").exists()


def test_same_runs_same_files(reported: Path) -> None:
    first = {name: (reported / name).read_bytes() for name in files(reported)}
    assert first.keys() >= PICTURES | TEXTS
    report.write_report(reported)
    assert {name: (reported / name).read_bytes() for name in files(reported)} == first


def test_the_seed_is_that_of_the_bootstrap(log_dir: Path) -> None:
    for seed in range(3, 10):
        save(log_dir, record("ddpg", "Pendulum-v1", seed))
    first, again, other = (compare(read_runs(log_dir), seed=seed).score_rows for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize("case", ["one run", "one environment without a scale", "nothing finished", "no evaluations"])
def test_few_or_broken_runs_make_a_report_too(case: str, tmp_path: Path) -> None:
    content = record("ddpg", "Own-v0" if "scale" in case else "Pendulum-v1", 0)
    if case == "nothing finished":
        content = {**content, "status": "failed", "error": "a reason"}
    elif case == "no evaluations":
        content["evaluations"] = {"steps": [], "seconds": [], "cpu_seconds": [], "returns": []}
    save(tmp_path, content)
    if "scale" in case:
        for seed in (1, 2):
            save(tmp_path, record("ddpg", "Own-v0", seed))
    report.write_report(tmp_path)
    expected = {
        "one run": PICTURES - {"improvement.png"},
        "one environment without a scale": PICTURES - {"improvement.png", "profiles.png", "thresholds.png"},
        "nothing finished": set(),
        "no evaluations": {"scores_final.png", "profiles.png", "speed.png"},
    }
    assert files(tmp_path) & (PICTURES | TEXTS) == expected[case] | TEXTS
    page = (tmp_path / "report.md").read_text()
    assert "nan" not in page
    for section in page.split("\n## ")[1:]:
        assert re.search(r"^(\||!|- )", section, re.MULTILINE), f"nothing in it: {section}"
    assert "Compared with" not in page
    if case == "one run":
        assert "ddpg has one run, so its intervals are not defined" in page
        assert "| Pendulum-v1 | ddpg | 1 | -100.0 | -100.0 | -100.0 | 0.000 |" in page
    if case == "nothing finished":
        assert r"failed \(a reason\)" in page or "failed (a reason)" in page


def test_csv_files_are_tidy(reported: Path) -> None:
    with (reported / "runs.csv").open(newline="") as file:
        runs = list(csv.DictReader(file))
    assert len(runs) == 20
    by_name = {run["directory"]: run for run in runs}
    assert by_name["ddpg/Pendulum-v1_3"]["reason"] == "<script>alert(1)</script>"
    assert by_name["ddpg/Pendulum-v1_4"]["status"] == "not finished"
    assert by_name["ddpg/Pendulum-v1_4"]["seconds"] == ""
    run = by_name["custom_ddpg/Pendulum-v1_2"]
    assert (run["label"], run["env"], run["seed"], run["steps"]) == ("custom_ddpg", "Pendulum-v1", "2", "1000")
    keys = ("final_score", "final_episodes", "seconds", "cpu_seconds")
    assert [float(run[key]) for key in keys] == [-98, 2, 12.5, 10]
    assert sum(run["label"] == AWKWARD for run in runs) == 6
    with (reported / "evaluations.csv").open(newline="") as file:
        evaluations = [row for row in csv.DictReader(file) if row["directory"] == "custom_ddpg/Pendulum-v1_2"]
    assert [int(row["step"]) for row in evaluations] == STEPS.tolist()
    last = evaluations[-1]
    assert [float(last[key]) for key in ("mean", "seconds", "cpu_seconds", "episodes")] == [-98, 12.5, 10, 2]


def test_markdown_tables_are_whole(reported: Path) -> None:
    """Labels are anybody's words: a row has as many cells as its header all the same."""
    text = (reported / "report.md").read_text()
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) >= 10
    for table in tables:
        assert len({row.replace(r"\|", "").count("|") for row in table}) == 1, table
    assert r"ddpg:a=\<b\>\&" in text
    assert "<" not in text.replace(r"\<", "")
    for picture in PICTURES:
        assert f"]({picture})" in text


def test_the_page_in_a_browser(browser: WebDriver, reported: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    shutil.copy(reported / "report.html", page)  # it needs no other file
    browser.get(page.as_uri())

    images = browser.find_elements(By.TAG_NAME, "img")
    assert len(images) >= len(PICTURES)
    for image in images:
        assert int(image.get_property("naturalWidth")) > 600  # type: ignore[arg-type]
        assert image.is_displayed()
        assert image.size["width"] <= browser.execute_script("return document.body.clientWidth")
    headings = [heading.text for heading in browser.find_elements(By.TAG_NAME, "h2")]
    assert headings[:3] == ["Summary", "Notes", "Learning curves"]
    tables = browser.find_elements(By.TAG_NAME, "table")
    assert len(tables) == (reported / "report.md").read_text().count("\n|---")
    for table in tables:
        assert table.is_displayed()
        assert table.find_element(By.TAG_NAME, "caption").text
        columns = len(table.find_elements(By.CSS_SELECTOR, "thead th"))
        for row in table.find_elements(By.CSS_SELECTOR, "tbody tr"):
            assert len(row.find_elements(By.CSS_SELECTOR, "th, td")) == columns
    assert AWKWARD in {cell.text for cell in browser.find_elements(By.CSS_SELECTOR, "tbody th")}
    assert "failed (<script>alert(1)</script>)" in browser.find_element(By.TAG_NAME, "body").text
    assert browser.find_elements(By.TAG_NAME, "script") == []
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert all(name.startswith("data:") for name in loaded)


# --- What is not installed ---


def test_training_needs_neither_scipy_nor_jinja(tmp_path: Path) -> None:
    """`learning_curve` belongs to the extra train, the rest to the extra compare."""
    code = (
        "import sys; sys.modules['scipy'] = sys.modules['jinja2'] = None\n"
        "from pathlib import Path; from sb3_ddpg_ext import report\n"
        "report.learning_curve(Path('.'))\n"
        "try: report.write_report(Path('.'))\n"
        "except ValueError as error: print(error)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert result.stdout == "scipy is not installed: pip install 'sb3_ddpg_ext[compare]'\n", result.stderr


# --- For papers ---


def test_pictures_as_pdf_and_svg_and_tables_as_latex(log_dir: Path) -> None:
    comparison = report.analyse(log_dir)
    report.write(comparison, log_dir, ("pdf", "svg", "latex"))
    names = {file.stem for file in log_dir.glob("*.png")}
    assert names == {file.stem for file in log_dir.glob("*.pdf")} == {file.stem for file in log_dir.glob("*.svg")}
    assert names == report.figures(comparison).keys()
    before = {file.name: file.read_bytes() for file in log_dir.iterdir() if file.suffix in (".pdf", ".svg", ".tex")}
    assert before["speed.pdf"].startswith(b"%PDF")
    assert b"custom_ddpg</text>" in before["speed.svg"]  # letters, not outlines
    assert {"summary.tex", "scores_final.tex", "improvement_final.tex", "runs.tex"} <= before.keys()
    summary = before["summary.tex"].decode()
    assert summary.startswith("% Scores: IQM and 95% interval")
    assert r"Pendulum-v1 & custom\_ddpg & " in summary
    assert summary.count(r" \\") == len(tables.summary(comparison).rows) + 1
    report.write(comparison, log_dir, ("pdf",))
    assert before == {name: (log_dir / name).read_bytes() for name in before}  # equal runs, equal files


def test_latex_shows_any_text_as_it_is() -> None:
    table = tables.Table("why: 5%\nof it", ("a_b", "c"), ((r"50% & $x$ \ ~ ^ #1 {}", "1\u00a0[2,\u00a03]"),), heads=1)
    assert latex(table).splitlines() == [
        "% why: 5% of it",
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"a\_b & c \\",
        r"\midrule",
        r"50\% \& \$x\$ \textbackslash{} \textasciitilde{} \textasciicircum{} \#1 \{\} & 1~[2,~3] \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_the_report_says_how_the_baseline_was_chosen(log_dir: Path) -> None:
    page = report.write_report(log_dir).read_text()
    assert "Baseline: ddpg, chosen by rule (ddpg if it is among the algorithms, otherwise the first of them)." in page
    assert "Baseline: custom_ddpg.</p>" in report.write_report(log_dir, baseline="custom_ddpg").read_text()


def test_without_ddpg_the_baseline_is_the_first_that_the_user_named(log_dir: Path) -> None:
    save_all(log_dir, "a")
    for folder in log_dir.glob("ddpg"):
        shutil.rmtree(folder)
    assert report.analyse(log_dir).baseline == "a"
    assert report.analyse(log_dir, order=["none", "custom_ddpg", "a"]).baseline == "custom_ddpg"
