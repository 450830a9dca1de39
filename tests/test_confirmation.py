"""What is trained again, who wins, and how that gets into a hyperparameter file."""

import datetime
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from processes import ENVIRONMENT
from small_runs import FIXED, noise_of, tune, tune_arguments

from sb3_ddpg_ext.__main__ import main
from sb3_ddpg_ext.arguments import ScoreKind, TuneArgs
from sb3_ddpg_ext.comparison import PlannedRun
from sb3_ddpg_ext.errors import SettingsError
from sb3_ddpg_ext.files import lock
from sb3_ddpg_ext.results.records import Evaluations, RunIdentity, RunRecord, Score
from sb3_ddpg_ext.settings import ALGORITHMS, hyperparams_file, load_settings, read_yaml
from sb3_ddpg_ext.tuning import confirmation
from sb3_ddpg_ext.tuning.confirmation import plan, rank, target, winner
from sb3_ddpg_ext.tuning.storage import Job
from sb3_ddpg_ext.tuning.study import Study, prepare
from sb3_ddpg_ext.tuning.winner_file import WinningEntry, write_entry

ROOT = Path(__file__).parent.parent
FILES = [hyperparams_file(algo) for algo in ALGORITHMS if not algo.startswith("sbx_")]
ENTRY = {"n_timesteps": 5, "policy_kwargs": {"net_arch": [64, 64]}, "noise_kwargs": {"correlation_time": 3.5}}


def record(mean: float, times: tuple[float, ...] = (), **kwargs: Any) -> RunRecord:
    """Of a run on Pendulum: its final score, and when it reached the threshold, after so many evaluations."""
    seconds = np.arange(1.0, 5.0)
    returns = np.array([[-150.0 if second in times else -900.0] for second in seconds])
    results = {
        "status": "finished",
        "score": Score(np.array([mean]), np.array([200]), 0),
        "evaluations": Evaluations(seconds, seconds, seconds, returns),
        "versions": {"torch": "2.9"},
    }
    return RunRecord.of(RunIdentity("", "custom_ddpg", "Pendulum-v1", 0), **{**results, **kwargs})


def ranked(
    tmp_path: Path, records: Mapping[str, list[RunRecord]], **kwargs: Any
) -> tuple[TuneArgs, Study, tuple[confirmation.Confirmed, ...]]:
    args = tune_arguments(tmp_path, "Pendulum-v1", fix=(), **kwargs)
    _, study = prepare(args)
    settings = load_settings("custom_ddpg", "Pendulum-v1")
    runs = [
        PlannedRun(label, study.train_args(seed), settings, tmp_path / label / str(seed))
        for label, group in records.items()
        for seed in range(len(group))
    ]
    return args, study, rank(runs, {run.directory: records[run.label][run.args.seed] for run in runs}, study)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[TuneArgs, Job]:
    args = tune_arguments(
        tmp_path_factory.mktemp("tuned"), trials=4, seeds=2, steps=60, top=2, confirm_seeds=3, pruner="none"
    )
    return args, tune(args)[0]


def test_the_best_and_the_previous_settings_are_trained_on_fresh_seeds(tuned: tuple[TuneArgs, Job]) -> None:
    args, job = tuned
    study = prepare(args)[1]
    runs = plan(args, job, study)
    _, *others = optuna.load_study(storage=job.url, study_name=job.name).trials  # the first has the previous settings
    trials = sorted(others, key=lambda t: -(t.value or 0))
    labels = ["previous with fix", f"trial {trials[0].number}", f"trial {trials[1].number}"]
    assert [(run.label, run.args.seed) for run in runs] == [(label, s) for s in (2, 3, 4) for label in labels]
    assert runs[1].settings.hyperparams["gamma"] == trials[0].params["gamma"]
    previous = load_settings("custom_ddpg", args.env, overrides=["n_timesteps=60", *FIXED])
    assert noise_of(runs[0].settings) == noise_of(previous)
    assert previous.hyperparams.items() <= runs[0].settings.hyperparams.items()
    assert {run.args.eval_episodes for run in runs} == {1}
    assert runs[0].directory == args.log_dir / job.name / "confirm" / "previous_with_fix" / "Quick-v0_2"
    assert runs[1].directory.parent.name == f"trial_{trials[0].number}"


def test_the_highest_iqm_wins(tmp_path: Path) -> None:
    records = {
        "previous": [record(x) for x in (-150, -151, -152, -153)],
        "trial 3": [record(x) for x in (-149, -148, -900)] + [record(-149, versions={"torch": "2.8"})],
        "trial 5": [record(x) for x in (-140, -160, -161, -162)],
    }
    args, study, order = ranked(tmp_path, records)
    assert [c.label for c in order] == ["trial 3", "previous", "trial 5"]
    assert order[0].estimate.value == -149
    assert order[0].estimate.low < -149 <= order[0].estimate.high
    assert order[0].better.value == 12 / 16
    entry = winner(args, study, order, 7)
    assert entry is not None
    assert entry.env == "Pendulum-v1"
    assert entry.values == load_settings("custom_ddpg", "Pendulum-v1").raw
    text = " ".join(entry.comments)
    for said in (
        f"{datetime.date.today()}: trial 3 of 7 of the study custom_ddpg_Pendulum-v1, 1 seed each",
        "final return, IQM of 4 fresh seeds (1 to 4) and 95% interval: -149 [-",
        "the settings before: -151.5 [-15",
        f"torch 2.9 and torch 2.8, optuna {optuna.__version__}",  # those of its runs, not of this process
    ):
        assert said in text


def test_times_are_better_when_they_are_short_and_failed_runs_are_the_worst(tmp_path: Path) -> None:
    failed = record(0, status="failed", error="FloatingPointError: no", score=None, evaluations=None)
    records = {
        "trial 1": [record(0, (2,)), record(0, (2, 3)), record(0, (2,)), failed],
        "previous": [record(0, (3,))] * 4,
        "trial 2": [record(0, (1,)), record(0, (1,)), record(0), failed],
    }
    _, _, order = ranked(tmp_path, records, score=ScoreKind.SECONDS_TO_THRESHOLD)
    assert [(c.label, c.estimate.value, c.failed) for c in order] == [
        ("trial 1", 2, 1),
        ("previous", 3, 0),
        ("trial 2", math.inf, 1),
    ]
    assert order[0].better.value == 0.75


def test_the_previous_settings_stay_where_nothing_is_better(tmp_path: Path) -> None:
    for name, best in (("a", -150.0), ("b", -151.0)):
        records = {"previous": [record(-150.0)] * 3, "trial 1": [record(best)] * 3}
        args, study, order = ranked(tmp_path / name, records)
        assert winner(args, study, order, 1) is None
    args, study, order = ranked(
        tmp_path / "c", {"trial 1": [record(0)] * 2, "previous": [record(0)] * 2}, score=ScoreKind.STEPS_TO_THRESHOLD
    )
    assert np.isinf(order[0].estimate.value)
    assert winner(args, study, order, 1) is None


# --- The file ---


def comments(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("#")]


@pytest.mark.parametrize(
    ("file", "env"), [(file, env) for file in FILES for env in [*read_yaml(file), "New-v0"]], ids=str
)
def test_any_entry_can_be_replaced_and_nothing_else_changes(file: Path, env: str, tmp_path: Path) -> None:
    copy = tmp_path / file.name
    shutil.copy(file, copy)
    write_entry(copy, WinningEntry(env, ENTRY, ("first", "second")))
    assert read_yaml(copy) == {**read_yaml(file), env: ENTRY}
    assert comments(copy.read_text()) == comments(file.read_text())
    assert f"{env}:\n  # first\n  # second\n  n_timesteps: 5\n" in copy.read_text()
    write_entry(copy, WinningEntry(env, {"n_timesteps": 6}, ("third",)))
    assert read_yaml(copy) == {**read_yaml(file), env: {"n_timesteps": 6}}
    assert "first" not in copy.read_text()
    assert [p.name for p in tmp_path.iterdir()] == [file.name]


def test_what_is_around_the_entry_stays_to_the_byte(tmp_path: Path) -> None:
    file = tmp_path / "x.yml"
    before = "# a\nA-v0: {n_timesteps:   1}\n\n# of b\n"
    after = "\n# of c\nC-v0:\n\n  n_timesteps: 1_000  # many\n"
    file.write_text(f"{before}B-v0: # old\n  n_timesteps: 1\n\n  # inside\n  gamma: 1.0e-1\n{after}")
    write_entry(file, WinningEntry("B-v0", {"n_timesteps": 2}, ()))
    assert file.read_text() == f"{before}B-v0:\n  n_timesteps: 2\n{after}"


def test_line_ends_links_and_permissions_stay(tmp_path: Path) -> None:
    file, link = tmp_path / "x.yml", tmp_path / "link.yml"
    file.write_bytes(b"A:\r\n  x: 1\r\nB:\r\n  x: 1\r\n")
    file.chmod(0o664)
    link.symlink_to(file)
    write_entry(link, WinningEntry("A", {"x": 2}, ("why",)))
    assert file.read_bytes() == b"A:\r\n  # why\r\n  x: 2\r\nB:\r\n  x: 1\r\n"
    assert link.is_symlink()
    assert file.stat().st_mode & 0o777 == 0o664


def test_what_was_edited_meanwhile_is_not_overwritten(tuned: tuple[TuneArgs, Job], tmp_path: Path) -> None:
    file = tmp_path / "mine.yml"
    shutil.copy(hyperparams_file("custom_ddpg"), file)
    args = replace(tuned[0], hyperparams=file)
    job, study = prepare(args)
    first, second = (WinningEntry("Quick-v0", {**study.incumbent, "gamma": gamma}, ("why",)) for gamma in (0.5, 0.6))
    assert confirmation.write_winner(args, job, study, first)
    assert read_yaml(file)["Quick-v0"] == first.values
    assert "why" in file.read_text()
    file.write_text(file.read_text().replace("# why", "# my own words"))
    assert not confirmation.write_winner(args, job, study, first)
    assert "# my own words" in file.read_text()
    confirmation.write_winner(args, job, study, second)  # more trials found a better one
    assert read_yaml(file)["Quick-v0"] == second.values
    text = file.read_text()
    for edited in (text.replace("gamma: 0.6", "gamma: 0.7"), text.replace("n_timesteps: 60", "n_timesteps: 61")):
        file.write_text(edited)
        with pytest.raises(SettingsError, match=r"mine.yml: the settings of Quick-v0 were changed since the study"):
            confirmation.write_winner(args, job, study, first)
        assert file.read_text() == edited


def test_commands_that_name_one_file_by_different_links_exclude_each_other(
    tuned: tuple[TuneArgs, Job], tmp_path: Path
) -> None:
    file, link = tmp_path / "shared" / "mine.yml", tmp_path / "mine" / "link.yml"
    for folder in (file.parent, link.parent):
        folder.mkdir()
    shutil.copy(hyperparams_file("custom_ddpg"), file)
    link.symlink_to(file)
    args = replace(tuned[0], hyperparams=link)
    job, study = prepare(args)
    entry = WinningEntry("Quick-v0", {**study.incumbent, "gamma": 0.5}, ("why",))
    with ThreadPoolExecutor(1) as pool:
        with lock(file.parent, wait=True):
            writing = pool.submit(confirmation.write_winner, args, job, study, entry)
            assert not wait([writing], timeout=0.5).done
        assert writing.result()
    assert read_yaml(file)["Quick-v0"] == entry.values


def test_an_anchor_moves_to_the_first_entry_that_refers_to_it(tmp_path: Path) -> None:
    file = tmp_path / "x.yml"
    file.write_text("A: &a\n  x: 1\n  y: {z: 2}\nB:\n  <<: *a\n  x: 2\nC:\n  <<: *a\n")
    write_entry(file, WinningEntry("A", {"x": 3}, ()))
    assert file.read_text() == "A:\n  x: 3\nB:\n  <<: &a\n    x: 1\n    y: {z: 2}\n  x: 2\nC:\n  <<: *a\n"


@pytest.mark.parametrize("text", ["A: &a {x: 1}\nB: *a\n", "'A':\n  x: 1\nB: 1\n", "{A: {x: 1}, B: 2}\n"])
def test_what_cannot_be_replaced_is_left_alone(text: str, tmp_path: Path) -> None:
    file = tmp_path / "x.yml"
    file.write_text(text)
    with pytest.raises(
        SettingsError, match=r"x.yml: A cannot be replaced without touching other entries; do it by hand"
    ):
        write_entry(file, WinningEntry("A", {"x": 3}, ()))
    assert file.read_text() == text
    assert [p.name for p in tmp_path.iterdir()] == ["x.yml"]


def test_a_file_that_cannot_be_written_to_is_found_at_once(tmp_path: Path) -> None:
    for file in (tmp_path, tmp_path / "none.yml"):
        with pytest.raises(SettingsError, match=r"cannot be written to; name a copy of it with --hyperparams, or use"):
            target(TuneArgs("Pendulum-v1", hyperparams=file))
    assert not list(tmp_path.iterdir())


# --- All of it ---


@pytest.mark.parametrize("how", ["in this process", pytest.param("as a script", marks=pytest.mark.slow)])
def test_from_the_search_to_the_file(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(hyperparams_file("custom_ddpg"), tmp_path / "mine.yml")
    fixed = [word for setting in FIXED for word in ("--fix", setting)]
    numbers = "--trials 4 --steps 120 --seeds 1 --eval-freq 40 --eval-episodes 10 --top 2 --confirm-seeds 2 --workers 0"
    where = ["--env", "comparison_envs:Quick-v0", "--hyperparams", "mine.yml", "--log-dir", "out", "--quiet"]
    command = [*where, *numbers.split(), *fixed]

    def run(*further: str) -> str:
        if how == "in this process":
            assert main(["tune", *command, *further]) == 0
            return capsys.readouterr().out
        script = [sys.executable, ROOT / "scripts" / "tune.py", *command, *further]
        result = subprocess.run(script, env=ENVIRONMENT, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        assert result.stderr == ""
        return result.stdout

    before = read_yaml(tmp_path / "mine.yml")
    printed = run("--no-write")
    assert read_yaml(tmp_path / "mine.yml") == before
    page = (tmp_path / "out" / "custom_ddpg_Quick-v0" / "report.html").read_text()
    for title in ("History", "Importance of the hyperparameters", "Slices", "Parallel coordinates"):
        assert title in page
    assert page.count('class="plotly-graph-div"') == 4
    assert re.search(r"<code>optuna-dashboard sqlite:///.*study.db</code>", page)
    assert "Confirmation on fresh seeds: final return." in page
    after = run()
    assert page.count("previous") > 1
    if "The previous settings stay" in printed:
        assert read_yaml(tmp_path / "mine.yml") == before
    else:
        assert "Written to mine.yml" in after
        written = read_yaml(tmp_path / "mine.yml")
        assert {**written, "Quick-v0": None} == {**before, "Quick-v0": None}
        assert load_settings("custom_ddpg", "comparison_envs:Quick-v0", tmp_path / "mine.yml").n_timesteps == 120
    assert (tmp_path / "out" / "custom_ddpg_Quick-v0" / "confirm" / "report.html").exists()


FEW = "--trials 2 --steps 60 --seeds 1 --eval-freq 30 --eval-episodes 10 --top 1 --confirm-seeds 1 --workers 0"
QUICK = [
    "tune",
    "--env",
    "comparison_envs:Quick-v0",
    *FEW.split(" "),
    *(word for setting in FIXED for word in ("--fix", setting)),
]


def test_what_is_fixed_holds_for_the_previous_settings_in_the_confirmation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yml").write_text("default:\n  n_timesteps: 60\n  gamma: 0.9\n  tau: 0.5\n")
    (tmp_path / "space.yml").write_text("tau: [0.01, 0.02]\nn_steps: 3\n")
    where = ["--hyperparams", "mine.yml", "--space", "space.yml", "--log-dir", "out", "--no-write"]
    assert main([*QUICK, *where, "--fix", "gamma=0.95"]) == 0
    printed = capsys.readouterr().out
    configs = list((tmp_path / "out" / "custom_ddpg_Quick-v0" / "confirm").glob("previous*/*/*/config.yml"))
    assert [file.parts[-4] for file in configs] == ["previous_with_fix"]
    settings = read_yaml(configs[0])
    assert settings["gamma"] == 0.95
    assert settings["n_steps"] == 3  # which a file of --space with one value fixes, too
    assert settings["tau"] == 0.5  # the search is narrowed, not what it is compared with
    assert re.search(r"^ *previous with fix +1", printed, re.MULTILINE)
    page = (tmp_path / "out" / "custom_ddpg_Quick-v0" / "report.html").read_text()
    assert "(previous with fix)" not in page  # the first trial, which had to take another tau
    assert "n_steps=3" in page
    assert "gamma=0.95, also in the previous settings" in page
    assert re.search(r"^The study in a browser: optuna-dashboard sqlite:///.*study.db$", printed, re.MULTILINE)


def test_the_winner_is_written_to_the_current_folder_and_is_what_is_trained_with_there(
    tuned: tuple[TuneArgs, Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    packaged = hyperparams_file("custom_ddpg").read_bytes()
    args, job = tuned
    study = prepare(args)[1]
    assert target(args) == Path("hyperparams/custom_ddpg.yml")
    assert not list(tmp_path.iterdir())  # nothing is made before there is a winner
    entry = WinningEntry("Quick-v0", {**study.incumbent, "gamma": 0.5}, ("why",))
    assert confirmation.write_winner(args, job, study, entry)
    assert hyperparams_file("custom_ddpg").read_bytes() == packaged
    own = tmp_path / "hyperparams" / "custom_ddpg.yml"
    assert read_yaml(own) == {"Quick-v0": entry.values}
    assert own.read_text().startswith("# Settings in RL Zoo's format")
    assert load_settings("custom_ddpg", args.env).raw == entry.values
    assert load_settings("custom_ddpg", "Pendulum-v1").n_timesteps == 20_000  # the others are the package's
    assert not confirmation.write_winner(args, job, study, entry)
    second = WinningEntry("Quick-v0", {**study.incumbent, "gamma": 0.6}, ("why",))
    assert confirmation.write_winner(args, job, study, second)
    shutil.rmtree(own.parent)
    own.parent.touch()
    with pytest.raises(SettingsError, match=r"^hyperparams/custom_ddpg.yml cannot be written to"):
        target(args)
