"""Noise processes: stationary, seeded, one stream for each environment."""

import copy
import pickle
import re
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import mtrand
from stable_baselines3 import TD3
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.noise import (
    ActionNoise,
    NormalActionNoise,
    OrnsteinUhlenbeckActionNoise,
    VectorizedActionNoise,
)
from stable_baselines3.common.utils import LinearSchedule

from sb3_ddpg_ext import (
    ColoredNoise,
    CustomDDPG,
    ExponentialSchedule,
    GaussianNoise,
    OrnsteinUhlenbeckNoise,
    PinkNoise,
    ScheduledNoise,
    UniformNoise,
)
from sb3_ddpg_ext.noise import (
    NOISES,
    NoiseProcess,
    ProcessActionNoise,
    current_std,
    owns_generator,
    reseed,
    sample_noise,
    setup_action_noise,
)

MAKERS: list[Any] = [
    pytest.param(lambda std: GaussianNoise(std), id="normal"),
    pytest.param(lambda std: UniformNoise(std), id="uniform"),
    pytest.param(lambda std: OrnsteinUhlenbeckNoise(std, correlation_time=5), id="ou"),
    # Horizons that are shorter than what is drawn below
    pytest.param(lambda std: PinkNoise(std, horizon=16), id="pink"),
    pytest.param(lambda std: ColoredNoise(2, std, horizon=17), id="red"),
]
# Of noise that is added to actions; tests/test_perturbed_actor.py has the other one's tests
NAMES: list[Any] = [
    *(name for name in NOISES if name not in ("colored", "parameter")),
    {"type": "colored", "beta": 0.5},
]


def bound(process: NoiseProcess, n_envs: int = 1, shape: tuple[int, ...] = (1,), seed: int | None = 0) -> NoiseProcess:
    process.bind(n_envs, shape, seed)
    return process


def draw(process: NoiseProcess, n: int) -> np.ndarray:
    return np.stack([process.sample() for _ in range(n)])


@pytest.mark.parametrize("make", MAKERS)
def test_stationary_std_from_the_first_step_on(make: Callable[[float], NoiseProcess]) -> None:
    noise = draw(bound(make(0.3), n_envs=20_000), 40)  # step, env, action
    assert noise.std(axis=(1, 2)) == pytest.approx(0.3, rel=0.02)  # at each step
    assert abs(noise.mean()) < 0.01


@pytest.mark.parametrize("make", MAKERS)
def test_stationary_again_after_a_reset(make: Callable[[float], NoiseProcess]) -> None:
    process = bound(make(0.3), n_envs=20_000)
    draw(process, 3)
    process.reset(range(20_000))
    assert process.sample().std() == pytest.approx(0.3, rel=0.02)


@pytest.mark.parametrize(
    "process", [GaussianNoise([0.1, 0.4]), OrnsteinUhlenbeckNoise([0.1, 0.4], 2), PinkNoise([0.1, 0.4])]
)
def test_std_for_each_action(process: NoiseProcess) -> None:
    noise = draw(bound(process, n_envs=2_000, shape=(2,)), 20)
    assert noise.std(axis=(0, 1)) == pytest.approx([0.1, 0.4], rel=0.04)


def assign(process: NoiseProcess) -> None:
    process.std = 0.6


def assign_one_for_each_action(process: NoiseProcess) -> None:
    process.std = [0.6, 0.6]


def multiply(process: NoiseProcess) -> None:
    process.std *= 3


def change_in_place(process: NoiseProcess) -> None:
    process.std[...] = 0.6


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("before", [0.2, [0.2, 0.2]])
@pytest.mark.parametrize("change", [assign, assign_one_for_each_action, multiply, change_in_place])
def test_another_std_counts_from_the_next_step_on(
    make: Callable[[Any], NoiseProcess], before: Any, change: Callable[[NoiseProcess], None]
) -> None:
    """The noise is that of a process that was stronger all the time, which is stationary."""
    process, stronger = bound(make(before), 2, (2,)), bound(make(0.6), 2, (2,))
    for _ in range(3):
        assert process.sample() == pytest.approx(stronger.sample() / 3)
    change(process)
    assert draw(process, 200) == pytest.approx(draw(stronger, 200))
    for each in (process, stronger):
        each.reset([1])
    assert draw(process, 200) == pytest.approx(draw(stronger, 200))


@pytest.mark.parametrize("make", MAKERS)
def test_another_std_of_one_action(make: Callable[[Any], NoiseProcess]) -> None:
    process, as_it_was = bound(make([0.2, 0.2]), 2, (2,)), bound(make(0.2), 2, (2,))
    draw(process, 3), draw(as_it_was, 3)
    process.std[0] = 0.4
    assert draw(process, 50) == pytest.approx(draw(as_it_was, 50) * [2, 1])


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    ("std", "message"),
    [
        (-0.1, "std must be finite and not negative, got -0.1"),
        ([0.1, float("nan")], "std must be finite and not negative, got [0.1, nan]"),
        (float("inf"), "std must be finite and not negative, got inf"),
        ("loud", "could not convert string to float: 'loud'"),
        ([0.1, 0.1, 0.1], "std has the shape (3,), but actions have the shape (2,)"),
    ],
)
def test_an_impossible_std_is_refused_in_use_and_the_old_one_stays(
    make: Callable[[float], NoiseProcess], std: Any, message: str
) -> None:
    process = bound(make(0.2), 1, (2,))
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        process.std = std
    assert float(process.std) == 0.2


def test_the_message_of_an_impossible_std_is_one_line() -> None:
    with pytest.raises(ValueError, match=r"^std must be finite and not negative, got \[(-1\.0, )+-1\.0\]$"):
        GaussianNoise(np.full(50, -1.0))  # type: ignore[arg-type]  # 50 numbers: numpy writes several lines


def test_an_std_set_before_a_process_is_bound_may_have_any_shape_until_then() -> None:
    process = PinkNoise(0.2)
    process.std = [0.1, 0.1, 0.1]
    with pytest.raises(ValueError, match=r"^std has the shape \(3,\), but actions have the shape \(2,\)$"):
        process.bind(1, (2,), 0)
    process.bind(1, (3,), 0)


def test_nobody_elses_array_is_a_process_std() -> None:
    std = np.array([0.2, 0.2])
    first, second = GaussianNoise(std), GaussianNoise(0.1)  # type: ignore[arg-type]
    second.std = first.std
    std[0] = first.std[1] = 9
    assert (first.std.tolist(), second.std.tolist()) == ([0.2, 9], [0.2, 0.2])


def test_uniform_noise_has_sharp_ends() -> None:
    noise = draw(bound(UniformNoise(0.2), n_envs=100), 100)
    assert np.abs(noise).max() == pytest.approx(0.2 * 3**0.5, rel=0.001)
    assert np.abs(noise).max() <= 0.2 * 3**0.5


@pytest.mark.parametrize("correlation_time", [0.5, 8, 100])
def test_ou_autocorrelation(correlation_time: float) -> None:
    noise = draw(bound(OrnsteinUhlenbeckNoise(0.3, correlation_time), n_envs=2_000), 400)[..., 0]
    for lag in (1, 8):
        correlation = np.mean(noise[lag:] * noise[:-lag]) / noise.var()
        assert correlation == pytest.approx(np.exp(-lag / correlation_time), abs=0.01)


def test_another_correlation_time_counts_once_the_step_that_is_drawn_already_is_taken() -> None:
    process = OrnsteinUhlenbeckNoise(0.3, correlation_time=100)
    process.bind(20_000, (1,), 0)
    before = draw(process, 3)
    process.correlation_time = 0.5
    noise = np.concatenate([before, draw(process, 4)])[..., 0]
    assert noise.std(axis=1) == pytest.approx(0.3, rel=0.02)
    correlations = [np.corrcoef(noise[i], noise[i + 1])[0, 1] for i in range(6)]
    assert correlations == pytest.approx([np.exp(-0.01)] * 3 + [np.exp(-2)] * 3, abs=0.03)
    assert repr(process) == "OrnsteinUhlenbeckNoise(std=0.3, correlation_time=0.5)"


def slope(series: np.ndarray, lowest: int) -> float:
    """Of the periodogram, on logarithmic scales, from the frequency of so many periods in the series on."""
    power = np.mean(np.abs(np.fft.rfft(series, axis=0)[lowest:-1]) ** 2, axis=1)
    return float(np.polyfit(np.log(np.arange(lowest, lowest + len(power))), np.log(power), 1)[0])


@pytest.mark.parametrize("beta", [0, 0.5, 1, 1.5, 2])
@pytest.mark.parametrize("horizon", [500, 501])
def test_the_spectrum_of_colored_noise(beta: float, horizon: int) -> None:
    noise = draw(bound(ColoredNoise(beta, 0.3, horizon), n_envs=500), horizon)[..., 0]
    assert slope(noise, 1) == pytest.approx(-beta, abs=0.1)


@pytest.mark.parametrize("horizon", [20, 21])
def test_the_ends_of_the_spectrum(horizon: int) -> None:
    """The constant has the power of one period in the horizon; the highest frequency of an even one has its own."""
    noise = draw(bound(ColoredNoise(1, 0.3, horizon), n_envs=20_000), horizon)[..., 0]
    power = np.mean(np.abs(np.fft.rfft(noise, axis=0)) ** 2, axis=1)
    assert power[0] == pytest.approx(power[1], rel=0.05)
    assert power[1:] == pytest.approx(power[1] / np.arange(1, horizon // 2 + 1), rel=0.05)


@pytest.mark.parametrize("beta", [0, 1, 2])
def test_past_the_horizon_colored_noise_keeps_its_spectrum_and_never_jumps(beta: float) -> None:
    noise = draw(bound(ColoredNoise(beta, 0.3, horizon=250), n_envs=500), 1_000)[..., 0]
    # What was cut out of a longer series leaks into high frequencies: less with soft ends
    assert slope(noise * np.hanning(1_000)[:, np.newaxis], 8) == pytest.approx(-beta, abs=0.1)
    steps = np.diff(noise, axis=0).std(axis=1)
    assert steps[249::250] == pytest.approx(steps.mean(), rel=0.1)
    assert not np.allclose(noise[:250], noise[250:500], atol=0.1)


def test_colored_noise_never_jumps_whenever_the_episode_began() -> None:
    process = bound(ColoredNoise(2, 0.3, horizon=200), n_envs=2_000)
    draw(process, 70)
    process.reset(range(1_000))
    steps = np.diff(draw(process, 700), axis=0)[..., 0]
    for envs in (slice(1_000), slice(1_000, 2_000)):
        # Where a series fades into another the steps are a little larger; one that is left out makes one 1.4 times
        assert steps[:, envs].std(axis=1) == pytest.approx(np.full(699, steps.std()), rel=0.25)


@pytest.mark.parametrize("n_steps", [1, 7, 16])
def test_the_series_of_an_episode_do_not_depend_on_when_it_began(n_steps: int) -> None:
    process, expected = (bound(ColoredNoise(1, 0.3, horizon=16), 2) for _ in range(2))
    draw(process, n_steps)
    for each in (process, expected):
        each.reset([0])
    assert np.array_equal(draw(process, 200)[:, 0], draw(expected, 200)[:, 0])


def test_pink_noise_is_colored_noise() -> None:
    pink, colored = (draw(bound(p, 2), 50) for p in (PinkNoise(0.2, horizon=20), ColoredNoise(1, 0.2, horizon=20)))
    assert np.array_equal(pink, colored)


def test_the_horizon_is_the_time_limit_of_the_environment() -> None:
    def horizon(env: Any, **kwargs: Any) -> int:
        noise = {"type": "pink", **kwargs}
        model = CustomDDPG("MlpPolicy", env, action_noise=noise, buffer_size=10, policy_kwargs={"net_arch": [8]})
        return int(model.action_noise.process._length)  # type: ignore[union-attr]

    unlimited = gym.make("Pendulum-v1").unwrapped
    unlimited.spec = None
    assert horizon("Pendulum-v1") == 200
    assert horizon(gym.make("Pendulum-v1", max_episode_steps=50)) == 50
    assert horizon(unlimited) == 1000
    assert horizon(gym.wrappers.TimeLimit(unlimited, 30)) == 30  # also without a spec
    assert horizon("Pendulum-v1", horizon=77) == 77


def test_the_default_ou_is_the_papers() -> None:
    """Euler's method with dt = 0.001 on theta = 0.15, sigma = 0.2 is the process that the paper writes down."""
    theta, sigma, dt = 0.15, 0.2, 0.001
    rng = np.random.default_rng(0)
    x = sigma / np.sqrt(2 * theta) * rng.standard_normal(20_000)
    start = x.copy()
    for _ in range(1_000):
        x += -theta * x * dt + sigma * np.sqrt(dt) * rng.standard_normal(x.shape)
    for process in (OrnsteinUhlenbeckNoise(), OrnsteinUhlenbeckNoise.from_sde(sigma)):
        assert float(process.std) == pytest.approx(x.std(), rel=0.02)
        assert np.corrcoef(start, x)[0, 1] == pytest.approx(process._rho, abs=0.01)


def test_from_sde_is_sb3s_process_but_for_its_start() -> None:
    ours = OrnsteinUhlenbeckNoise.from_sde([0.2, 0.4], theta=0.3, dt=0.1)
    sb3s = OrnsteinUhlenbeckActionNoise(np.zeros(2), np.array([0.2, 0.4]), theta=0.3, dt=0.1)
    sb3s.noise_prev = np.array([1.0, 1.0])
    np.random.seed(0)  # noqa: NPY002 (SB3's)
    steps = np.empty((20_000, 2))
    for i in range(len(steps)):
        sb3s.noise_prev = np.array([1.0, 1.0])
        steps[i] = sb3s()
    # One step from 1: its mean is the decay, its spread what is drawn
    assert steps.mean(axis=0) == pytest.approx(float(ours._rho), abs=0.002)
    assert steps.std(axis=0) == pytest.approx(ours.std * ours._gain, rel=0.02)


@pytest.mark.parametrize(("theta", "dt"), [(0, 1), (-1, 1), (0.1, 0), (float("nan"), 1)])
def test_impossible_sde(theta: float, dt: float) -> None:
    with pytest.raises(ValueError, match="theta and dt must be positive"):
        OrnsteinUhlenbeckNoise.from_sde(0.2, theta, dt)


@pytest.mark.parametrize("make", MAKERS)
def test_environments_and_actions_are_independent(make: Callable[[float], NoiseProcess]) -> None:
    noises = []
    for seed in range(100):  # one long series would not do: red noise is correlated for long
        noises.append(draw(bound(make(1.0), n_envs=2, shape=(2,), seed=seed), 200).reshape(200, 4))
    correlations = np.corrcoef(np.concatenate(noises).T)
    assert np.abs(correlations - np.eye(4)).max() < 0.05


@pytest.mark.parametrize("make", MAKERS)
@given(seed=st.integers(0, 2**32 - 1), n_envs=st.integers(1, 4), n_actions=st.integers(1, 3))
@settings(max_examples=20, deadline=None)
def test_same_seed_same_noise_and_the_global_generator_is_left_alone(
    make: Callable[[float], NoiseProcess], seed: int, n_envs: int, n_actions: int
) -> None:
    before = np.random.get_state()[1].tolist()  # noqa: NPY002 (it is what is tested)
    first, second = (draw(bound(make(0.2), n_envs, (n_actions,), seed), 5) for _ in range(2))
    other = draw(bound(make(0.2), n_envs, (n_actions,), seed + 1), 5)
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)
    assert first.shape == (5, n_envs, n_actions)
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002


@pytest.mark.parametrize("make", MAKERS)
def test_an_environments_stream_does_not_depend_on_the_others(make: Callable[[float], NoiseProcess]) -> None:
    alone, among = draw(bound(make(0.2), 1), 10), draw(bound(make(0.2), 3), 10)
    assert np.array_equal(alone[:, 0], among[:, 0])


def test_every_number_of_the_stream_is_used_once() -> None:
    process = bound(GaussianNoise(1.0), 1, (2,))
    (child,) = np.random.SeedSequence(0).spawn(1)
    assert np.array_equal(draw(process, 300)[:, 0], np.random.default_rng(child).standard_normal((300, 2)))


@pytest.mark.parametrize("n", [5, 128, 200])
def test_streams_go_on_when_environments_come_and_go(n: int) -> None:
    whole, resized = bound(GaussianNoise(0.2), 3, (2,)), bound(GaussianNoise(0.2), 3, (2,))
    draw(whole, n), draw(resized, n)
    resized.bind(2, (2,), 0)
    assert np.array_equal(draw(whole, 200)[:, :2], draw(resized, 200))
    resized.bind(4, (2,), 0)
    assert np.array_equal(draw(whole, 200)[:, :2], draw(resized, 200)[:, :2])


@pytest.mark.parametrize("make", MAKERS)
def test_a_pickled_process_goes_on_where_it_was(make: Callable[[float], NoiseProcess]) -> None:
    process = bound(make(0.2), 2)
    draw(process, 3)
    restored = pickle.loads(pickle.dumps(process))
    assert np.array_equal(draw(process, 200), draw(restored, 200))


SEEDS = st.integers(0, 2**32 - 1)
# Environments whose episode ends after so many steps; some steps are more than what is drawn ahead, and than horizons
EPISODES = st.lists(st.tuples(st.integers(0, 150), st.sets(st.integers(0, 2))), max_size=3)


def sample_episodes(process: NoiseProcess, n_envs: int, episodes: list[tuple[int, set[int]]], n_after: int) -> Any:
    noises = []
    for n_steps, ended in [*episodes, (n_after, set())]:
        noises += [process.sample().tolist() for _ in range(n_steps)]
        process.reset([i for i in sorted(ended) if i < n_envs])
    return noises


@pytest.mark.parametrize("make", MAKERS)
@given(
    seed=st.none() | SEEDS,
    n_envs=st.integers(1, 3),
    n_actions=st.integers(1, 2),
    before=EPISODES,
    after=EPISODES,
    reseeded=st.none() | SEEDS,
)
@settings(max_examples=25, deadline=None)
def test_a_process_goes_on_when_it_was_pickled_and_is_bound_again(
    make: Callable[[float], NoiseProcess],
    seed: int | None,
    n_envs: int,
    n_actions: int,
    before: list[tuple[int, set[int]]],
    after: list[tuple[int, set[int]]],
    reseeded: int | None,
) -> None:
    process = bound(make(0.2), n_envs, (n_actions,), seed)
    if reseeded is not None:
        process.reseed(reseeded)
    sample_episodes(process, n_envs, before, 2)
    process.std = 0.7
    restored = pickle.loads(pickle.dumps(process))
    restored.bind(n_envs, (n_actions,), seed)
    expected, seen = (sample_episodes(each, n_envs, after, 150) for each in (process, restored))
    assert seen == expected


@pytest.mark.parametrize("make", MAKERS)
@given(
    seed=st.none() | SEEDS,
    n_envs=st.integers(1, 3),
    n_actions=st.integers(1, 2),
    before=EPISODES,
    after=EPISODES,
    reseeded=SEEDS,
    n_envs_then=st.integers(1, 3),
)
@settings(max_examples=25, deadline=None)
def test_a_reseeded_process_is_one_that_was_bound_with_that_seed(
    make: Callable[[float], NoiseProcess],
    seed: int | None,
    n_envs: int,
    n_actions: int,
    before: list[tuple[int, set[int]]],
    after: list[tuple[int, set[int]]],
    reseeded: int,
    n_envs_then: int,
) -> None:
    process, fresh = bound(make(0.2), n_envs, (n_actions,), seed), bound(make(0.2), n_envs, (n_actions,), reseeded)
    sample_episodes(process, n_envs, before, 2)
    process.reseed(reseeded)
    process.bind(n_envs, (n_actions,), seed)  # keeps these streams
    expected, seen = (sample_episodes(each, n_envs, after, 5) for each in (fresh, process))
    assert seen == expected
    process.bind(n_envs_then, (n_actions,), seed)
    fresh.bind(n_envs_then, (n_actions,), reseeded)
    expected, seen = (sample_episodes(each, n_envs_then, after, 5) for each in (fresh, process))
    assert seen == expected


@pytest.mark.parametrize("make", MAKERS)
def test_before_it_is_bound_a_process_has_nothing_to_begin_anew(make: Callable[[float], NoiseProcess]) -> None:
    process = make(0.2)
    process.reseed(5)
    assert np.array_equal(draw(bound(process), 5), draw(bound(make(0.2)), 5))


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("seed", [0, None])
def test_bound_to_other_actions_a_process_begins_anew(make: Callable[[float], NoiseProcess], seed: int | None) -> None:
    process = bound(make(0.2), 2, (3,), seed)
    draw(process, 3)
    process.bind(2, (1,), seed)
    noise = draw(process, 200)
    assert noise.shape == (200, 2, 1)
    if seed is not None:
        assert np.array_equal(noise, draw(bound(make(0.2), 2, (1,), seed), 200))


def test_reset_touches_only_the_episodes_that_ended() -> None:
    process = bound(OrnsteinUhlenbeckNoise(0.3, correlation_time=1e9), 3)
    before = process.sample()
    process.reset([1])
    after = process.sample()
    assert np.allclose(after[[0, 2]], before[[0, 2]], atol=1e-3)
    assert abs(after[1, 0] - before[1, 0]) > 1e-3


# SB3's draws from the global generator: with its mean far from its start, a reset shows whatever is drawn.
@pytest.mark.parametrize(
    "noise",
    [OrnsteinUhlenbeckNoise(0.3, 1e9), OrnsteinUhlenbeckActionNoise(np.full(1, 5.0), np.full(1, 0.1), theta=1.0)],
)
@pytest.mark.parametrize("indices", [None, [1]])
def test_scheduled_noise_is_reset_likewise(noise: Any, indices: list[int] | None) -> None:
    scheduled = setup_action_noise(ScheduledNoise(noise, 1), 3, (1,), 0)
    assert isinstance(scheduled, ScheduledNoise)
    for _ in range(500):
        before = scheduled()
    scheduled.reset(indices)
    changed = np.abs(scheduled() - before)[:, 0] > 0.2  # SB3's starts at 0 again
    assert changed.tolist() == ([True] * 3 if indices is None else [False, True, False])


def test_a_schedule_of_a_schedule() -> None:
    noise = setup_action_noise(ScheduledNoise({"type": "normal", "schedule": "linear"}, 0.5), 2, (3,), 0)
    assert isinstance(noise, ScheduledNoise)
    assert np.any(noise())
    noise.update(0.0)
    assert not np.any(noise())


@pytest.mark.parametrize("make", MAKERS)
def test_episodes_that_end_at_different_times(make: Callable[[float], NoiseProcess]) -> None:
    """Environments are reset in their own time, and those that are not go on as if nobody had been."""
    alone, among = bound(make(0.2), 1), bound(make(0.2), 3)
    expected, seen = [], []
    for step in range(100):
        expected.append(alone.sample().copy())
        seen.append(among.sample()[:1].copy())
        among.reset([i for i in (1, 2) if step % (5 + 7 * i) == 0])
    assert np.array_equal(expected, seen)


@pytest.mark.parametrize(("std", "message"), [(-0.1, "negative"), (float("nan"), "finite"), ([0.1, -1], "negative")])
def test_impossible_std(std: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GaussianNoise(std)


@pytest.mark.parametrize("beta", [-1, float("nan"), float("inf")])
def test_impossible_beta(beta: float) -> None:
    with pytest.raises(ValueError, match="beta must be finite and not negative"):
        ColoredNoise(beta)


@pytest.mark.parametrize("horizon", [1, 0, -5])
def test_impossible_horizon(horizon: int) -> None:
    with pytest.raises(ValueError, match="horizon must be 2 steps or more"):
        PinkNoise(horizon=horizon)


@pytest.mark.parametrize("correlation_time", [0, -1, float("nan")])
def test_impossible_correlation_time(correlation_time: float) -> None:
    with pytest.raises(ValueError, match="correlation_time must be positive"):
        OrnsteinUhlenbeckNoise(0.1, correlation_time)
    process = OrnsteinUhlenbeckNoise(0.1, 7)
    with pytest.raises(ValueError, match="correlation_time must be positive"):
        process.correlation_time = correlation_time
    assert process.correlation_time == 7


def test_std_of_the_wrong_shape() -> None:
    with pytest.raises(ValueError, match=r"std has the shape \(3,\), but actions have the shape \(1,\)"):
        CustomDDPG("MlpPolicy", "Pendulum-v1", action_noise=GaussianNoise([0.1, 0.1, 0.1]))


@pytest.mark.parametrize("name", NAMES)
def test_names(name: Any) -> None:
    model = CustomDDPG("MlpPolicy", "Pendulum-v1", action_noise=name, seed=1, buffer_size=10)
    assert isinstance(model.action_noise, ProcessActionNoise)
    assert model.action_noise().shape == (1, 1)


def test_ou_is_the_default() -> None:
    model = CustomDDPG("MlpPolicy", "Pendulum-v1", buffer_size=10)
    assert isinstance(model.action_noise.process, OrnsteinUhlenbeckNoise)


def test_a_name_with_arguments() -> None:
    noise = setup_action_noise({"type": "ou", "std": 0.3, "correlation_time": 50}, 1, (1,), 0)
    assert isinstance(noise, ProcessActionNoise)
    assert repr(noise) == "OrnsteinUhlenbeckNoise(std=0.3, correlation_time=50)"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("norml", "unknown noise 'norml'; did you mean 'normal'? known: colored, normal, ou, parameter, pink, uniform"),
        (
            {"type": "pnik"},
            "unknown noise 'pnik'; did you mean 'pink'? known: colored, normal, ou, parameter, pink, uniform",
        ),
        ({"type": "ou", "stdd": 1}, "unknown argument of the noise 'ou' 'stdd'; did you mean 'std'?"),
        ({"std": 1}, "action_noise: expected a mapping such as {'type': name, ...}, got {'std': 1}"),
        ("colored", "the noise 'colored' needs beta, such as {'type': 'colored', 'beta': 0.5}"),
        ({"type": "ou", "correlation_time": "long"}, "the noise 'ou' cannot take {'correlation_time': 'long'}: '>'"),
        ({"type": "normal", "std": "loud"}, "could not convert string to float"),
        ({"type": "ou", "schedule": "linaer"}, "unknown schedule 'linaer'; did you mean 'linear'?"),
        ({"type": "ou", "schedule": {"end": 1}}, "schedule: expected a mapping such as {'type': name, ...}"),
        ({"type": "ou", "schedule": {"type": "linear", "end": -1}}, "end must be 0 or more and end_fraction above 0"),
        ({"type": "ou", "schedule": {"type": "linear", "end_fraction": 0}}, "end must be 0 or more and end_fraction"),
        ({"type": "ou", "schedule": {"type": "exponential", "end": 0}}, "end must be positive, since an exponential"),
        ({"type": "ou", "schedule": -1}, "the noise's schedule gives -1.0 at the remaining progress 1; expected a fin"),
    ],
)
def test_bad_specifications(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        CustomDDPG("MlpPolicy", "Pendulum-v1", action_noise=given)


def test_wrong_types() -> None:
    with pytest.raises(TypeError, match=r"action_noise must be a name.*got 0\.1"):
        CustomDDPG("MlpPolicy", "Pendulum-v1", action_noise=0.1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"a schedule must be a number.*got \[1\]"):
        ScheduledNoise("ou", [1])  # type: ignore[arg-type]


RESEEDABLE: list[Any] = [
    *NAMES,
    {"type": "ou", "schedule": "linear"},
    ScheduledNoise(ScheduledNoise("pink", 0.5), "linear"),
]


@pytest.mark.parametrize("spec", RESEEDABLE)
@pytest.mark.parametrize("n_envs", [1, 3])
def test_reseeded_noise(spec: Any, n_envs: int) -> None:
    noise, fresh = setup_action_noise(spec, n_envs, (2,), seed=0), setup_action_noise(spec, n_envs, (2,), seed=7)
    assert noise is not None
    assert fresh is not None
    for _ in range(5):
        noise()
    assert owns_generator(noise)
    reseed(noise, 7)
    assert setup_action_noise(noise, n_envs, (2,), seed=0) is noise  # as at the next `learn()`
    for _ in range(200):
        assert np.array_equal(noise(), fresh())


def test_the_copies_in_a_vectorized_noise_are_not_reseeded_alike() -> None:
    one = setup_action_noise("normal", 1, (2,), seed=0)
    assert one is not None
    noise = VectorizedActionNoise(one, 3)
    assert owns_generator(noise)
    reseed(noise, 7)
    expected = [setup_action_noise("normal", 1, (2,), seed) for seed in (7, 8, 9)]
    assert np.array_equal(noise(), [each() for each in expected if each is not None])


@pytest.mark.parametrize("seed_before", [1, 2])
@pytest.mark.parametrize(
    "make",
    [
        lambda: OrnsteinUhlenbeckActionNoise(np.ones(2), np.ones(2)),
        lambda: VectorizedActionNoise(OrnsteinUhlenbeckActionNoise(np.ones(2), np.ones(2)), 3),
        lambda: setup_action_noise(ScheduledNoise(NormalActionNoise(np.zeros(2), np.ones(2)), 0.5), 3, (2,), 0),
    ],
)
def test_noise_that_draws_from_numpys_generator_is_not_reseeded(make: Callable[[], Any], seed_before: int) -> None:
    first, second = make(), make()
    assert not owns_generator(first)
    np.random.seed(seed_before)  # noqa: NPY002 (SB3's)
    first()
    reseed(first, 7)
    expected = first()
    np.random.seed(seed_before)  # noqa: NPY002
    second()
    assert np.array_equal(second(), expected)


@pytest.mark.parametrize(
    "spec", [None, "ou", {"type": "ou"}, PinkNoise(), ProcessActionNoise(PinkNoise()), ScheduledNoise("pink", 1)]
)
def test_what_is_not_set_up_yet_owns_no_generator(spec: Any) -> None:
    """`model.action_noise` may hold such things between a user's assignment and the next `learn()`."""
    untouched = copy.deepcopy(spec)
    assert not owns_generator(spec)
    reseed(spec, 7)
    noise, expected = setup_action_noise(spec, 2, (1,), seed=0), setup_action_noise(untouched, 2, (1,), seed=0)
    assert noise is None or np.array_equal(noise(), expected())  # type: ignore[misc]


class OtherPackagesNoise(ActionNoise):
    def __call__(self) -> np.ndarray:
        return np.full(1, 0.25, dtype=np.float32)


OTHERS: list[Any] = [
    NormalActionNoise(np.zeros(1), np.ones(1)),
    OrnsteinUhlenbeckActionNoise(np.zeros(1), np.ones(1)),
    OtherPackagesNoise(),
]


@pytest.mark.parametrize("others", OTHERS)
def test_noise_that_is_not_vectorized_is_for_several_environments(others: ActionNoise) -> None:
    assert setup_action_noise(others, 1, (1,), 0) is others
    four = setup_action_noise(others, 4, (1,), 0)
    assert isinstance(four, VectorizedActionNoise)
    assert four().shape == (4, 1)
    assert setup_action_noise(four, 4, (1,), 0) is four
    assert setup_action_noise(four, 1, (1,), 0) is others
    two = setup_action_noise(four, 2, (1,), 0)
    assert isinstance(two, VectorizedActionNoise)
    assert (two.n_envs, two().shape, two.base_noise) == (2, (2, 1), others)
    one = VectorizedActionNoise(others, 1)
    assert setup_action_noise(one, 1, (1,), 0) is one


@pytest.mark.parametrize("n_envs", [1, 4])
@pytest.mark.parametrize("spec", RESEEDABLE)
def test_a_vectorized_noise_of_ours_is_ours(spec: Any, n_envs: int) -> None:
    """SB3's class would make the same noise for all environments, and of the wrong shape."""
    ours = setup_action_noise(spec, 1, (2,), 0)
    assert ours is not None
    noise = setup_action_noise(VectorizedActionNoise(ours, 4), n_envs, (2,), 0)
    assert noise is ours
    assert noise().shape == (n_envs, 2)
    assert len(np.unique(noise())) == 2 * n_envs


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("spec", [*RESEEDABLE, GaussianNoise(0.2), *OTHERS, ScheduledNoise(OtherPackagesNoise(), 0.5)])
def test_noise_that_is_set_up_again_goes_on(spec: Any, n_envs: int) -> None:
    noise, expected = (setup_action_noise(pickle.loads(pickle.dumps(spec)), n_envs, (1,), 0) for _ in range(2))
    assert noise is not None
    assert expected is not None
    for _ in range(5):
        np.random.seed(0)  # noqa: NPY002 (SB3's)
        before = expected()
        np.random.seed(0)  # noqa: NPY002
        assert setup_action_noise(noise, n_envs, (1,), 0) is noise
        assert np.array_equal(noise(), before)
        assert (before + np.zeros((n_envs, 1))).shape == (n_envs, 1)  # as SB3 adds it to the actions


def test_one_specification_serves_two_models() -> None:
    noise = GaussianNoise(0.2)
    first, second = (
        CustomDDPG("MlpPolicy", "Pendulum-v1", action_noise=noise, seed=1, buffer_size=10) for _ in range(2)
    )
    assert np.array_equal(first.action_noise(), second.action_noise())
    assert not noise._generators


def test_none_warns_at_learn() -> None:
    model = CustomDDPG("MlpPolicy", "Pendulum-v1", action_noise=None, buffer_size=10)
    with pytest.warns(UserWarning, match="does not explore") as warnings:
        model.learn(1)
    assert warnings[0].filename == __file__  # the user's line, not one of ours


def test_our_noise_serves_sb3s_algorithms() -> None:
    env = gym.make("Pendulum-v1")
    TD3("MlpPolicy", env, action_noise=setup_action_noise("ou", 1, (1,), 0), buffer_size=300).learn(205)


def make_model(n_envs: int, **kwargs: Any) -> CustomDDPG:
    env = make_vec_env("Pendulum-v1", n_envs=n_envs, seed=0)
    return CustomDDPG("MlpPolicy", env, learning_starts=1_000, buffer_size=200, seed=0, **kwargs)


@pytest.mark.parametrize("name", NAMES)
def test_noise_goes_on_after_save_and_load(name: Any, tmp_path: Any) -> None:
    model = make_model(2, action_noise=name).learn(10)
    model.save(tmp_path / "model")
    loaded = CustomDDPG.load(tmp_path / "model", env=model.get_env())
    for _ in range(300):
        assert np.array_equal(loaded.action_noise(), model.action_noise())


def test_another_seed_after_load_explores_otherwise(tmp_path: Any) -> None:
    make_model(2).learn(10).save(tmp_path / "model")
    same, one, two = (CustomDDPG.load(tmp_path / "model", **kwargs) for kwargs in ({}, {"seed": 1}, {"seed": 2}))
    noises = [model.action_noise() for model in (same, one, two)]
    assert not np.array_equal(noises[0], noises[1])
    assert not np.array_equal(noises[1], noises[2])


def test_noise_set_after_construction() -> None:
    model = make_model(2)
    model.action_noise = GaussianNoise(0.3)  # type: ignore[assignment]
    model.learn(500)
    assert model.action_noise().shape == (2, 1)  # type: ignore[misc]


@pytest.mark.parametrize(("before", "after"), [(4, 1), (2, 4), (1, 3)])
@pytest.mark.parametrize(
    "noise",
    [
        *NAMES,
        {"type": "pink", "schedule": "linear"},
        NormalActionNoise(np.zeros(1), np.ones(1)),
        ScheduledNoise(NormalActionNoise(np.zeros(1), np.ones(1)), 0.5),
        None,
    ],
)
@pytest.mark.filterwarnings("ignore:action_noise=None")
def test_another_number_of_environments_after_load(before: int, after: int, noise: Any, tmp_path: Any) -> None:
    """SB3 crashes here: the noise keeps the size it was saved with."""
    make_model(before, action_noise=noise).learn(20).save(tmp_path / "model")
    env = make_vec_env("Pendulum-v1", n_envs=after)
    loaded = CustomDDPG.load(tmp_path / "model", env=env)
    loaded.learn(20, reset_num_timesteps=False)
    if noise is not None:
        assert np.shape(loaded.action_noise())[0] == after
    assert not isinstance(loaded.action_noise, VectorizedActionNoise) or loaded.action_noise.n_envs == after


@pytest.mark.parametrize("after", [1, 2])
def test_sb3s_noise_of_four_environments_after_load(after: int, tmp_path: Any) -> None:
    make_model(4, action_noise=NormalActionNoise(np.zeros(1), np.ones(1))).learn(20).save(tmp_path / "model")
    noise = CustomDDPG.load(tmp_path / "model", env=make_vec_env("Pendulum-v1", n_envs=after)).action_noise
    if after == 1:
        assert isinstance(noise, NormalActionNoise)
    else:
        assert isinstance(noise, VectorizedActionNoise)
        assert isinstance(noise.base_noise, NormalActionNoise)
        assert noise().shape == (2, 1)


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("schedule", [None, 2.0])
def test_noise_of_another_package(n_envs: int, schedule: float | None) -> None:
    noise = OtherPackagesNoise()
    model = make_model(n_envs, action_noise=noise if schedule is None else ScheduledNoise(noise, schedule))
    model.learn(10)
    assert np.array_equal(np.ravel(model.action_noise()), np.full(n_envs, 0.25 * (schedule or 1)))  # type: ignore[misc]
    assert current_std(model.action_noise) is None


def half(progress_remaining: float) -> float:
    return 0.5 if progress_remaining > 0.5 else 0.25


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (3, [3, 3, 3, 3]),
        ("linear", [1, 0.75, 0.5, 0.25]),
        ({"type": "linear", "end": 0.2, "end_fraction": 0.5}, [1, 0.6, 0.2, 0.2]),
        ("exponential", [1, 0.1**0.25, 0.1**0.5, 0.1**0.75]),
        ({"type": "exponential", "end": 2.0}, [1, 2**0.25, 2**0.5, 2**0.75]),
        (LinearSchedule(0.5, 1.5, 1.0), [0.5, 0.75, 1, 1.25]),
        (half, [0.5, 0.5, 0.25, 0.25]),
    ],
)
def test_schedules(schedule: Any, expected: list[float]) -> None:
    noise = ScheduledNoise("normal", schedule)
    scales = []
    for progress_remaining in (1, 0.75, 0.5, 0.25):
        noise.update(progress_remaining)
        scales.append(float(noise.scale))
    assert scales == pytest.approx(expected)
    assert current_std(noise) == pytest.approx(0.1 * expected[-1])


@pytest.mark.parametrize("fused", [False, "auto"])
def test_the_schedule_follows_training(fused: Any) -> None:
    noise = ScheduledNoise(OtherPackagesNoise(), "linear")
    model = CustomDDPG("MlpPolicy", "Pendulum-v1", action_noise=noise, learning_starts=0, batch_size=4, fused=fused)
    scales = []
    unscaled = model._sample_action

    def sample_action(*args: Any) -> Any:
        result = unscaled(*args)
        scales.append(float(model.action_noise.scale))  # type: ignore[union-attr]
        return result

    model._sample_action = sample_action  # type: ignore[method-assign]
    model.learn(10)
    assert scales == pytest.approx([1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    model.learn(10, reset_num_timesteps=False)
    assert scales[10:] == pytest.approx([0.5, 0.45, 0.4, 0.35, 0.3, 0.25, 0.2, 0.15, 0.1, 0.05])
    model.learn(2)
    assert scales[20:] == pytest.approx([1, 0.5])


@pytest.mark.parametrize("schedule", ["linear", "exponential", lambda progress: progress**2])
def test_a_schedule_survives_save_and_load(schedule: Any, tmp_path: Any) -> None:
    model = make_model(2, action_noise={"type": "pink", "std": 0.4, "schedule": schedule}).learn(20)
    model.save(tmp_path / "model")
    loaded = CustomDDPG.load(tmp_path / "model", env=model.get_env(), trusted=not isinstance(schedule, str))
    assert np.array_equal(loaded.action_noise(), model.action_noise())
    for each in (model, loaded):
        each.learn(20, reset_num_timesteps=False)
    assert 0 < loaded.action_noise.scale == model.action_noise.scale < 0.5
    assert np.array_equal(loaded.action_noise(), model.action_noise())


def test_a_schedule_that_gives_nonsense_ends_training_with_its_progress() -> None:
    model = make_model(1, action_noise=ScheduledNoise("ou", lambda progress: progress - 0.5))
    with pytest.raises(ValueError, match=r"the noise's schedule gives -0\.0.* at the remaining progress 0\.4"):
        model.learn(20)


def test_a_scheduled_specification_serves_two_models() -> None:
    noise = ScheduledNoise(GaussianNoise(0.2), ExponentialSchedule(0.5))
    first, second = (make_model(1, action_noise=noise) for _ in range(2))
    assert np.array_equal(first.action_noise(), second.action_noise())  # type: ignore[misc]
    assert first.action_noise is not second.action_noise


def actions(seed: int, n_envs: int, noise: Any) -> np.ndarray:
    env = make_vec_env("Pendulum-v1", n_envs=n_envs, seed=seed)
    model = CustomDDPG(
        "MlpPolicy", env, learning_starts=40, buffer_size=99, action_noise=noise, seed=seed, batch_size=8
    )
    model.learn(80)
    assert model.replay_buffer is not None
    return np.array(model.replay_buffer.actions[: model.replay_buffer.pos])


@pytest.mark.parametrize("noise", NAMES)
def test_same_seed_same_actions_of_warm_up_and_training(noise: Any) -> None:
    first, second, other = actions(0, 2, noise), actions(0, 2, noise), actions(1, 2, noise)
    assert np.array_equal(first, second)
    for part in (slice(20), slice(20, 40)):  # two environments: 40 steps of warm-up are 20 actions of each
        for others in (other[part], first[part, ::-1]):  # those of another seed, and of the other environment
            same = np.isclose(first[part], others, atol=1e-6) & (np.abs(others) < 1)  # but for the bounds
            assert not same.any()


def test_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(2, action_noise=ScheduledNoise(GaussianNoise(1e-3), "linear"), fused=False)
    logged: list[dict[str, float]] = []
    model.set_logger(configure(format_strings=[]))
    monkeypatch.setattr(model.logger, "dump", lambda step: logged.append(dict(model.logger.name_to_value)))
    monkeypatch.setattr(model.action_space, "sample", lambda: np.array([2.0], dtype=np.float32))
    model.learn(800, log_interval=2)
    assert [log["rollout/noise_std"] for log in logged] == pytest.approx([0.5e-3, 0.0], abs=1e-5)
    assert [log["rollout/action_saturation"] for log in logged] == [1.0, 1.0]  # warm-up, all at the upper bound
    monkeypatch.setattr(model.action_space, "sample", lambda: np.array([1.97], dtype=np.float32))
    model.learn(400, log_interval=2)
    assert logged[-1]["rollout/action_saturation"] == 0.0  # 1.5% of 2 away from it


@pytest.mark.parametrize(
    ("noise", "std"),
    [
        (None, 0.0),
        (UniformNoise([0.2, 0.4]), 0.3),
        (ScheduledNoise(NormalActionNoise(np.zeros(2), np.array([0.2, 0.4])), 0.5), 0.15),
    ],
)
@pytest.mark.parametrize("n_envs", [1, 2])
def test_current_std(noise: Any, std: float, n_envs: int) -> None:
    assert current_std(setup_action_noise(noise, n_envs, (2,), 0)) == pytest.approx(std)


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("schedule", [None, 0.5])
def test_current_std_is_the_one_in_use(n_envs: int, schedule: float | None) -> None:
    spec = {"type": "pink", "std": [0.2, 0.4], **({} if schedule is None else {"schedule": schedule})}
    noise = setup_action_noise(spec, n_envs, (2,), 0)
    process = (noise.noise if isinstance(noise, ScheduledNoise) else noise).process  # type: ignore[union-attr]
    process.std[1] = 0.8
    assert current_std(noise) == pytest.approx(0.5 * (schedule or 1))
    process.std *= 2
    assert current_std(noise) == pytest.approx(1.0 * (schedule or 1))


def test_current_std_of_a_vectorized_noise_is_that_of_its_copies() -> None:
    noise = VectorizedActionNoise(NormalActionNoise(np.zeros(1), np.full(1, 0.2)), 2)
    noise.noises[1]._sigma = np.full(1, 0.4)  # type: ignore[attr-defined]
    assert current_std(noise) == pytest.approx(0.3)


# --- SB3's Gaussian noise, for all environments at once ---


def vectorized(shape: tuple[int, ...] = (2,), **kwargs: Any) -> VectorizedActionNoise:
    return VectorizedActionNoise(NormalActionNoise(np.zeros(shape), np.full(shape, 0.3), **kwargs), 4)


def change_one_std(noise: Any) -> None:
    noise.noises[1]._sigma *= 2


def change_one_mean(noise: Any) -> None:
    noise.noises[2]._mu = np.ones(2)


def another_class(noise: Any) -> None:
    noise.noises[3] = OrnsteinUhlenbeckActionNoise(np.zeros(2), np.ones(2))


def another_dtype(noise: Any) -> None:
    noise.noises[0]._dtype = np.float64


def one_std_for_all(noise: Any) -> None:
    for each in noise.noises:
        each._sigma = 0.5


@pytest.mark.parametrize(
    "change", [len, change_one_std, change_one_mean, another_class, another_dtype, one_std_for_all]
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_drawing_at_once_gives_the_same_numbers(change: Callable[[Any], Any], dtype: Any) -> None:
    noise = vectorized(dtype=dtype)
    numbers = []
    for call in (noise, lambda: sample_noise(noise)):
        mtrand.seed(0)
        fresh = vectorized(dtype=dtype)
        noise.noises = fresh.noises
        before = call()
        change(noise if change is not len else noise.noises)
        numbers.append([before, *[call() for _ in range(5)], mtrand.random(1)])
    for one_by_one, at_once in zip(*numbers, strict=True):
        assert one_by_one.dtype == at_once.dtype
        assert np.array_equal(one_by_one, at_once)


def test_a_replaced_method_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NormalActionNoise, "__call__", lambda self: np.ones(2))
    assert np.array_equal(sample_noise(vectorized()), np.ones((4, 2)))
