"""Optuna's samplers: a study is the same with interruptions as without, and its database can name no code."""

import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial
from small_runs import tune, tune_arguments

from sb3_ddpg_ext.__main__ import main
from sb3_ddpg_ext.tuning.samplers import ReproducibleSampler
from sb3_ddpg_ext.tuning.study import quiet

SAMPLERS = ("tpe", "random", "cmaes", "gp")


def parabola(trial: optuna.Trial) -> float:
    x, y = trial.suggest_float("x", -5, 5), trial.suggest_float("y", 0.01, 10, log=True)
    is_odd = trial.suggest_categorical("kind", ("even", "odd")) == "odd"
    return -((x - 2) ** 2) - (y - 3) ** 2 - (trial.suggest_float("z", 0, 1) if is_odd else 0)


def search(name: Any, parts: Sequence[int], seed: int = 0) -> list[FrozenTrial]:
    """A study in several parts, before each of which, but for the first, a trial is interrupted and then retried."""
    with quiet():
        study = optuna.create_study(direction="maximize")
        for n, trials in enumerate(parts):
            study.sampler = ReproducibleSampler(name, seed)
            if n:
                trial = study.ask()
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
                optuna.storages.RetryHeartbeatStaleTrialCallback()(study, study.trials[trial.number])
            study.optimize(parabola, n_trials=trials)
    return list(study.trials)


def complete(trials: Sequence[FrozenTrial]) -> list[dict[str, Any]]:
    return [trial.params for trial in trials if trial.state.is_finished() and trial.value is not None]


@pytest.mark.parametrize("name", SAMPLERS)
def test_interruptions_change_no_trial(name: str) -> None:
    whole = complete(search(name, [16]))
    assert len({tuple(params.items()) for params in whole}) == 16
    assert complete(search(name, [12, 4])) == whole
    assert complete(search(name, [16], seed=1)) != whole


def test_a_search_is_more_than_chance() -> None:
    best = {name: max(t.value or 0 for t in search(name, [40])[25:] if t.value is not None) for name in SAMPLERS}
    assert all(best[name] > best["random"] for name in ("tpe", "cmaes", "gp"))


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch stranger_was_here",)


def test_what_others_wrote_as_the_state_of_cmaes_runs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with quiet():
        study = optuna.create_study(direction="maximize", sampler=ReproducibleSampler("cmaes", 0))
        study.optimize(parabola, n_trials=5)
        trial = study.ask()
        study._storage.set_trial_system_attr(trial._trial_id, "cma:optimizer:0", pickle.dumps(Evil()).hex())
        study.tell(trial, parabola(trial))
        with pytest.raises(pickle.UnpicklingError, match=r"the state of CMA-ES in the database names posix.system"):
            study.optimize(parabola, n_trials=1)
    assert not list(tmp_path.iterdir())


def test_the_sampler_is_part_of_the_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = {"steps": 60, "eval_freq": 60, "trials": 2}
    tune(tune_arguments(tmp_path, sampler="random", **few))
    command = ["tune", "--env", "comparison_envs:Quick-v0", "--log-dir", str(tmp_path), "--seeds", "1", "--steps", "60"]
    assert main([*command, "--sampler", "gp"]) == 2
    assert "but with other" in (said := capsys.readouterr().err)
    assert "sampler" in said


def test_a_missing_package_is_named_with_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sb3_ddpg_ext.errors.find_spec", lambda name: None if name == "cmaes" else True)
    assert main(["tune", "--env", "Pendulum-v1", "--sampler", "cmaes", "--log-dir", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == "error: cmaes is not installed: pip install 'sb3_ddpg_ext[tune]'\n"
    assert not list(tmp_path.iterdir())
