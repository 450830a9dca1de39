"""Settings to environments and models."""

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.classic_control import PendulumEnv
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize, VecTransposeImage

from sb3_ddpg_ext import OrnsteinUhlenbeckNoise, ParameterNoise
from sb3_ddpg_ext.building import make_env, make_model
from sb3_ddpg_ext.errors import SettingsError
from sb3_ddpg_ext.settings import NoiseSettings, Settings, parse_settings


def settings(**raw: Any) -> Any:
    return parse_settings("custom_ddpg", {"n_timesteps": 100, "policy_kwargs": {"net_arch": [8]}, **raw}, "test")


def test_wrappers() -> None:
    env = make_env(
        "Pendulum-v1",
        settings(
            normalize={"norm_reward": False},
            frame_stack=2,
            env_wrapper="sb3_contrib.common.wrappers.TimeFeatureWrapper",
            env_kwargs={"g": 5.0},
            gamma=0.9,
        ),
        n_envs=2,
        seed=0,
    )
    # RL Zoo normalises first, which crashes in SB3's off-policy algorithms: they store what VecNormalize was given
    assert isinstance(env, VecNormalize)
    assert isinstance(env.venv, VecFrameStack)
    assert env.gamma == 0.9
    assert not env.norm_reward
    assert env.observation_space.shape == (8,)
    assert env.get_attr("g") == [5.0, 5.0]


def test_images_look_the_same_in_evaluation() -> None:
    gym.register("FakeImage-v0", "stable_baselines3.common.envs:FakeImageEnv", kwargs={"discrete": False})
    env = make_env("FakeImage-v0", settings(env_kwargs={"channel_first": False}), 1, 0, training=False)
    assert isinstance(env, VecTransposeImage)


def test_evaluation_env_neither_learns_statistics_nor_normalizes_rewards() -> None:
    env = make_env("Pendulum-v1", settings(normalize=True), 1, 0, training=False)
    assert isinstance(env, VecNormalize)
    env.reset()
    env.step(np.zeros((1, 1)))
    assert env.obs_rms.count < 1  # type: ignore[union-attr]
    assert not env.norm_reward


def test_noise_of_the_settings() -> None:
    env = make_env("Pendulum-v1", settings(), 1, 0)
    ours = make_model(
        settings(noise_type="ou", noise_std=0.5, noise_kwargs={"correlation_time": 50}),
        "custom_ddpg",
        env,
    )
    process = ours.action_noise.process  # type: ignore[union-attr]
    assert isinstance(process, OrnsteinUhlenbeckNoise)
    assert (float(process.std), process.correlation_time) == (0.5, 50)
    assert isinstance(make_model(settings(), "custom_ddpg", env).action_noise.process, OrnsteinUhlenbeckNoise)  # type: ignore[union-attr]
    assert make_model(settings(noise_type=None), "custom_ddpg", env).action_noise is None
    assert make_model(settings(), "ddpg", env).action_noise is None
    normal = make_model(settings(noise_type="normal", noise_std=0.2), "ddpg", env).action_noise
    assert isinstance(normal, NormalActionNoise)
    assert normal._sigma.tolist() == [0.2]
    zoo = settings(noise_type="ornstein-uhlenbeck", noise_std=0.2, noise_kwargs={"theta": 0.3})
    for algo in ("td3", "custom_ddpg"):  # equal settings mean equal noise
        sb3s = make_model(zoo, algo, env).action_noise
        assert isinstance(sb3s, OrnsteinUhlenbeckActionNoise)
        assert (sb3s._sigma.tolist(), sb3s._theta, sb3s._dt) == ([0.2], 0.3, 0.01)


@pytest.mark.parametrize("algo", ["custom_ddpg", "td3"])
def test_noise_of_a_strength_for_each_action(algo: str) -> None:
    chosen = settings(noise_type="normal", noise_std=[0.1, 0.4])
    env = make_env("Reacher-v5", chosen, 1, 0)
    noise = make_model(chosen, algo, env).action_noise
    stds = noise._sigma if isinstance(noise, NormalActionNoise) else noise.process.std  # type: ignore[union-attr]
    assert stds.tolist() == [0.1, 0.4]
    with pytest.raises(SettingsError, match="shape"):
        make_model(chosen, algo, make_env("HalfCheetah-v5", chosen, 1, 0))


def test_parameter_noise_of_the_settings() -> None:
    chosen = settings(noise_type="parameter", noise_std=0.3, noise_kwargs={"adaptation_interval": 5})
    env = make_env("Pendulum-v1", chosen, 1, 0)
    process = make_model(chosen, "custom_ddpg", env).action_noise.process  # type: ignore[union-attr]
    assert isinstance(process, ParameterNoise)
    assert (float(process.std), process.adaptation_interval) == (0.3, 5)
    with pytest.raises(SettingsError, match="ddpg: the noise 'parameter' is CustomDDPG's; here it is normal or orn"):
        make_model(chosen, "ddpg", env)
    with pytest.raises(SettingsError, match=r"std of parameter noise is one number, .*; got \[0.1\]"):
        make_model(settings(noise_type="parameter", noise_std=[0.1]), "custom_ddpg", env)


def test_scheduled_noise_of_the_settings() -> None:
    env = make_env("Pendulum-v1", settings(), 1, 0)
    chosen = settings(action_noise={"type": "pink", "std": 0.5, "schedule": {"type": "linear", "end": 0.1}})
    noise = make_model(chosen, "custom_ddpg", env).action_noise
    assert repr(noise) == "ScheduledNoise(PinkNoise(std=0.5), LinearSchedule(start=1.0, end=0.1, end_fraction=1.0))"


def test_the_baselines_have_the_noises_of_sb3_only() -> None:
    pink = Settings(100, noise=NoiseSettings("pink"), hyperparams={"policy": "MlpPolicy"})
    with pytest.raises(SettingsError, match="ddpg: the noise 'pink' is CustomDDPG's; here it is normal or ornstein-"):
        make_model(pink, "ddpg", make_env("Pendulum-v1", pink, 1, 0))


def test_a_schedule_of_noise_is_not_for_the_baselines() -> None:
    scheduled = settings(noise_type="normal", noise_kwargs={"schedule": "linear"})
    with pytest.raises(
        SettingsError, match=r"ddpg: a schedule of noise is CustomDDPG's; leave it out with noise_kwarg"
    ):
        make_model(scheduled, "ddpg", make_env("Pendulum-v1", scheduled, 1, 0))


def test_building_a_model_leaves_the_settings_alone() -> None:
    chosen = settings()
    make_model(chosen, "ddpg", make_env("Pendulum-v1", chosen, 1, 0))  # SB3 writes n_critics into policy_kwargs
    assert chosen.hyperparams["policy_kwargs"] == {"net_arch": [8]}


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [(-np.inf, np.inf, "bounds must be finite"), (None, None, r"action space Discrete\(2\), but a continuous one")],
)
def test_action_spaces_that_cannot_be_used(low: Any, high: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    space: Any = spaces.Discrete(2) if low is None else spaces.Box(low, high, (1,))

    class Env(gym.Env[Any, Any]):
        observation_space = spaces.Box(-1, 1, (1,))
        action_space = space

    monkeypatch.setitem(gym.registry, "Odd-v0", gym.envs.registration.EnvSpec("Odd-v0", entry_point=lambda **_: Env()))
    with pytest.raises(SettingsError, match=message):
        make_env("Odd-v0", settings(), 1, 0)


def test_an_environment_that_cannot_be_rendered_is_built_without_a_warning() -> None:
    class NoPictures(PendulumEnv):
        metadata: ClassVar[dict[str, Any]] = {"render_modes": []}  # type: ignore[misc]

    gym.register("NoPictures-v0", NoPictures, max_episode_steps=10)
    try:
        make_env("NoPictures-v0", settings(), 2, 0).close()  # warnings are errors
    finally:
        del gym.registry["NoPictures-v0"]


@pytest.mark.parametrize(
    ("env_kwargs", "asked_for", "mode"),
    [({}, None, None), ({"render_mode": "rgb_array"}, None, "rgb_array"), ({}, "rgb_array", "rgb_array")],
)
def test_an_environment_draws_only_what_is_asked_for(
    env_kwargs: dict[str, Any], asked_for: str | None, mode: str | None
) -> None:
    env = make_env("Pendulum-v1", settings(env_kwargs=env_kwargs), 2, 0, render_mode=asked_for)
    assert env.get_attr("render_mode") == [mode, mode]


@pytest.mark.parametrize(
    ("algo", "raw", "what", "near"),
    [
        ("custom_ddpg", {"policy_kwargs": {"net_arhc": [8]}}, "an unexpected keyword argument 'net_arhc'", "net_arch"),
        ("sac", {"policy_kwargs": {"n_critic": 1}}, "'n_critic'", "n_critics"),
        ("ddpg", {"policy_kwargs": {"optimizer_kwargs": {"betas_": [0, 0]}}}, "'betas_'", "betas"),
        (
            "custom_ddpg",
            {"policy_kwargs": {"critic_optimizer_class": "th.optim.SGD", "critic_optimizer_kwargs": {"momentun": 0.9}}},
            "'momentun'",
            "momentum",
        ),
        ("custom_ddpg", {"policy_kwargs": {"critic_layernorm": True}}, "'critic_layernorm'", "critic_layer_norm"),
        ("ddpg", {"replay_buffer_kwargs": {"handle_timeout": 1}}, "'handle_timeout'", "handle_timeout_"),
        ("ddpg", {"noise_type": "normal", "noise_kwargs": {"mea": 0}}, "'mea'", "mean"),
        ("ddpg", {"env_kwargs": {"gg": 9.0}}, "'gg'", "g"),
        ("ddpg", {"normalize": {"norm_obz": False}}, "'norm_obz'", "norm_obs"),
        ("ddpg", {"env_wrapper": {"gymnasium.wrappers.TimeLimit": {"max_steps": 3}}}, "'max_steps'", "max_"),
    ],
)  # fmt: skip
def test_a_misspelt_argument_gets_the_nearest_name(algo: str, raw: dict[str, Any], what: str, near: str) -> None:
    misspelt = parse_settings(algo, {"n_timesteps": 100, **raw}, "test")
    with pytest.raises(SettingsError, match=rf"{what}; did you mean '{near}") as refused:
        make_model(misspelt, algo, make_env("Pendulum-v1", misspelt, 1, 0))
    assert "\n" not in str(refused.value)
