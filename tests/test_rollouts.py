"""The loop that collects experience shows callbacks, noise and hooks the same as SB3's, in the same order."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from numpy.random import mtrand
from stable_baselines3 import DDPG
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import ActionNoise, NormalActionNoise, VectorizedActionNoise
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ddpg_ext import CustomDDPG, MlpPolicy


class Witness(BaseCallback):
    """Writes down everything that it can see, and everything that is called."""

    def __init__(self, stop_at: int | None) -> None:
        super().__init__()
        self.stop_at = stop_at
        self.seen: list[Any] = []

    def _on_training_start(self) -> None:
        self.model.action_noise = watched(self.model.action_noise, self.seen)

    def _on_rollout_start(self) -> None:
        self._see("rollout starts")

    def _on_step(self) -> bool:
        self._see("step")
        return self.num_timesteps != self.stop_at

    def _on_rollout_end(self) -> None:
        self._see("rollout ends")

    def _see(self, what: str) -> None:
        names = sorted(self.locals)
        ours = {name: plain(self.locals[name]) for name in names if name not in ("callback", "self")}
        assert self.locals["self"] is self.model
        progress = self.model._current_progress_remaining
        counts = (self.num_timesteps, self.model.num_timesteps, self.n_calls, self.model._episode_num, progress)
        size = self.model.replay_buffer.pos, self.model.replay_buffer.full
        self.seen.append((what, names, ours, counts, size, len(self.model.ep_info_buffer)))


def plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tolist()
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if key != "episode"}  # which has a time
    if isinstance(value, (bool, np.bool_, int, str, float, type(None))):
        return value
    return type(value).__name__


def watched(noise: ActionNoise, seen: list[Any]) -> ActionNoise:
    reset = noise.reset

    def seen_reset(*args: Any, **kwargs: Any) -> None:
        seen.append(("noise.reset", args, kwargs))
        reset(*args, **kwargs)

    noise.reset = seen_reset  # type: ignore[method-assign]
    return noise


def run(base: Any, n_envs: int, wrap: Callable[[Any], Any], stop_at: int | None, train_freq: Any, **kwargs: Any) -> Any:
    calls: list[Any] = []

    class Hooked(base):  # type: ignore[misc]
        def _on_step(self) -> None:
            calls.append(("_on_step", self.num_timesteps))

        def _update_info_buffer(self, infos: Any, dones: Any = None) -> None:
            calls.append(("_update_info_buffer", plain(infos), plain(dones)))
            super()._update_info_buffer(infos, dones)

        def _store_transition(self, buffer: Any, *args: Any) -> None:
            calls.append(("_store_transition", plain(args)))
            super()._store_transition(buffer, *args)

        def _update_current_progress_remaining(self, *args: Any) -> None:
            super()._update_current_progress_remaining(*args)
            if self.num_timesteps:  # ours is called once more, before the first step
                calls.append(("_update_current_progress_remaining", args))

        def dump_logs(self) -> None:
            calls.append(("dump_logs", self._episode_num))
            super().dump_logs()

        def train(self, gradient_steps: int, batch_size: int = 100) -> None:
            calls.append(("train", gradient_steps, batch_size))
            super().train(gradient_steps, batch_size)

    noise: ActionNoise = NormalActionNoise(np.zeros(1), 0.1 * np.ones(1))
    if n_envs > 1:
        noise = VectorizedActionNoise(noise, n_envs)
    env = wrap(make_vec_env(lambda: gym.make("Pendulum-v1", max_episode_steps=7), n_envs))
    defaults = {"learning_starts": 12, "batch_size": 8, "policy_kwargs": {"net_arch": [8]}, "device": "cpu", "seed": 0}
    model = Hooked("MlpPolicy", env, action_noise=noise, train_freq=train_freq, **defaults, **kwargs)
    callback = Witness(stop_at)
    model.learn(60, callback, log_interval=2, tb_log_name="run")
    return callback.seen, calls, model


@pytest.mark.parametrize("stop_at", [None, 24, 28], ids=["to the end", "stopped", "stopped at an episode's end"])
@pytest.mark.parametrize(
    ("n_envs", "train_freq"),
    [(1, 1), (1, 5), (1, (1, "episode")), (1, (2, "episode")), (4, 1), (4, 3)],
    ids=lambda value: str(value),
)
@pytest.mark.parametrize("wrap", [lambda env: env, VecNormalize], ids=["plain", "VecNormalize"])
def test_all_is_as_with_sb3(n_envs: int, train_freq: Any, wrap: Callable[[Any], Any], stop_at: int | None) -> None:
    theirs, their_calls, their_model = run(DDPG, n_envs, wrap, stop_at, train_freq)
    ours, our_calls, our_model = run(CustomDDPG, n_envs, wrap, stop_at, train_freq, fused=False)
    assert ours == theirs
    assert our_calls == their_calls
    assert our_model._last_obs.tolist() == their_model._last_obs.tolist()
    # In closed form the numbers differ by rounding, but not what is called
    fast, fast_calls, _ = run(CustomDDPG, n_envs, wrap, stop_at, train_freq, fused=True)
    assert [each[:2] for each in fast if each[0] != "noise.reset"] == [
        each[:2] for each in theirs if each[0] != "noise.reset"
    ]
    assert [call[0] for call in fast_calls] == [call[0] for call in their_calls]


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_actions_with_noise_are_sb3s(n_envs: int, dtype: Any) -> None:
    """In value, type and shape: noise is added to the scaled action, which is then clipped and scaled back."""
    env = make_vec_env("Pendulum-v1", n_envs)
    for std in (0.0, 0.3, 5.0):
        noise: ActionNoise = NormalActionNoise(np.zeros(1), std * np.ones(1), dtype=dtype)
        if n_envs > 1:
            noise = VectorizedActionNoise(noise, n_envs)
        sampled = []
        for cls, kwargs in ((DDPG, {}), (CustomDDPG, {"fused": True})):
            model = cls("MlpPolicy", env, seed=0, device="cpu", policy_kwargs={"net_arch": [16]}, **kwargs)
            model._setup_learn(1)
            mtrand.seed(0)
            sampled.append([model._sample_action(0, each, n_envs) for each in (noise, noise, None)])
        for theirs, ours in zip(*sampled, strict=True):
            for expected, got in zip(theirs, ours, strict=True):
                assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
                np.testing.assert_allclose(got, expected, atol=2e-6)
        kept = sampled[1][0][0]
        assert not any(kept is other for pair in sampled[1][1:] for other in pair)
        assert std < 1 or np.abs(sampled[1][0][1]).max() == 1


@pytest.mark.parametrize("with_noise", [True, False])
def test_an_action_that_is_not_a_number_stays_none(with_noise: bool) -> None:
    """Clipping must not hide weights that have diverged."""
    model = CustomDDPG("MlpPolicy", "Pendulum-v1", seed=0, device="cpu", policy_kwargs={"net_arch": [16]}, fused=True)
    model._setup_learn(1)
    with th.no_grad():
        model.actor.mu[0].weight.fill_(np.nan)
    noise = NormalActionNoise(np.zeros(1), np.ones(1)) if with_noise else None
    actions, scaled_actions = model._sample_action(0, noise, 1)
    assert np.isnan(actions).all()
    assert np.isnan(scaled_actions).all()


def test_an_environment_that_is_not_vectorized_is_refused_as_in_sb3() -> None:
    for cls in (DDPG, CustomDDPG):
        model = cls("MlpPolicy", "Pendulum-v1", learning_starts=0, policy_kwargs={"net_arch": [8]})
        _, callback = model._setup_learn(1)
        with pytest.raises(AssertionError, match="You must pass a VecEnv"):
            model.collect_rollouts(gym.make("Pendulum-v1"), callback, model.train_freq, model.replay_buffer)


@pytest.mark.parametrize("where", ["class", "object"])
def test_a_policy_that_sets_its_mode_itself_is_asked_at_each_rollout(where: str) -> None:
    modes: list[bool] = []

    class Own(MlpPolicy):
        def set_training_mode(self, mode: bool) -> None:
            modes.append(mode)

    policy = Own if where == "class" else MlpPolicy
    model = CustomDDPG(policy, "Pendulum-v1", learning_starts=0, batch_size=4, policy_kwargs={"net_arch": [8]})
    if where == "object":
        model.policy.set_training_mode = modes.append  # type: ignore[method-assign]
    modes.clear()
    model.learn(20)
    assert model._fast_path.why_autograd is None
    assert modes == [False] * 20
