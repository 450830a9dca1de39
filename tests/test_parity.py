"""CustomDDPG ends bit-for-bit equal to SB3's DDPG: weights, both optimizers, targets and replay buffer."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import DDPG, HerReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv, FakeImageEnv
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise, VectorizedActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecNormalize
from stable_baselines3.td3.policies import TD3Policy
from torch import nn

from sb3_ddpg_ext import CustomDDPG, LayerNormPolicy

MIN_UPDATES = 500


def assert_equal(ours: Any, theirs: Any, name: str) -> None:
    """Compare nested state dicts and arrays bitwise, so that NaN equals NaN and 0.0 does not equal -0.0."""
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys(), name
        for key in theirs:
            assert_equal(ours[key], theirs[key], f"{name}.{key}")
    elif isinstance(theirs, list | tuple):
        assert len(ours) == len(theirs), name
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            assert_equal(a, b, f"{name}[{i}]")
    elif isinstance(theirs, th.Tensor | np.ndarray):
        a, b = np.asarray(ours), np.asarray(theirs)
        assert a.dtype == b.dtype, name
        assert a.shape == b.shape, name
        assert a.tobytes() == b.tobytes(), f"{name} differs by up to {np.max(np.abs(a - b))}"
    else:
        assert ours == theirs, name


def assert_models_equal(ours: OffPolicyAlgorithm, theirs: OffPolicyAlgorithm) -> None:
    assert ours._n_updates == theirs._n_updates >= MIN_UPDATES
    assert_equal(ours.get_parameters(), theirs.get_parameters(), "parameters")
    buffers = [
        {k: v for k, v in vars(m.replay_buffer).items() if isinstance(v, np.ndarray | dict | int)}
        for m in (ours, theirs)
    ]
    # HER keeps the infos' deques only for reward functions that need them
    assert_equal(*({k: v for k, v in b.items() if k != "infos"} for b in buffers), "replay_buffer")
    if theirs._vec_normalize_env is not None:
        for rms in ("obs_rms", "ret_rms"):
            assert_equal(
                vars(getattr(ours._vec_normalize_env, rms)), vars(getattr(theirs._vec_normalize_env, rms)), rms
            )


def normal_noise(env: gym.Env | Any, std: float = 0.1) -> NormalActionNoise:
    shape = env.action_space.shape
    return NormalActionNoise(np.zeros(shape), std * np.ones(shape))


def pendulum() -> gym.Env:
    return gym.make("Pendulum-v1")


def images() -> gym.Env:
    env = FakeImageEnv(screen_height=36, screen_width=36, discrete=False)
    env.observation_space.seed(1)  # its observations are samples of the space, which `reset(seed=...)` does not seed
    return env


class SquashedBatchNormExtractor(BaseFeaturesExtractor):
    """Running statistics have to reach the target networks as well."""

    def __init__(self, observation_space: spaces.Box, features_dim: int = 8) -> None:
        super().__init__(observation_space, features_dim)
        self.net = nn.Sequential(
            nn.Linear(observation_space.shape[0], features_dim), nn.BatchNorm1d(features_dim), nn.Tanh()
        )

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.net(observations)


class UnsquashedPolicy(TD3Policy):
    """A user's class derived from TD3's, whose actor leaves [-1, 1]."""

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> Any:
        actor = super().make_actor(features_extractor)
        actor.mu = actor.mu[:-1]
        return actor


SMALL = {"net_arch": [16, 16]}
COMMON = {"learning_starts": 50, "batch_size": 32, "buffer_size": 2_000, "policy_kwargs": SMALL}

Case = tuple[Callable[[], Any], dict[str, Any]]
CASES: dict[str, Case] = {
    "default networks and batch": (pendulum, {"learning_starts": 50, "buffer_size": 2_000, "policy_kwargs": None}),
    "64x64 with Tanh": (pendulum, {"policy_kwargs": {"net_arch": [64, 64], "activation_fn": nn.Tanh}}),
    "pi and qf of different sizes": (pendulum, {"policy_kwargs": {"net_arch": {"pi": [8], "qf": [16, 8]}}}),
    "two critics": (pendulum, {"policy_kwargs": {**SMALL, "n_critics": 2}}),
    "n_steps=3": (pendulum, {"n_steps": 3}),
    "tau and gamma": (pendulum, {"tau": 0.05, "gamma": 0.9}),
    "no noise": (pendulum, {"action_noise": None}),
    "OU noise": (pendulum, {"action_noise": OrnsteinUhlenbeckActionNoise(np.zeros(1), 0.2 * np.ones(1))}),
    # InvertedPendulum terminates, so that `dones` matter
    "terminal states": (lambda: gym.make("InvertedPendulum-v5"), {}),
    "VecNormalize": (lambda: VecNormalize(make_vec_env("Pendulum-v1", seed=1)), {}),
    "VecNormalize of 2 with terminal states": (
        lambda: VecNormalize(make_vec_env("InvertedPendulum-v5", n_envs=2, seed=1)),
        {"gradient_steps": -1},
    ),
    "4 environments": (lambda: make_vec_env("Pendulum-v1", n_envs=4, seed=1), {"gradient_steps": -1}),
    "HER with Dict": (
        lambda: BitFlippingEnv(n_bits=4, continuous=True),
        {
            "policy": "MultiInputPolicy",
            "replay_buffer_class": HerReplayBuffer,
            "replay_buffer_kwargs": {"n_sampled_goal": 4, "goal_selection_strategy": "future"},
        },
    ),
    "images with CnnPolicy": (
        images,
        {
            "policy": "CnnPolicy",
            "batch_size": 4,
            "buffer_size": 100,
            "policy_kwargs": {**SMALL, "features_extractor_kwargs": {"features_dim": 8}},
        },
    ),
    "images with a shared extractor": (
        images,
        {
            "policy": "CnnPolicy",
            "batch_size": 4,
            "buffer_size": 100,
            "policy_kwargs": {
                **SMALL,
                "share_features_extractor": True,
                "features_extractor_kwargs": {"features_dim": 8},
            },
        },
    ),
    "shared extractor with parameters": (
        pendulum,
        {
            "policy_kwargs": {
                **SMALL,
                "share_features_extractor": True,
                "features_extractor_class": SquashedBatchNormExtractor,
            }
        },
    ),
    "batch normalisation": (
        pendulum,
        {"policy_kwargs": {**SMALL, "features_extractor_class": SquashedBatchNormExtractor}},
    ),
    "custom policy class": (pendulum, {"policy": UnsquashedPolicy}),
    "LayerNorm, a small last layer, two optimizers": (
        pendulum,
        {
            "policy": LayerNormPolicy,
            "policy_kwargs": {**SMALL, "final_layer_init": 3e-3, "critic_optimizer_kwargs": {"weight_decay": 1e-2}},
        },
    ),
    "episodic train_freq": (pendulum, {"train_freq": (1, "episode"), "gradient_steps": -1}),
    "train_freq 4, gradient_steps 2": (pendulum, {"train_freq": 4, "gradient_steps": 5}),
    "optimize_memory_usage": (
        pendulum,
        {"optimize_memory_usage": True, "replay_buffer_kwargs": {"handle_timeout_termination": False}},
    ),
    "learning-rate schedule": (pendulum, {"learning_rate": LinearSchedule(3e-3, 1e-4, 0.8)}),
    "another optimizer": (
        pendulum,
        {
            "policy_kwargs": {
                **SMALL,
                "optimizer_class": th.optim.RMSprop,
                "optimizer_kwargs": {"alpha": 0.95, "momentum": 0.5},
            }
        },
    ),
    "Adam with kwargs": (
        pendulum,
        {"policy_kwargs": {**SMALL, "optimizer_kwargs": {"betas": (0.8, 0.95), "weight_decay": 1e-3}}},
    ),
}


def make(algorithm: type[OffPolicyAlgorithm], make_env: Callable[[], Any], kwargs: dict[str, Any]) -> Any:
    env = make_env()
    kwargs = {"policy": "MlpPolicy", "action_noise": normal_noise(env), "seed": 3, "device": "cpu", **COMMON, **kwargs}
    if kwargs["policy_kwargs"] is not None:
        kwargs["policy_kwargs"] = dict(kwargs["policy_kwargs"])  # SB3's DDPG writes into it
    if algorithm is CustomDDPG:
        kwargs["fused"] = False  # the closed form is equal up to rounding only, see test_fused
    return algorithm(env=env, **kwargs)


# SB3 sets the seed of generators that both use (numpy's and torch's), so one is trained after the other
@pytest.mark.parametrize(("make_env", "kwargs"), CASES.values(), ids=CASES.keys())
@pytest.mark.filterwarnings("ignore:action_noise=None")
def test_parity(make_env: Callable[[], Any], kwargs: dict[str, Any]) -> None:
    n_steps = 50 + MIN_UPDATES + 10
    if kwargs.get("train_freq") == (1, "episode"):
        n_steps = 800
    theirs = make(DDPG, make_env, kwargs).learn(n_steps)
    ours = make(CustomDDPG, make_env, kwargs).learn(n_steps)
    assert_models_equal(ours, theirs)


# SB3 warns of its own choice of buffer class when it loads a model with n-step returns
@pytest.mark.filterwarnings("ignore:`n_steps=3` is ignored")
@pytest.mark.parametrize("case", ["64x64 with Tanh", "4 environments", "VecNormalize", "n_steps=3"])
def test_parity_after_save_and_load(case: str, tmp_path: Any) -> None:
    make_env, kwargs = CASES[case]

    def continued(algorithm: type[OffPolicyAlgorithm]) -> OffPolicyAlgorithm:
        model = make(algorithm, make_env, kwargs).learn(300)
        model.save(tmp_path / "model")
        model.save_replay_buffer(tmp_path / "buffer")
        env = make_env()
        if isinstance(env, VecNormalize):
            model.get_vec_normalize_env().save(tmp_path / "vecnormalize.pkl")
            env = VecNormalize.load(tmp_path / "vecnormalize.pkl", env.venv)
        model = algorithm.load(tmp_path / "model", env=env, device="cpu")
        model.load_replay_buffer(tmp_path / "buffer")
        return model.learn(400, reset_num_timesteps=False)

    theirs, ours = continued(DDPG), continued(CustomDDPG)
    assert_models_equal(ours, theirs)


def test_parity_goes_on_from_a_model_that_sb3_saved(tmp_path: Any) -> None:
    make_env, kwargs = CASES["64x64 with Tanh"]
    make(DDPG, make_env, kwargs).learn(300).save(tmp_path / "model")

    def continued(algorithm: type[OffPolicyAlgorithm]) -> OffPolicyAlgorithm:
        kwargs = {"fused": False, "trusted": True} if algorithm is CustomDDPG else {}
        model = algorithm.load(tmp_path / "model", env=make_env(), device="cpu", **kwargs)
        return model.learn(500, reset_num_timesteps=False)

    theirs, ours = continued(DDPG), continued(CustomDDPG)
    assert_models_equal(ours, theirs)
    ours.save(tmp_path / "ours")
    # And back again: SB3 reads what we save
    back = DDPG.load(tmp_path / "ours", env=make_env(), device="cpu")
    assert_equal(back.get_parameters(), theirs.get_parameters(), "parameters")


def test_parity_can_fail() -> None:
    """The comparison itself sees one wrong bit."""
    make_env, kwargs = CASES["64x64 with Tanh"]
    theirs = make(DDPG, make_env, kwargs).learn(600)
    ours = make(CustomDDPG, make_env, kwargs).learn(600)
    with th.no_grad():
        bias = ours.actor_target.mu[0].bias
        bias[0] = th.nextafter(bias[0], th.tensor(th.inf))
    with pytest.raises(AssertionError, match=r"parameters\.policy\.actor_target"):
        assert_models_equal(ours, theirs)


def test_vectorized_noise_is_taken_as_it_is() -> None:
    make_env, kwargs = CASES["4 environments"]
    noise = VectorizedActionNoise(normal_noise(make_env()), 4)
    model = make(CustomDDPG, make_env, {**kwargs, "action_noise": noise})
    assert model.action_noise is noise
