"""Values of trials, worked by hand."""

import math

import numpy as np
import pytest

from sb3_ddpg_ext.arguments import ScoreKind
from sb3_ddpg_ext.errors import SettingsError
from sb3_ddpg_ext.results.records import Evaluations
from sb3_ddpg_ext.results.scales import SCALES, scale_of
from sb3_ddpg_ext.tuning import scoring

FINAL, AREA = ScoreKind.FINAL, ScoreKind.AREA_OVER_STEPS
STEPS, SECONDS = ScoreKind.STEPS_TO_THRESHOLD, ScoreKind.SECONDS_TO_THRESHOLD
PENDULUM = SCALES["Pendulum-v1"]  # threshold -200, random -1211.8


def run(*means: float, seconds: float = 1.0) -> Evaluations:
    """Evaluations at 100, 200, ... steps, so many CPU seconds apart, of two episodes."""
    n = np.arange(1, len(means) + 1, dtype=float)
    return Evaluations(100 * n, 10 * n, seconds * n, np.array([[mean - 1, mean + 1] for mean in means]))


def test_final_return_and_area() -> None:
    runs = [run(-900, -300), run(-700, -100), run(-500, 50)]
    assert scoring.value_of_trial(FINAL, runs, PENDULUM) == pytest.approx((-300 - 100 + 50) / 3)
    assert scoring.value_of_trial(AREA, runs, PENDULUM) == pytest.approx((-600 - 400 - 225) / 3)
    assert scoring.value_of_trial(AREA, [run(-900)], PENDULUM) == -900  # there is no area yet
    assert scoring.value_of_trial(FINAL, [run(x) for x in (-9000, -4, -2, -1)], PENDULUM) == -3  # the middle half


def test_time_to_the_threshold() -> None:
    runs = [run(-900, -199, -900), run(-150), run(-900, -900, -200)]
    assert scoring.value_of_trial(STEPS, runs, PENDULUM) == 1_000_000 / 200
    assert scoring.value_of_trial(SECONDS, [run(-900, -199, seconds=3), run(-199, seconds=2)], PENDULUM) == 3600 / 4
    assert scoring.time_of(STEPS, 5000) == 200
    assert scoring.time_of(STEPS, -0.1) == math.inf


def test_a_trial_without_a_time_is_valued_by_its_distance_below_all_times() -> None:
    half = (-200 - 1211.8) / 2
    assert scoring.value_of_trial(STEPS, [run(-1211.8, -1300)], PENDULUM) == pytest.approx(-1)
    assert scoring.value_of_trial(STEPS, [run(-1300, half, -1300)], PENDULUM) == pytest.approx(-0.5)
    # One of two that got there is not enough, one of four that did not is cut off
    assert scoring.value_of_trial(STEPS, [run(half), run(-100)], PENDULUM) == pytest.approx(-0.25)
    assert scoring.value_of_trial(STEPS, [run(half), run(-100), run(-100), run(-100)], PENDULUM) == 10_000


def test_the_best_value_that_a_trial_can_still_reach() -> None:
    reached = run(-900, -199, seconds=3)  # after 6 s, 200 steps
    running = run(-900, -900, -900)  # for 3 s, 300 steps
    assert scoring.best_possible_value(SECONDS, [running], PENDULUM, 3) == 3600 / 3
    assert scoring.best_possible_value(STEPS, [running], PENDULUM, 3) == pytest.approx(1_000_000 / 300)
    assert scoring.best_possible_value(SECONDS, [reached, running], PENDULUM, 3) == 3600 / 4.5
    assert scoring.best_possible_value(SECONDS, [reached, reached], PENDULUM, 3) == 3600 / 6
    never = [run(-200 - 1011.8), running]  # the first of them is over: of three runs there will be no time, of four one
    assert scoring.best_possible_value(SECONDS, never, PENDULUM, 3) == pytest.approx(-0.5)
    assert scoring.best_possible_value(SECONDS, never, PENDULUM, 4) == 3600 / 3


def test_only_a_time_is_settled_before_the_end() -> None:
    assert scoring.is_settled(SECONDS, run(-900, -150), PENDULUM)
    assert not scoring.is_settled(SECONDS, run(-900), PENDULUM)
    assert not scoring.is_settled(FINAL, run(-150), PENDULUM)


def test_in_words() -> None:
    assert scoring.describe(FINAL, -151.26) == "-151.3"
    assert scoring.describe(STEPS, 250.0) == "4,000 steps to the threshold"
    assert scoring.describe(SECONDS, 240.0) == "15.0 CPU s to the threshold"
    assert scoring.describe(SECONDS, -0.25) == "threshold not reached, 25% of the way left"


def test_environments_without_a_threshold() -> None:
    for env in ("Walker2d-v5", "Nowhere-v0"):
        scoring.check(FINAL, env, scale_of(env))
        with pytest.raises(
            SettingsError, match=f"--score steps needs a threshold, which {env} does not have; say --threshold"
        ):
            scoring.check(STEPS, env, scale_of(env))
    scoring.check(STEPS, "Pendulum-v1", PENDULUM)
