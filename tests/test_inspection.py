"""What looks wrong in a run is said, with numbers; what is in order is not. Any run directory is drawn."""

import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_runs import TINY_PARAMS

from sb3_ddpg_ext.arguments import InspectArgs, TrainArgs
from sb3_ddpg_ext.errors import NonFiniteError, SettingsError
from sb3_ddpg_ext.inspection import findings, inspect_run
from sb3_ddpg_ext.inspection.findings import find
from sb3_ddpg_ext.inspection.page import draw
from sb3_ddpg_ext.inspection.reading import InspectedRun, Series, read
from sb3_ddpg_ext.terminal import carry_out
from sb3_ddpg_ext.training import train


def series(*values: float) -> Series:
    return Series(np.arange(1.0, 1 + len(values)), np.array(values))


def rising(low: float, high: float, n: int = 20, episodes: int = 5) -> Series:
    """Evaluations that rise in the first third of the run, and stay there."""
    means = np.interp(np.arange(n), [0, n / 3], [low, high])
    return Series(np.arange(1.0, n + 1), means[:, None] + np.linspace(-1, 1, episodes))


HEALTHY = InspectedRun(
    "custom_ddpg Env-v0_1",
    episodes=series(*np.linspace(-101, -99, 20), *np.linspace(-11, -9, 30)),
    evaluations=rising(-100, -10),
    q_values=series(*np.linspace(0, -11, 20)),
    discounted_returns=series(*np.linspace(-50, -10, 20)),
    log={
        "train/n_updates": series(10, 20),
        "train/critic_loss": series(0.1, 1, 5, 20, 10, 5),
        "train/actor_saturation": series(0.2, 0.8),
        "train/actor_spread": series(0.001, 0.5),
        "train/actor_dead_units": series(0.1, 0.3),
        "train/critic_dead_units": series(0.1, 0.3),
        "rollout/noise_std": series(0.5, 0.3, 0.1, 0.0),
    },
)


def titles(run: InspectedRun) -> list[str]:
    return [finding.title for finding in find(run)]


def with_log(**log: Series) -> InspectedRun:
    return replace(HEALTHY, log={**HEALTHY.log, **{key.replace("__", "/"): values for key, values in log.items()}})


def test_nothing_is_wrong_with_a_healthy_run() -> None:
    assert titles(HEALTHY) == []
    assert titles(InspectedRun("a run that has only begun", episodes=series(1, 2, 3))) == []


CASES = {
    "It ended with an error": replace(HEALTHY, error="ValueError: no"),
    "It was interrupted": replace(HEALTHY, interrupted=(20, 50)),
    "Nothing has been recorded yet": InspectedRun("custom_ddpg Env-v0_1"),
    "Learning never began": replace(HEALTHY, log={"time/fps": series(1)}),
    "It has not learned anything": replace(HEALTHY, evaluations=rising(-101, -101)),
    "The critic diverges": with_log(train__critic_loss=series(1, 10, 100, 2000)),
    "The critic overestimates": replace(HEALTHY, q_values=series(*np.linspace(0, 20, 20))),
    "The critic lags behind": replace(
        HEALTHY, q_values=series(*np.linspace(0, -1, 20)), discounted_returns=series(*np.linspace(-50, -40, 20))
    ),
    "The actor is saturated": with_log(train__actor_saturation=series(0.5, 0.95)),
    "The actor's actions are constant": with_log(train__actor_spread=series(0.5, 0.001)),
    "Units of the actor are dead": with_log(train__actor_dead_units=series(0.1, 0.6)),
    "Units of the critic are dead": with_log(train__critic_dead_units=series(0.1, 0.6)),
    "It hardly explores": with_log(rollout__noise_std=series(0.0, 0.0)),
    "It was still improving when it ended": replace(
        HEALTHY, evaluations=Series(np.arange(1.0, 21), np.linspace(-100, -10, 20)[:, None] + np.linspace(-1, 1, 5))
    ),
}


@pytest.mark.parametrize("title", CASES)
def test_each_finding(title: str) -> None:
    assert titles(CASES[title]) == [title]


def test_an_error_before_the_first_log() -> None:
    """Learning may have begun by then."""
    assert titles(replace(CASES["Learning never began"], error="ValueError: no")) == ["It ended with an error"]


@pytest.mark.parametrize(
    "run",
    [
        with_log(train__critic_loss=series(1, 10, 100, 900)),  # returns grow, too
        with_log(train__critic_loss=series(1, 5000)),  # too few to say
        replace(HEALTHY, q_values=series(*np.linspace(0, -36, 20))),  # below the returns
        replace(HEALTHY, q_values=series(*np.linspace(100, -5, 20))),  # above them by less than half of the largest
        with_log(train__actor_saturation=series(1.0, 0.85)),  # at the beginning only
        with_log(train__actor_spread=series(0.0, 0.02)),  # at the beginning only
        with_log(rollout__noise_std=Series(np.array([20.0, 40.0]), np.array([0.03, 0.0]))),  # a schedule
        with_log(rollout__noise_std=Series(np.array([48.0]), np.array([0.01]))),  # logged at its end only
        replace(HEALTHY, evaluations=Series(), episodes=series(*np.linspace(-100, -10, 30), *[-10.0] * 60)),
    ],
)
def test_what_is_no_finding(run: InspectedRun) -> None:
    assert titles(run) == []


def test_numbers_are_in_the_words() -> None:
    (finding,) = find(CASES["The critic overestimates"])
    assert "it expected 17.89 on average, where the discounted return was -14.21" in finding.evidence
    (finding,) = find(CASES["The actor is saturated"])
    assert str(finding).startswith("The actor is saturated: without noise, 95% of")
    (finding,) = find(CASES["The critic lags behind"])
    assert "it expected -0.8947 on average, where the discounted return was -41.05" in finding.evidence
    assert "it has done 20 of 50 steps" in find(CASES["It was interrupted"])[0].evidence
    assert "there was no noise" in find(CASES["It hardly explores"])[0].evidence


@given(st.sampled_from(sorted(CASES)), st.floats(1e-3, 1e3))
def test_findings_do_not_depend_on_the_unit_of_rewards(title: str, factor: float) -> None:
    def scaled(line: Series) -> Series:
        return Series(line.steps, factor * line.values)

    run, log = CASES[title], dict(CASES[title].log)
    if "train/critic_loss" in log:
        log["train/critic_loss"] = Series(log["train/critic_loss"].steps, factor**2 * log["train/critic_loss"].values)
    run = InspectedRun(
        run.title, *map(scaled, (run.episodes, run.evaluations, run.q_values, run.discounted_returns)), log=log
    )
    run = replace(run, error=CASES[title].error, interrupted=CASES[title].interrupted)
    assert titles(run) == [title]


def test_thresholds_are_those_of_the_documentation() -> None:
    page = (Path(__file__).parent.parent / "docs" / "inspecting.md").read_text()
    for words in (
        f"first {findings._FIRST_EPISODES} training episodes, by {findings._STANDARD_ERRORS:.0f} standard errors",
        f"last quarter is {findings._GROWTH_OF_LOSS:,.0f} times that of the first",
        f"by {findings._LARGE_BIAS:.0%} of the largest",
        f"{findings._SATURATED:.0%} of its actions",
        f"over the states is below {findings._SMALL_SPREAD} in the last quarter",
        f"{findings._DEAD:.0%} of the ReLU units",
        f"below {findings._SMALL_NOISE} in the first half",
        f"by {findings._STILL_IMPROVING:.0%} of the range",
    ):
        assert words in page


# --- Run directories ---


@pytest.fixture(scope="module")
def sick_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    params = (*TINY_PARAMS, "learning_rate=3.0", "noise_type=null", "policy_kwargs={net_arch: [16, 16]}")
    args = {"steps": 1_000, "eval_freq": 200, "eval_episodes": 2, "quiet": True, "params": params}
    with pytest.warns(UserWarning, match="does not explore"):
        return train(TrainArgs("Pendulum-v1", log_dir=tmp_path_factory.mktemp("runs"), **args)).directory  # type: ignore[arg-type]


def test_a_run_that_was_made_sick_on_purpose(sick_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert carry_out(InspectArgs(sick_run), with_traceback=False) == 0
    *words, last = capsys.readouterr().out.splitlines()
    assert {"The actor is saturated", "It hardly explores"} <= {line.partition(":")[0] for line in words}
    assert last == f"Page: {sick_run / 'inspection.html'}"
    page = (sick_run / "inspection.html").read_text()
    assert "<strong>It hardly explores:</strong> there was no noise" in page
    assert "http" not in page.replace("data:image/png;base64,", "")  # one file, which needs no other
    assert (sick_run / "inspection.png").read_bytes().startswith(b"\x89PNG")


def test_all_is_read_and_drawn(sick_run: Path) -> None:
    run = read(sick_run)
    assert run.missing == ()
    assert run.evaluations.values.shape == (5, 2)
    assert run.episodes.steps.tolist() == [200, 400, 600, 800, 1000]
    assert run.q_values.steps.tolist() == run.logged("eval/q_bias").steps.tolist() == [200, 400, 600, 800, 1000]
    bias = run.q_values.values - run.discounted_returns.values
    assert bias == pytest.approx(run.logged("eval/q_bias").values, rel=1e-3)
    drawn = [axes.get_title() for axes in draw(run).axes if axes.get_visible() and axes.get_title()]
    assert len(drawn) == 9
    assert drawn[:2] == ["Return", "Critic's values in the evaluations"]


def test_panels_are_as_high_as_what_they_show() -> None:
    gradients = {"train/actor_grad_norm": series(1, 2), "train/critic_grad_norm": series(100, 300)}
    figure = draw(InspectedRun("a run", log={**gradients, "train/td_error": series(7, 8)}))
    _, td_error, norms = (axes for axes in figure.axes if axes.get_title())
    assert 0.1 < norms.get_ylim()[0] < 1 < 300 < norms.get_ylim()[1] < 3000
    assert td_error.get_ylim()[0] == 0
    assert 8 < td_error.get_ylim()[1] < 9


def test_a_run_that_has_failed(tmp_path: Path) -> None:
    args: Any = {"steps": 300, "eval_freq": 0, "quiet": True, "params": (*TINY_PARAMS, "learning_rate=1e30")}
    with pytest.raises(NonFiniteError) as failed:
        train(TrainArgs("Pendulum-v1", log_dir=tmp_path, **args))
    inspection = inspect_run(failed.value.run_directory)  # type: ignore[attr-defined]
    assert [finding.title for finding in inspection.findings] == ["It ended with an error"]
    assert "training has diverged" in inspection.page.read_text()


def test_a_run_without_these_files(tmp_path: Path) -> None:
    """Of an early version, of RL Zoo, or of another algorithm."""
    np.savez(tmp_path / "evaluations.npz", timesteps=[1, 2], results=[[0.0, 1.0], [2.0, 3.0]], ep_lengths=[[1, 1]] * 2)
    inspection = inspect_run(tmp_path)
    assert inspection.findings == ()
    assert inspection.missing == (
        "training episodes (*.monitor.csv)",
        "the critic's values beside the returns (in evaluations.npz)",
        "what was logged (progress.csv)",
    )
    assert len([axes for axes in draw(read(tmp_path)).axes if axes.get_title()]) == 1
    assert "Nothing looks wrong in what there is." in inspection.page.read_text()


def test_a_log_whose_last_line_was_cut_off(tmp_path: Path) -> None:
    (tmp_path / "progress.csv").write_text("time/total_timesteps,a,b\n10,1.5,text\n20,,2\n30,4")
    log = read(tmp_path).log
    assert log["a"].steps.tolist() == [10]
    assert (log["b"].steps.tolist(), log["b"].values.tolist()) == ([20], [2])


def test_a_run_that_has_logged_nothing_yet(tmp_path: Path) -> None:
    (tmp_path / "progress.csv").write_text("")
    (tmp_path / "0.monitor.csv").write_text('#{"t_start": 0.0, "env_id": "Pendulum-v1"}\nr,l,t\n')
    inspection = inspect_run(tmp_path)
    assert len(inspection.missing) == 3
    assert [finding.title for finding in inspection.findings] == ["Nothing has been recorded yet"]


def unequal() -> bytes:
    """:return: A file of evaluations, one of which has no step"""
    file = io.BytesIO()
    np.savez(file, timesteps=[1], results=[[0.0], [1.0]])
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("progress.csv", b"a,b\n1,2\n", "progress.csv cannot be read: it has no column time/total_timesteps"),
        ("progress.csv", b"\xff\xfe\n", "progress.csv cannot be read"),
        ("evaluations.npz", b"no zip", "evaluations.npz cannot be read"),
        ("evaluations.npz", b"", "evaluations.npz cannot be read"),
        ("evaluations.npz", unequal(), "evaluations.npz cannot be read: its arrays differ in length"),
        ("0.monitor.csv", b"#\nr,l,t\nx,y,z\n", "cannot be read"),
        ("notes.txt", b"", "is not a run directory: it holds no progress.csv, evaluations.npz or [*].monitor.csv"),
    ],
)
def test_what_cannot_be_read(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SettingsError, match=message):
        inspect_run(tmp_path)


def test_titles_are_shown_as_they_are(tmp_path: Path) -> None:
    directory = tmp_path / "<b>&" / "$x$_1"
    directory.mkdir(parents=True)
    np.savez(directory / "evaluations.npz", timesteps=[1], results=[[0.0]])
    assert "<h1>&lt;b&gt;&amp; $x$_1</h1>" in inspect_run(directory).page.read_text()


def test_without_torch() -> None:
    code = "import sb3_ddpg_ext.inspection.page, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_without_the_packages_of_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    for module in ("sb3_ddpg_ext.inspection.page", "sb3_ddpg_ext.report.rendering"):
        monkeypatch.delitem(sys.modules, module)
        monkeypatch.delattr(module)
    with pytest.raises(SettingsError, match=r"jinja2 is not installed: pip install 'sb3_ddpg_ext\[compare\]'"):
        inspect_run(tmp_path)
