"""What the commands do, called from Python."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from processes import ENVIRONMENT
from small_runs import CUSTOM, DDPG, FIXED

import sb3_ddpg_ext
from sb3_ddpg_ext.arguments import CompareArgs, TrainArgs
from sb3_ddpg_ext.errors import SettingsError

QUICK = "comparison_envs:Quick-v0"


def test_train_and_evaluate(tmp_path: Path) -> None:
    record = sb3_ddpg_ext.train(QUICK, steps=60, eval_freq=30, eval_episodes=2, log_dir=tmp_path, quiet=True)
    assert record.is_finished
    assert record.steps == 60
    assert record.best_evaluation is not None
    file, score = sb3_ddpg_ext.evaluate(record.directory, model="last", episodes=3)
    assert file == record.directory / "Quick-v0.zip"
    assert len(score.returns) == 3


def test_compare(tmp_path: Path) -> None:
    result = sb3_ddpg_ext.compare(
        f"{DDPG},{CUSTOM}", QUICK, seeds=1, steps=120, eval_freq=60, workers=0, log_dir=tmp_path, quiet=True
    )
    assert not result.interrupted
    assert {record.label for record in result.records.values()} == {CUSTOM, DDPG}
    assert result.report == tmp_path / "report.html"
    assert result.comparison is not None
    rows = result.comparison.score_rows["final"]
    assert [row.label for row in rows] == [CUSTOM, DDPG]
    assert rows[0].estimates["IQM"].value == next(r for r in result.records.values() if r.label == CUSTOM).score.mean
    figures = result.figures()
    assert isinstance(figures["learning_curves_steps"], Figure)
    assert {file.stem for file in tmp_path.glob("*.png")} == figures.keys()


def test_tune(tmp_path: Path) -> None:
    few = {"trials": 2, "steps": 60, "seeds": 1, "eval_freq": 30, "eval_episodes": 10, "top": 1, "confirm_seeds": 2}
    result = sb3_ddpg_ext.tune(QUICK, workers=0, fix=FIXED, log_dir=tmp_path, write=False, quiet=True, **few)
    assert result.progress.finished == 2
    assert [c.label for c in sorted(result.ranked, key=lambda c: c.label)] == ["previous with fix", "trial 1"]
    assert (result.entry is None) == (result.ranked[0].label == "previous with fix")
    assert result.file is None
    assert result.report is not None
    assert result.report.exists()


def test_bad_input_is_the_error_of_the_command_line(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^unknown algorithm 'ddgp'; did you mean 'ddpg'\?$"):
        sb3_ddpg_ext.train("Pendulum-v1", algo="ddgp", log_dir=tmp_path)
    with pytest.raises(TypeError, match="unexpected keyword argument 'learning_rate'"):
        sb3_ddpg_ext.train("Pendulum-v1", learning_rate=1)  # type: ignore[call-arg]


def test_the_arguments_are_those_of_the_command_line() -> None:
    assert inspect.signature(sb3_ddpg_ext.train) == inspect.signature(TrainArgs)
    assert inspect.signature(sb3_ddpg_ext.compare) == inspect.signature(CompareArgs)


def test_what_is_missing_is_named_with_the_line_that_installs_it() -> None:
    code = "import sys; sys.modules['tyro'] = None; import sb3_ddpg_ext; sb3_ddpg_ext.train"
    result = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True)
    assert result.stderr.endswith("ModuleNotFoundError: tyro is not installed: pip install 'sb3_ddpg_ext[train]'\n")
    with pytest.raises(AttributeError, match="module 'sb3_ddpg_ext' has no attribute 'trian'"):
        sb3_ddpg_ext.trian  # type: ignore[attr-defined]  # noqa: B018
