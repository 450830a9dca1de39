"""Noise processes: stationary, seeded, one stream for each environment."""

import pickle
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3 import TD3
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import NormalActionNoise, VectorizedActionNoise

from sb3_ddpg_ext import CustomDDPG, GaussianNoise, OrnsteinUhlenbeckNoise
from sb3_ddpg_ext.noise import NOISES, NoiseProcess, ProcessActionNoise, setup_action_noise

MAKERS: list[Callable[[float], NoiseProcess]] = [
    lambda std: GaussianNoise(std),
    lambda std: OrnsteinUhlenbeckNoise(std, correlation_time=5),
]


def bound(process: NoiseProcess, n_envs: int = 1, shape: tuple[int, ...] = (1,), seed: int | None = 0) -> NoiseProcess:
    process.bind(n_envs, shape, seed)
    return process


def draw(process: NoiseProcess, n: int) -> np.ndarray:
    return np.stack([process.sample() for _ in range(n)])


@pytest.mark.parametrize("make", MAKERS)
def test_stationary_std_from_the_first_step_on(make: Callable[[float], NoiseProcess]) -> None:
    noise = draw(bound(make(0.3), n_envs=4_000), 40)  # step, env, action
    assert noise[0].std() == pytest.approx(0.3, rel=0.04)
    assert noise[39].std() == pytest.approx(0.3, rel=0.04)
    assert noise.std() == pytest.approx(0.3, rel=0.02)
    assert abs(noise.mean()) < 0.01


@pytest.mark.parametrize("make", MAKERS)
def test_stationary_again_after_a_reset(make: Callable[[float], NoiseProcess]) -> None:
    process = bound(make(0.3), n_envs=4_000)
    draw(process, 3)
    process.reset(range(4_000))
    assert process.sample().std() == pytest.approx(0.3, rel=0.04)


def test_std_for_each_action() -> None:
    noise = draw(bound(OrnsteinUhlenbeckNoise([0.1, 0.4], 2), n_envs=500, shape=(2,)), 50)
    assert noise.std(axis=(0, 1)) == pytest.approx([0.1, 0.4], rel=0.04)


def test_ou_autocorrelation() -> None:
    noise = draw(bound(OrnsteinUhlenbeckNoise(0.3, correlation_time=8), n_envs=500), 400)[..., 0]
    for lag in (1, 8):
        correlation = np.mean(noise[lag:] * noise[:-lag]) / noise.var()
        assert correlation == pytest.approx(np.exp(-lag / 8), abs=0.02)


def test_the_default_ou_is_the_papers() -> None:
    """Euler's method with dt = 0.001 on theta = 0.15, sigma = 0.2 is the process that the paper writes down."""
    theta, sigma, dt = 0.15, 0.2, 0.001
    rng = np.random.default_rng(0)
    x = sigma / np.sqrt(2 * theta) * rng.standard_normal(20_000)
    start = x.copy()
    for _ in range(1_000):
        x += -theta * x * dt + sigma * np.sqrt(dt) * rng.standard_normal(x.shape)
    process = bound(OrnsteinUhlenbeckNoise(), n_envs=1)
    assert float(process.std) == pytest.approx(x.std(), rel=0.02)
    assert np.corrcoef(start, x)[0, 1] == pytest.approx(process._rho, abs=0.01)


@pytest.mark.parametrize("make", MAKERS)
def test_environments_and_actions_are_independent(make: Callable[[float], NoiseProcess]) -> None:
    noise = draw(bound(make(1.0), n_envs=2, shape=(2,)), 20_000).reshape(20_000, 4)
    correlations = np.corrcoef(noise.T)
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
    assert np.array_equal(draw(process, 5), draw(restored, 5))


def test_reset_touches_only_the_episodes_that_ended() -> None:
    process = bound(OrnsteinUhlenbeckNoise(0.3, correlation_time=1e9), 3)
    before = process.sample()
    process.reset([1])
    after = process.sample()
    assert np.allclose(after[[0, 2]], before[[0, 2]], atol=1e-3)
    assert abs(after[1, 0] - before[1, 0]) > 1e-3


@pytest.mark.parametrize(("std", "message"), [(-0.1, "negative"), (float("nan"), "finite"), ([0.1, -1], "negative")])
def test_impossible_std(std: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GaussianNoise(std)


@pytest.mark.parametrize("correlation_time", [0, -1, float("nan")])
def test_impossible_correlation_time(correlation_time: float) -> None:
    with pytest.raises(ValueError, match="correlation_time must be positive"):
        OrnsteinUhlenbeckNoise(0.1, correlation_time)


def test_std_of_the_wrong_shape() -> None:
    with pytest.raises(ValueError, match=r"std has the shape \(3,\), but actions have the shape \(1,\)"):
        CustomDDPG("MlpPolicy", "Pendulum-v1", action_noise=GaussianNoise([0.1, 0.1, 0.1]))


@pytest.mark.parametrize("name", NOISES)
def test_names(name: str) -> None:
    model = CustomDDPG("MlpPolicy", "Pendulum-v1", action_noise=name, seed=1, buffer_size=10)
    assert isinstance(model.action_noise, ProcessActionNoise)
    assert model.action_noise().shape == (1, 1)


def test_ou_is_the_default() -> None:
    model = CustomDDPG("MlpPolicy", "Pendulum-v1", buffer_size=10)
    assert isinstance(model.action_noise.process, OrnsteinUhlenbeckNoise)


def test_unknown_name_and_wrong_type() -> None:
    with pytest.raises(ValueError, match=r"Unknown action_noise 'norml', .*did you mean 'normal'"):
        CustomDDPG("MlpPolicy", "Pendulum-v1", action_noise="norml")
    with pytest.raises(TypeError, match=r"must be an ActionNoise.*got 0\.1"):
        CustomDDPG("MlpPolicy", "Pendulum-v1", action_noise=0.1)


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


@pytest.mark.parametrize("name", NOISES)
def test_noise_goes_on_after_save_and_load(name: str, tmp_path: Any) -> None:
    model = make_model(2, action_noise=name).learn(10)
    model.save(tmp_path / "model")
    loaded = CustomDDPG.load(tmp_path / "model", env=model.get_env())
    for _ in range(3):
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
@pytest.mark.parametrize("noise", ["ou", "normal", NormalActionNoise(np.zeros(1), np.ones(1)), None])
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
