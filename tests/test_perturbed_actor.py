"""Exploration in parameter space: sigma by hand, perturbations, and whole runs of a model."""

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3 import TD3
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv, FakeImageEnv
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecNormalize
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer
from torch import nn

from sb3_ddpg_ext import CustomDDPG, ParameterNoise
from sb3_ddpg_ext.noise import find_parameter_noise, setup_action_noise
from sb3_ddpg_ext.perturbed_actor import (
    action_distance,
    draw_direction,
    draw_observations,
    perturbable_weights,
    perturbed,
)

# --- Sigma ---


def test_sigma_by_hand() -> None:
    """It begins as std. Up where the distance is at most std, else down, by 1% each."""
    noise = ParameterNoise(std=0.2)
    sigmas = [noise.parameter_std(0.2)]
    for distance in (0.1, 0.2, 0.3, 0.21):
        noise.adapt(distance, 0.2)
        sigmas.append(noise.parameter_std(0.2))
    assert sigmas == pytest.approx([0.2, 0.202, 0.20402, 0.202, 0.2])


@given(std=st.floats(1e-3, 2), coefficient=st.floats(1.001, 2), too_near=st.lists(st.booleans(), max_size=50))
def test_sigma_is_a_power_of_the_coefficient(std: float, coefficient: float, too_near: list[bool]) -> None:
    noise = ParameterNoise(std, adaptation_coefficient=coefficient)
    for near in too_near:
        noise.adapt(0.9 * std if near else 1.1 * std, std)
    exponent = sum(1 if near else -1 for near in too_near)
    assert noise.parameter_std(std) == pytest.approx(std * coefficient**exponent, rel=1e-9)


def test_another_std_counts_at_once_and_0_is_no_noise() -> None:
    noise = ParameterNoise(std=0.2)
    noise.adapt(0.1, 0.2)
    assert noise.parameter_std(0.1) == pytest.approx(0.101)
    assert noise.parameter_std(0.0) == 0
    for _ in range(5):
        noise.adapt(0.0, 0.0)  # says nothing about sigma
    assert noise.parameter_std(0.2) == pytest.approx(0.202)


def test_sigma_is_adapted_every_so_many_steps_from_the_first_one_on() -> None:
    noise = ParameterNoise(adaptation_interval=3)
    noise.bind(2, (1,), 0)
    assert [noise.count_step() is not None for _ in range(7)] == [True, False, False, True, False, False, True]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"std": -1}, "std must be finite and not negative, got -1.0"),
        ({"std": [0.1, 0.2]}, "std of parameter noise is one number, for all actions together; got [0.1, 0.2]"),
        ({"adaptation_coefficient": 1}, "adaptation_coefficient must be above 1, such as 1.01, got 1"),
        ({"adaptation_coefficient": float("nan")}, "adaptation_coefficient must be above 1, such as 1.01, got nan"),
        ({"adaptation_interval": 0}, "adaptation_interval must be a whole number of steps above 0, got 0"),
        ({"adaptation_interval": 2.5}, "adaptation_interval must be a whole number of steps above 0, got 2.5"),
        ({"stdd": 1}, "unknown argument of the noise 'parameter' 'stdd'; did you mean 'std'?"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        CustomDDPG("MlpPolicy", "Pendulum-v1", action_noise={"type": "parameter", **arguments})


def test_std_for_each_action_is_refused_later_too() -> None:
    noise = ParameterNoise(0.3)
    with pytest.raises(ValueError, match="one number, for all actions together"):
        noise.std = [0.1]
    assert float(noise.std) == 0.3


# --- Perturbations ---


def test_directions_are_standard_normal_and_independent() -> None:
    weights = [th.zeros(2, 3), th.zeros(2)]
    drawn = [draw_direction(weights, np.random.default_rng(seed)) for seed in range(20_000)]
    assert [part.shape for part in drawn[0]] == [(2, 3), (2,)]
    numbers = np.array([np.concatenate([part.numpy().ravel() for part in parts]) for parts in drawn])
    assert np.abs(numbers.mean(axis=0)).max() < 0.03
    assert np.cov(numbers.T) == pytest.approx(np.eye(8), abs=0.05)
    assert (numbers**4).mean() == pytest.approx(3, abs=0.1)


def small_actor() -> nn.Sequential:
    th.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.ReLU(), nn.Linear(4, 2), nn.Tanh())


def test_the_weights_are_perturbed_for_a_while_but_not_those_of_layer_norm_and_frozen_ones() -> None:
    actor = small_actor()
    actor[0].bias.requires_grad_(False)
    before = copy.deepcopy(actor.state_dict())
    weights = perturbable_weights(actor)
    direction = draw_direction(weights, np.random.default_rng(0))
    with perturbed(weights, direction, sigma=0.5):
        inside = copy.deepcopy(actor.state_dict())
    assert all(th.equal(actor.state_dict()[name], value) for name, value in before.items())
    expected = dict(zip(("0.weight", "3.weight", "3.bias"), direction, strict=True))
    for name, value in inside.items():
        th.testing.assert_close(value, before[name] + 0.5 * expected.get(name, th.zeros(())))


@given(sigma=st.floats(0, 1e6), seed=st.integers(0, 2**32))
def test_afterwards_the_weights_are_the_same_bits(sigma: float, seed: int) -> None:
    actor = small_actor()
    before = copy.deepcopy(actor.state_dict())
    weights = perturbable_weights(actor)
    with pytest.raises(KeyError), perturbed(weights, draw_direction(weights, np.random.default_rng(seed)), sigma):
        raise KeyError
    assert all(th.equal(actor.state_dict()[name], value) for name, value in before.items())


def test_a_weight_of_two_modules_is_perturbed_once() -> None:
    actor = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    actor[1].weight = actor[0].weight
    assert len(perturbable_weights(actor)) == 3


def test_an_actor_that_is_frozen_acts_as_it_is() -> None:
    with perturbed([], [], 0.5):
        pass
    model = make(1)
    model.actor.requires_grad_(False)
    model.learn(40)
    assert saw_actions(model)[-1] == pytest.approx(model.predict(last_observations(model)[-1])[0] / 2, abs=1e-5)


def test_the_distance_of_a_linear_actor_by_hand() -> None:
    """Actions are s and 2 s; perturbed, they are 1.05 s and 1.9 s. With s of 1 and 3: 0.05, 0.1, 0.15 and 0.3 apart."""
    layer = nn.Linear(1, 2, bias=False)
    layer.weight.data = th.tensor([[1.0], [2.0]])

    def act(observations: Any) -> Any:
        return None, layer(th.as_tensor(observations)).detach().numpy()

    observations = np.array([[1.0], [3.0]], dtype=np.float32)
    distance = action_distance(act, observations, perturbable_weights(layer), [th.tensor([[0.5], [-1.0]])], sigma=0.1)
    assert distance == pytest.approx(((0.05**2 + 0.1**2 + 0.15**2 + 0.3**2) / 4) ** 0.5)


# --- Observations of the minibatch ---


def filled(buffer: ReplayBuffer, n: int, observation: Callable[[float], Any]) -> ReplayBuffer:
    for i in range(n):
        obs = observation(float(i))
        buffer.add(obs, obs, np.zeros((2, 1)), np.zeros(2), np.zeros(2), [{}, {}])
    return buffer


@pytest.mark.parametrize("n", [7, 30])
def test_observations_are_drawn_from_all_that_is_stored_and_nothing_else(n: int) -> None:
    space, actions = gym.spaces.Box(-99, 99, (1, 2)), gym.spaces.Box(-1, 1, (1,))
    buffer = filled(
        ReplayBuffer(20, space, actions, "cpu", n_envs=2),  # ten for each environment
        n,
        lambda i: np.full((2, 1, 2), i + 1) + np.array([0, 0.5]).reshape(2, 1, 1),  # 0 is what is not filled
    )
    state = np.random.get_state()[1].tolist()  # noqa: NPY002 (it is what is tested)
    rng = np.random.default_rng(0)
    drawn: Any = np.concatenate([draw_observations(buffer, rng, None) for _ in range(10)])
    assert drawn.shape == (640, 1, 2)
    stored = range(max(0, n - 10), n)
    assert {*drawn.ravel().tolist()} == {i + shift for i in stored for shift in (1, 1.5)}
    assert np.random.get_state()[1].tolist() == state  # noqa: NPY002


def test_observations_that_are_dicts_and_numbers() -> None:
    space = gym.spaces.Dict({"position": gym.spaces.Box(-99, 99, (3,)), "kind": gym.spaces.Discrete(50)})
    buffer = filled(
        DictReplayBuffer(20, space, gym.spaces.Box(-1, 1, (1,)), "cpu", n_envs=2),
        5,
        lambda i: {"position": np.full((2, 3), i), "kind": np.full((2, 1), i)},
    )
    drawn: Any = draw_observations(buffer, np.random.default_rng(0), None)
    assert (drawn["position"].shape, drawn["kind"].shape) == ((64, 3), (64,))
    assert np.array_equal(drawn["position"][:, 0], drawn["kind"])  # of the same steps


def test_observations_are_normalised_as_those_that_the_actor_sees() -> None:
    model = make(2, wrap=VecNormalize).learn(60)
    normalize, buffer = model.get_vec_normalize_env(), model.replay_buffer
    assert normalize is not None
    assert buffer is not None
    as_stored, drawn = (draw_observations(buffer, np.random.default_rng(0), env) for env in (None, normalize))
    assert np.array_equal(drawn, normalize.normalize_obs(as_stored))
    assert not np.allclose(drawn, as_stored)


# --- Runs ---


def make(n_envs: int, wrap: Callable[[Any], Any] = lambda env: env, env: Any = None, **kwargs: Any) -> CustomDDPG:
    env = env or (lambda: gym.make("Pendulum-v1", max_episode_steps=9))
    defaults: dict[str, Any] = {
        "policy": "MlpPolicy",
        "action_noise": "parameter",
        "policy_kwargs": {"net_arch": [16, 16]},
        "learning_starts": 12,
        "batch_size": 8,
        "buffer_size": 1_200,
        "seed": 0,
        "device": "cpu",
    }
    return CustomDDPG(env=wrap(make_vec_env(env, n_envs, seed=0)), **{**defaults, **kwargs})


def process_of(model: CustomDDPG) -> ParameterNoise:
    noise = find_parameter_noise(model.action_noise)
    assert noise is not None
    return noise


def saw_actions(model: CustomDDPG) -> np.ndarray:
    """:return: The scaled actions that were taken, ``[steps, n_envs, *action_shape]``"""
    assert model.replay_buffer is not None
    return np.array(model.replay_buffer.actions[: model.replay_buffer.pos])


def last_observations(model: CustomDDPG) -> np.ndarray:
    """:return: What they were taken at"""
    assert model.replay_buffer is not None
    return np.array(model.replay_buffer.observations[: model.replay_buffer.pos])


class Recorder(BaseCallback):
    """Writes down the state of the noise and of the actor in each step, and the actions without noise."""

    def __init__(self) -> None:
        super().__init__()
        self.seeds: list[list[int]] = []
        self.sigmas: list[float] = []
        self.weights: list[dict[str, th.Tensor]] = []
        self.std = 0.2

    def _on_step(self) -> bool:
        noise = process_of(self.model)  # type: ignore[arg-type]
        self.seeds.append(noise.seeds)
        self.sigmas.append(noise.parameter_std(self.std))
        self.weights.append(copy.deepcopy(self.model.policy.actor.state_dict()))
        return True


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("layer_norm", [False, True])
def test_the_actions_are_those_of_the_perturbed_actor(n_envs: int, fused: bool, layer_norm: bool) -> None:
    """Of the actor as it is at each step, in each environment with the direction of its episode."""
    policy_kwargs = {"net_arch": [16, 16], "actor_layer_norm": layer_norm}
    model, recorder = make(n_envs, fused=fused, policy_kwargs=policy_kwargs), Recorder()
    model.learn(30 * n_envs, recorder)
    taken, seen = saw_actions(model), last_observations(model)
    actor = copy.deepcopy(model.actor)
    for step in range(-(-12 // n_envs), 30):
        for i in range(n_envs):
            actor.load_state_dict(recorder.weights[step])
            names = [name for name, _ in actor.named_parameters() if "mu.1." not in name and "mu.4." not in name]
            if not layer_norm:
                names = [name for name, _ in actor.named_parameters()]
            params = dict(actor.named_parameters())
            numbers = np.random.default_rng(recorder.seeds[step][i]).standard_normal(
                sum(params[name].numel() for name in names), dtype=np.float32
            )
            with th.no_grad():
                for name in names:
                    n = params[name].numel()
                    params[name] += recorder.sigmas[step] * th.from_numpy(numbers[:n]).view(params[name].shape)
                    numbers = numbers[n:]
                expected = actor(th.as_tensor(seen[step, i : i + 1])).numpy()[0]
            assert taken[step, i] == pytest.approx(expected, abs=1e-5)


def test_each_episode_of_each_environment_has_its_own_perturbation() -> None:
    class Ends(gym.wrappers.TimeLimit):
        n_made = 0

        def __init__(self, env: Any) -> None:
            Ends.n_made += 1
            super().__init__(env, 4 + 3 * Ends.n_made)

    model, recorder = make(2, env=lambda: Ends(gym.make("Pendulum-v1").unwrapped)), Recorder()
    model.learn(60, recorder)
    seeds = np.array(recorder.seeds)
    changes = seeds[1:] != seeds[:-1]
    assert np.flatnonzero(changes[:, 0]).tolist() == [6, 13, 20, 27]
    assert np.flatnonzero(changes[:, 1]).tolist() == [9, 19]
    assert len(np.unique(seeds)) == 5 + 3


def test_random_warm_up_is_as_without_noise() -> None:
    with pytest.warns(UserWarning, match="does not explore"):
        expected = saw_actions(make(2, action_noise=None, learning_starts=40).learn(40))
    assert np.array_equal(saw_actions(make(2, learning_starts=40).learn(40)), expected)


@pytest.mark.parametrize("fused", [True, False])
def test_a_run_draws_from_the_global_generators_what_it_draws_with_other_noise(fused: bool) -> None:
    """Minibatches for training are therefore the same ones."""
    states = []
    for noise in ("normal", "parameter"):
        make(2, action_noise=noise, fused=fused).learn(60)
        states.append((np.random.get_state()[1:3], th.get_rng_state()))  # noqa: NPY002 (it is what is tested)
    (first, first_torch), (second, second_torch) = states
    assert first[0].tolist() == second[0].tolist()
    assert first[1] == second[1]
    assert th.equal(first_torch, second_torch)


def test_callbacks_and_users_see_the_unperturbed_actor() -> None:
    seen: list[Any] = []

    class Predicts(BaseCallback):
        def _on_step(self) -> bool:
            assert self.model.replay_buffer is not None
            seen.append(self.model.predict(self.locals["new_obs"])[0])
            return True

    runs = [make(2, action_noise=noise, gradient_steps=0).learn(60, Predicts()) for noise in ("parameter", "normal")]
    assert all(map(th.equal, *(run.policy.state_dict().values() for run in runs)))  # the weights of the beginning
    actor = runs[1].predict
    assert np.array_equal(runs[0].predict(np.ones((5, 3)))[0], actor(np.ones((5, 3)))[0])
    assert not np.allclose(saw_actions(runs[0])[10], seen[9] / 2)


def test_the_distance_becomes_std() -> None:
    """Without training: with the sigma that a run ends with, actions are as far apart as they are to be."""
    for std in (0.1, 0.4):
        model = make(2, action_noise={"type": "parameter", "std": std, "adaptation_interval": 1}, gradient_steps=0)
        model.learn(1_600)
        assert model.replay_buffer is not None
        weights, rng = perturbable_weights(model.actor), np.random.default_rng(0)
        observations = draw_observations(model.replay_buffer, rng, None)

        def act(obs: Any, model: CustomDDPG = model) -> Any:
            return None, model.predict(obs)[0] / 2

        sigma = process_of(model).parameter_std(std)
        distances = [
            action_distance(act, observations, weights, draw_direction(weights, rng), sigma) for _ in range(200)
        ]
        assert np.median(distances) == pytest.approx(std, rel=0.25)


def logs_of(model: CustomDDPG, steps: int, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, float]]:
    """:return: What is logged at every second end of an episode"""
    logged: list[dict[str, float]] = []
    model.set_logger(configure(format_strings=[]))
    monkeypatch.setattr(model.logger, "dump", lambda step: logged.append(dict(model.logger.name_to_value)))
    model.learn(steps, log_interval=2)
    return logged


def test_a_schedule_scales_std_and_sigma(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = {"type": "parameter", "std": 0.3, "schedule": "linear", "adaptation_interval": 10_000}
    model = make(1, action_noise=noise, learning_starts=0)
    logged = logs_of(model, 36, monkeypatch)
    assert [log["rollout/noise_std"] for log in logged] == pytest.approx([0.3 * (1 - 17 / 36), 0.3 / 36], rel=1e-5)
    assert [log["rollout/parameter_noise_std"] for log in logged] == [log["rollout/noise_std"] for log in logged]
    model._current_progress_remaining = 0.0
    _, scaled = model._sample_action(0, model.action_noise, 1)
    assert scaled == pytest.approx(model.predict(model._last_obs)[0] / 2, abs=1e-5)


def test_what_is_logged_is_what_has_been_adapted(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(1, action_noise={"type": "parameter", "adaptation_interval": 1})
    (*_, log) = logs_of(model, 90, monkeypatch)
    assert log["rollout/noise_std"] == pytest.approx(0.2)
    assert log["rollout/parameter_noise_std"] == process_of(model).parameter_std(0.2) != 0.2
    assert "rollout/parameter_noise_std" not in logs_of(make(1, action_noise="normal"), 90, monkeypatch)[-1]


@pytest.mark.parametrize("n_envs", [1, 3])
def test_same_seed_same_actions_and_another_seed_others(n_envs: int) -> None:
    first, second, other = (saw_actions(make(n_envs, seed=seed).learn(60)) for seed in (0, 0, 1))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


def test_set_random_seed_restarts_the_perturbations() -> None:
    model, other = make(2).learn(30), make(2, seed=5)
    model.set_random_seed(5)
    assert process_of(model).seeds == process_of(other).seeds
    assert process_of(model).parameter_std(1.0) < 1  # which has been adapted to the actor


def test_the_closed_form_and_autograd_explore_alike() -> None:
    first, second = (make(2, fused=fused).learn(200) for fused in (True, False))
    assert saw_actions(first) == pytest.approx(saw_actions(second), abs=1e-3)
    assert process_of(first).parameter_std(1.0) == pytest.approx(process_of(second).parameter_std(1.0))


# --- Files ---


@pytest.mark.parametrize("noise", ["parameter", {"type": "parameter", "std": 0.4, "schedule": "linear"}])
def test_a_saved_model_goes_on_with_its_perturbations(noise: Any, tmp_path: Path) -> None:
    model = make(2, action_noise=noise).learn(50)
    model.save(tmp_path / "model")
    loaded = CustomDDPG.load(tmp_path / "model", env=model.get_env())
    assert process_of(loaded).seeds == process_of(model).seeds
    assert process_of(loaded).parameter_std(1.0) == process_of(model).parameter_std(1.0)
    loaded.replay_buffer, loaded._last_obs = model.replay_buffer, model._last_obs  # which are not in the file
    model._current_progress_remaining = loaded._current_progress_remaining = 0.5
    for _ in range(25):
        actions = [each._sample_action(0, each.action_noise, 2) for each in (loaded, model)]
        assert np.array_equal(*actions)
        for each in (loaded, model):
            each.action_noise.reset([1])
    assert process_of(loaded).parameter_std(1.0) == process_of(model).parameter_std(1.0)


@pytest.mark.parametrize(("before", "after"), [(4, 1), (1, 3)])
def test_another_number_of_environments_after_load(before: int, after: int, tmp_path: Path) -> None:
    make(before).learn(40).save(tmp_path / "model")
    loaded = CustomDDPG.load(tmp_path / "model", env=make_vec_env("Pendulum-v1", after))
    loaded.learn(12, reset_num_timesteps=False)
    assert len({*process_of(loaded).seeds}) == after


# --- Other policies and environments ---

IMAGES: dict[str, Any] = {"policy": "CnnPolicy", "buffer_size": 40, "learning_starts": 4, "batch_size": 2}


def images() -> gym.Env[Any, Any]:
    return FakeImageEnv(screen_height=36, screen_width=36, n_channels=1, discrete=False)


def goals() -> gym.Env[Any, Any]:
    return BitFlippingEnv(n_bits=3, continuous=True, max_steps=5)


def rewards_normalized(env: Any) -> VecNormalize:
    return VecNormalize(env, norm_obs=False)


@pytest.mark.parametrize(
    ("env", "n_envs", "wrap", "kwargs"),
    [
        pytest.param(images, 2, lambda env: env, IMAGES, id="images"),
        pytest.param(goals, 2, lambda env: env, {"policy": "MultiInputPolicy"}, id="Dict"),
        pytest.param(
            goals,
            1,
            rewards_normalized,
            {"policy": "MultiInputPolicy", "replay_buffer_class": HerReplayBuffer},
            id="HER",
        ),
        pytest.param(None, 2, VecNormalize, {"n_steps": 3}, id="VecNormalize, n-step"),
        pytest.param(None, 2, lambda env: env, {"optimize_memory_usage": True}, id="compact buffer"),
        pytest.param(None, 1, lambda env: env, {"learning_starts": 0, "train_freq": 5}, id="from the first step on"),
    ],
)
def test_other_policies_and_buffers(env: Any, n_envs: int, wrap: Any, kwargs: dict[str, Any]) -> None:
    """In each environment another perturbation acts, and sigma is adapted."""
    noise = {"type": "parameter", "adaptation_interval": 1}
    model = make(n_envs, wrap, env, action_noise=noise, **kwargs).learn(26)  # an odd number of adaptations
    assert process_of(model).parameter_std(1.0) != 1
    last_obs: Any = model._last_obs
    alike = (
        {key: np.repeat(value[:1], n_envs, 0) for key, value in last_obs.items()}
        if isinstance(last_obs, dict)
        else np.repeat(last_obs[:1], n_envs, 0)
    )
    model._last_obs = alike
    _, scaled = model._sample_action(0, model.action_noise, n_envs)
    unperturbed = model.policy.scale_action(model.predict(alike)[0])
    assert scaled.shape == unperturbed.shape
    assert len(np.unique([*scaled, unperturbed[0]], axis=0)) == n_envs + 1


@pytest.mark.skipif(not th.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("fused", [True, False])
def test_cuda(fused: bool) -> None:
    model = make(2, device="cuda", fused=fused).learn(60)
    assert process_of(model).parameter_std(1.0) != 1


def test_a_copied_model_explores_alike() -> None:
    model = make(2).learn(30)
    other = copy.deepcopy(model)
    for each in (model, other):
        np.random.seed(0)  # noqa: NPY002 (minibatches)
        each.learn(20, reset_num_timesteps=False)
    assert np.array_equal(saw_actions(model), saw_actions(other))


def test_other_algorithms_cannot_use_it() -> None:
    noise = setup_action_noise("parameter", 1, (1,), 0)
    model = TD3("MlpPolicy", "Pendulum-v1", action_noise=noise, buffer_size=100, policy_kwargs={"net_arch": [8]})
    with pytest.raises(TypeError, match="perturbs the weights of CustomDDPG's actor, and serves no other algorithm"):
        model.learn(10)
