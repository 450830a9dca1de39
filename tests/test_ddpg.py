"""CustomDDPG as an SB3 algorithm: its signature, and everything that SB3's users combine it with."""

import inspect
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib.common.wrappers import TimeFeatureWrapper
from stable_baselines3 import DDPG, TD3, HerReplayBuffer
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CheckpointCallback,
    EvalCallback,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv, FakeImageEnv
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.utils import LinearSchedule, set_random_seed
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv, VecFrameStack, VecNormalize
from stable_baselines3.td3.policies import TD3Policy
from torch import nn

import sb3_ddpg_ext
from sb3_ddpg_ext import CustomDDPG, GaussianNoise, PrioritizedReplayBuffer, ScheduledNoise

SMALL: dict[str, Any] = {
    "learning_starts": 20,
    "batch_size": 8,
    "buffer_size": 500,
    "policy_kwargs": {"net_arch": [8]},
    "seed": 0,
}


def small(env: Any = "Pendulum-v1", policy: Any = "MlpPolicy", **kwargs: Any) -> CustomDDPG:
    return CustomDDPG(policy, env, **{**SMALL, **kwargs})


# --- The constructor ---


def test_signature_is_sb3s() -> None:
    theirs = inspect.signature(DDPG.__init__).parameters
    ours = inspect.signature(CustomDDPG.__init__).parameters
    assert list(ours)[: len(theirs)] == list(theirs)
    differing = {name for name in theirs if ours[name].default != theirs[name].default}
    assert differing == {"action_noise"}
    assert ours["action_noise"].default == "ou"
    extras = list(ours)[len(theirs) :]
    options = ["critic_learning_rate", "qf_learning_rate", "max_grad_norm", "huber_delta", "pre_activation_coef"]
    assert extras == ["stats_window_size", "fused", *options, "target_policy_noise", "target_noise_clip"]
    assert all(ours[name].kind is inspect.Parameter.KEYWORD_ONLY for name in extras)


@pytest.mark.parametrize("method", ["learn", "train", "predict", "save", "load", "set_parameters"])
def test_signatures_of_methods_are_sb3s(method: str) -> None:
    theirs = inspect.signature(getattr(DDPG, method)).parameters
    ours = inspect.signature(getattr(CustomDDPG, method)).parameters
    ours_only = ["trusted"] if method in ("load", "set_parameters") else []
    assert [name for name in ours if name not in ours_only] == list(theirs)
    assert {n for n in theirs if ours[n].default != theirs[n].default} <= {"tb_log_name"}


def test_stats_window_size() -> None:
    model = small(stats_window_size=1).learn(410)
    assert model.ep_info_buffer is not None
    assert model.ep_info_buffer.maxlen == 1


@pytest.mark.parametrize(
    ("policy", "env"),
    [
        ("MlpPolicy", "Pendulum-v1"),
        ("CnnPolicy", FakeImageEnv(screen_height=36, screen_width=36, discrete=False)),
        ("MultiInputPolicy", BitFlippingEnv(n_bits=2, continuous=True)),
        (TD3Policy, "Pendulum-v1"),
    ],
)
def test_one_critic_by_default(policy: Any, env: Any, tmp_path: Path) -> None:
    policy_kwargs = {"net_arch": [8]}
    model = CustomDDPG(policy, env, buffer_size=10, policy_kwargs=policy_kwargs)
    assert model.critic.n_critics == 1
    assert model.policy_kwargs is policy_kwargs
    assert policy_kwargs == {"net_arch": [8]}
    model.save(tmp_path / "model")
    # SB3's DDPG writes n_critics into the caller's dict, so that this comparison fails there
    loaded = CustomDDPG.load(tmp_path / "model", policy_kwargs={"net_arch": [8]})
    assert loaded.critic.n_critics == 1


def test_a_policy_saved_alone_loads_alone(tmp_path: Path) -> None:
    model = small()
    model.policy.save(tmp_path / "policy.zip")
    loaded = type(model.policy).load(tmp_path / "policy.zip")
    observation = np.array([[1.0, 0.0, 0.1]], dtype=np.float32)
    assert np.array_equal(loaded.predict(observation)[0], model.predict(observation)[0])


# --- What is refused, and how ---


def test_discrete_actions_are_refused_as_sb3_refuses_them() -> None:
    with pytest.raises(AssertionError) as theirs:
        DDPG("MlpPolicy", "CartPole-v1")
    with pytest.raises(AssertionError) as ours:
        CustomDDPG("MlpPolicy", "CartPole-v1")
    assert str(ours.value) == str(theirs.value)
    assert "only supports" in str(ours.value)


def test_infinite_bounds_are_refused() -> None:
    class Unbounded(gym.Wrapper):
        action_space = spaces.Box(-np.inf, np.inf, (1,))

    with pytest.raises(AssertionError, match="finite lower and upper bound"):
        CustomDDPG("MlpPolicy", Unbounded(gym.make("Pendulum-v1")))


class OtherActions(gym.Wrapper):
    def __init__(self, space: spaces.Box) -> None:
        super().__init__(gym.make("Pendulum-v1"))
        self.action_space = space


@pytest.mark.parametrize(
    ("space", "reason"),
    [
        (spaces.Box(-2, 2, (1,), np.int64), "its numbers are integers"),
        (spaces.Box(0, 255, (1,), np.uint8), "its numbers are integers"),
        (spaces.Box(np.float32([-1, 0.5]), np.float32([1, 0.5])), "its bounds are equal in component 1"),
        (spaces.Box(1, 1, (2, 2)), "its bounds are equal in component"),
    ],
)
@pytest.mark.parametrize("fused", ["auto", False])
def test_actions_that_leave_no_choice_are_refused(space: spaces.Box, reason: str, fused: Any) -> None:
    with pytest.raises(ValueError, match=reason) as raised:
        small(OtherActions(space), fused=fused)
    assert "\n" not in str(raised.value).replace(str(space), "")


def test_unknown_policy() -> None:
    with pytest.raises(ValueError, match="Policy MlpPolic unknown"):
        CustomDDPG("MlpPolic", "Pendulum-v1")


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # in VecNormalize's statistics
@pytest.mark.parametrize("reward", [np.nan, np.inf])
def test_a_reward_that_is_not_finite_is_named_with_its_step_and_environment(reward: float) -> None:
    class Broken(gym.Wrapper):
        steps = 0

        def step(self, action: Any) -> Any:
            observation, _, terminated, truncated, info = self.env.step(action)
            self.steps += 1
            return observation, (reward if self.steps == 7 else 0.0), terminated, truncated, info

    for wrap in (lambda env: env, VecNormalize):
        env = make_vec_env("Pendulum-v1", n_envs=2)
        env.envs[1] = Broken(env.envs[1])  # type: ignore[attr-defined]
        with pytest.raises(FloatingPointError, match=rf"Environment 1 returned the reward {reward} at step 14"):
            small(wrap(env)).learn(100)


def test_weights_that_diverge_are_named() -> None:
    with pytest.raises(FloatingPointError, match=r"actor's loss at step \d+ is inf: training has diverged"):
        small(learning_rate=1e30, action_noise="normal").learn(100)


# --- The step ---


def test_the_critics_weights_get_no_gradient_in_the_actors_step(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small(fused=False)
    seen = []
    step = model.actor.optimizer.step

    def record(*args: Any) -> Any:
        seen.append([None if p.grad is None else p.grad.clone() for p in model.critic.parameters()])
        return step(*args)

    after_critic = []
    critic_step = model.critic.optimizer.step

    def record_critic(*args: Any) -> Any:
        after_critic.append([p.grad.clone() for p in model.critic.parameters()])
        return critic_step(*args)

    monkeypatch.setattr(model.actor.optimizer, "step", record)
    monkeypatch.setattr(model.critic.optimizer, "step", record_critic)
    model.learn(22)
    assert len(seen) == 2
    for ours, critics in zip(seen, after_critic, strict=True):
        assert all(th.equal(a, b) for a, b in zip(ours, critics, strict=True))


def test_frozen_parameters_stay_as_they_are() -> None:
    model = small()
    frozen = model.actor.mu[0].weight.requires_grad_(False)
    before = frozen.clone()
    moving = model.actor.mu[0].bias.clone()
    model.learn(30)
    assert th.equal(frozen, before)
    assert not th.equal(model.actor.mu[0].bias, moving)


def test_an_actor_that_is_frozen_as_a_whole() -> None:
    model = small()
    for param in model.actor.parameters():
        param.requires_grad_(False)
    before = model.actor.mu[0].weight.clone()
    assert model.learn(30)._n_updates == 10
    assert th.equal(model.actor.mu[0].weight, before)


# --- Options ---

OPTIONS: dict[str, Any] = {
    "critic_learning_rate": LinearSchedule(1e-2, 0, 1),
    "max_grad_norm": 0.1,
    "huber_delta": 0.5,
    "pre_activation_coef": 0.3,
    "target_policy_noise": 1.0,
}


def weights(model: Any) -> th.Tensor:
    return nn.utils.parameters_to_vector(model.policy.parameters()).detach()


@pytest.mark.parametrize("fused", [False, True])
def test_two_critics_and_target_policy_smoothing_are_td3_without_delay(fused: bool) -> None:
    """SB3's TD3 has the two, and delayed updates of the actor."""
    policy_kwargs = {"net_arch": [8], "n_critics": 2}
    noise = NormalActionNoise(np.zeros(1), 0.1 * np.ones(1))
    options = {"target_policy_noise": 0.3, "target_noise_clip": 0.4, "action_noise": noise}
    ours = small(policy_kwargs=policy_kwargs, fused=fused, **options).learn(80)
    kwargs = {**SMALL, "policy_kwargs": policy_kwargs, "policy_delay": 1, **options}
    theirs = TD3("MlpPolicy", "Pendulum-v1", **kwargs).learn(80)
    assert th.allclose(weights(ours), weights(theirs), rtol=0, atol=1e-4 if fused else 0)


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_counts_from_the_next_step_on(name: str) -> None:
    """In closed form as with autograd, also if a callback sets it."""

    class SetIt(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps == 40:
                setattr(self.model, name, OPTIONS[name])
            return True

    def ending(fused: bool, callback: Any, **options: Any) -> th.Tensor:
        return weights(small(fused=fused, learning_rate=5e-3, tau=0.5, **options).learn(80, callback))

    plain, given, set_later = ({}, None), ({name: OPTIONS[name]}, None), ({}, SetIt())
    endings = [ending(True, callback, **options) for options, callback in (plain, given, set_later)]
    for ours, (options, callback) in zip(endings, (plain, given, set_later), strict=True):
        assert th.allclose(ours, ending(False, callback, **options), rtol=0, atol=2e-4)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (endings[one] - endings[other]).abs().max() > 2e-3


def test_noise_on_the_targets_actions_with_another_default_type() -> None:
    def ending(fused: bool) -> th.Tensor:
        model = small(fused=fused, target_policy_noise=0.2).learn(40)
        th.set_default_dtype(th.float64)
        try:
            return weights(model.learn(40))
        finally:
            th.set_default_dtype(th.float32)

    assert th.allclose(ending(True), ending(False), rtol=0, atol=1e-5)


def test_options_are_saved(tmp_path: Path) -> None:
    model = small(**OPTIONS).learn(40)
    model.save(tmp_path / "model")
    loaded = CustomDDPG.load(tmp_path / "model")
    for name in OPTIONS:
        assert str(vars(loaded)[name]) == str(vars(model)[name])
    assert loaded.critic_learning_rate(0.5) == 5e-3


def test_learning_rates_of_actor_and_critic() -> None:
    model = small(learning_rate=LinearSchedule(1e-3, 0, 1), qf_learning_rate=0.1).learn(50)
    rates = [network.optimizer.param_groups[0]["lr"] for network in (model.actor, model.critic)]
    assert rates == pytest.approx([0, 0.1])
    assert model.logger.name_to_value["train/critic_learning_rate"] == 0.1
    assert "train/critic_learning_rate" not in small().learn(50).logger.name_to_value


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_grad_norm": 0}, "max_grad_norm=0: expected a number above 0, or None"),
        ({"huber_delta": float("nan")}, "huber_delta=nan: expected a number above 0, or None"),
        ({"pre_activation_coef": -1}, "pre_activation_coef=-1: expected a number, 0 or more"),
        ({"target_policy_noise": -0.1}, "target_policy_noise=-0.1: expected a number, 0 or more"),
        ({"target_noise_clip": float("inf")}, "target_noise_clip=inf: expected a number, 0 or more"),
        ({"target_policy_noise": None}, "target_policy_noise=None: expected a number, 0 or more"),
        ({"critic_learning_rate": -1e-3}, "critic_learning_rate=-0.001: expected a number, 0 or more, or a function"),
        ({"qf_learning_rate": "lin_1e-3"}, "critic_learning_rate='lin_1e-3': expected a number"),
        ({"n_steps": 0}, "n_steps=0: expected a whole number, 1 or more"),
        ({"n_steps": 2.5}, "n_steps=2.5: expected a whole number"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    """They are refused by a new model and by one that is loaded."""
    with pytest.raises(ValueError, match=message):
        small(**options)
    small().save(tmp_path / "model")
    with pytest.raises(ValueError, match=message):
        CustomDDPG.load(tmp_path / "model", **options)


def test_two_names_of_the_critics_learning_rate(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="are the same: leave one of them out"):
        small(critic_learning_rate=1e-3, qf_learning_rate=1e-3)
    small(critic_learning_rate=1e-3).save(tmp_path / "model")
    model = CustomDDPG.load(tmp_path / "model", gym.make("Pendulum-v1"), qf_learning_rate=1e-5).learn(30)
    assert model.critic.optimizer.param_groups[0]["lr"] == model.critic_learning_rate == 1e-5
    model.qf_learning_rate = 1e-6
    assert model.learn(30).critic.optimizer.param_groups[0]["lr"] == model.qf_learning_rate == 1e-6


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("name", ["max_grad_norm", "huber_delta", "pre_activation_coef", "target_policy_noise"])
def test_an_option_that_a_callback_sets_out_of_range(name: str, fused: bool) -> None:
    model = small(fused=fused).learn(30)
    setattr(model, name, -1.0)
    with pytest.raises(ValueError, match=rf"{name}=-1.0: expected a number"):
        model.learn(30)


def test_n_steps_of_a_model_that_is_loaded(tmp_path: Path) -> None:
    """The buffer is chosen again, since nobody has passed one."""
    small(n_steps=3).save(tmp_path / "model")
    for n_steps, name in ((1, "RowReplayBuffer"), (5, "RowNStepReplayBuffer")):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model = CustomDDPG.load(tmp_path / "model", env=gym.make("Pendulum-v1"), n_steps=n_steps)
        assert type(model.replay_buffer).__name__ == name
        assert getattr(model.replay_buffer, "n_steps", 1) == n_steps
        model.save(tmp_path / "model")
    assert DDPG.load(tmp_path / "model", env=gym.make("Pendulum-v1")).n_steps == 5


def test_schedules_end_at_0() -> None:
    """The last rollout may go past the end of training, where SB3's remaining progress is below 0."""
    env = make_vec_env("Pendulum-v1", 8)
    beta = {"beta": lambda progress: 1 - 0.6 * progress}
    model = small(env, replay_buffer_class=PrioritizedReplayBuffer, replay_buffer_kwargs=beta).learn(100)
    assert model._current_progress_remaining < 0
    assert isinstance(model.replay_buffer, PrioritizedReplayBuffer)
    assert model.replay_buffer.beta == 1
    schedules: dict[str, Any] = {
        "critic_learning_rate": lambda progress: 1e-3 * progress,
        "action_noise": ScheduledNoise("ou", lambda progress: progress),
    }
    model = small(train_freq=64, **schedules).learn(100)
    assert model._current_progress_remaining < 0
    assert model.critic.optimizer.param_groups[0]["lr"] == 0
    assert isinstance(model.action_noise, ScheduledNoise)
    assert model.action_noise.scale == 0


def test_a_penalty_before_tanh_needs_tanh() -> None:
    model = small(pre_activation_coef=1e-3)
    model.actor.mu[-1] = nn.Hardtanh()
    with pytest.raises(ValueError, match="pre_activation_coef needs an actor that ends in Tanh"):
        model.learn(40)


def test_the_penalty_by_hand() -> None:
    model = small(pre_activation_coef=0.5)
    for param in model.actor.mu.parameters():
        param.data.fill_(1.0)
    # Pendulum's three numbers sum up to 0 and to 3: eight units have relu(0 + 1) and relu(3 + 1), z = 8 + 1 and 32 + 1
    observations = th.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    with model._penalties() as penalties:
        model.actor(observations)
    assert [penalty.item() for penalty in penalties] == [pytest.approx(0.5 * (9**2 + 33**2) / 2)]
    model.actor(observations)
    assert len(penalties) == 1


def test_the_penalty_takes_no_forward_pass_of_its_own() -> None:
    """A second one would count twice in the statistics of batch normalisation."""

    def statistics(coef: float) -> nn.BatchNorm1d:
        model = small(pre_activation_coef=coef, learning_rate=0.0)
        for net in (model.actor.mu, model.actor_target.mu):
            net.insert(1, nn.BatchNorm1d(8))
        model.learn(21)
        return model.actor.mu[1]

    without, with_penalty = statistics(0.0), statistics(1e-6)
    assert with_penalty.num_batches_tracked == 1
    assert th.equal(without.running_mean, with_penalty.running_mean)


def test_clipping_leaves_out_gradients_of_weights_that_are_not_optimized() -> None:
    """Nothing sets them to zero, so they would grow, and shorten the others."""
    model = small(max_grad_norm=0.1, fused=False)
    (weight, bias), sgd = model.actor.mu[2].parameters(), th.optim.SGD
    model.actor.optimizer = sgd([weight, bias], lr=1e-3)
    model.learn(60)
    assert th.cat([weight.grad.flatten(), bias.grad]).norm().item() == pytest.approx(0.1, rel=1e-4)


def test_same_seed_same_result_and_another_seed_another() -> None:
    first, second, other = (small(seed=seed).learn(60) for seed in (1, 1, 2))
    observation = np.array([1.0, 0.0, 0.1], dtype=np.float32)
    actions = [model.predict(observation)[0] for model in (first, second, other)]
    assert np.array_equal(actions[0], actions[1])
    assert not np.array_equal(actions[0], actions[2])


# --- Seeds, and noise that goes on ---


def noise_of(model: CustomDDPG) -> np.ndarray:
    return np.stack([model.action_noise() for _ in range(5)])


@pytest.mark.parametrize("noise", ["ou", "normal", "pink", {"type": "ou", "schedule": "linear"}])
@pytest.mark.parametrize("seed_again", [False, True])
def test_without_a_seed_noise_follows_the_global_generator(noise: Any, seed_again: bool) -> None:
    """As SB3's noise does, which draws from it."""

    def explore(seed: int) -> tuple[np.ndarray, np.ndarray]:
        set_random_seed(seed)
        env = gym.make("Pendulum-v1")
        env.reset(seed=0)
        env.action_space.seed(0)
        model = small(env, seed=None, action_noise=noise)
        if seed_again:
            model.learn(30)
            set_random_seed(seed)
            model.env.seed(0)
        model.learn(30)
        return model.replay_buffer.actions[:60].copy(), noise_of(model)

    first, second, other = explore(0), explore(0), explore(1)
    assert all(map(np.array_equal, first, second))
    assert not np.array_equal(first[1], other[1])


def test_noise_of_others_leaves_the_global_generator_alone() -> None:
    model = small(seed=None, action_noise=NormalActionNoise(np.zeros(1), np.ones(1)))
    np.random.seed(0)  # noqa: NPY002
    model._setup_learn(10)
    assert np.random.random() == np.random.RandomState(0).random()  # noqa: NPY002


def test_set_random_seed_begins_the_noise_anew() -> None:
    first, second = small(seed=1).learn(30), small(seed=2).learn(40)
    for model in (first, second):
        model.set_random_seed(7)
    assert np.array_equal(noise_of(first), noise_of(second))
    # And it stays so in the next call of learn()
    for model in (first, second):
        model.set_random_seed(7)
        model._setup_learn(10, reset_num_timesteps=False)
    assert np.array_equal(noise_of(first), noise_of(second))
    assert np.array_equal(noise_of(first.learn(10)), noise_of(second.learn(10)))


@pytest.mark.parametrize("noise", ["ou", "normal", "pink"])
def test_noise_goes_on_in_the_next_call_and_after_loading(noise: str, tmp_path: Path) -> None:
    once = small(action_noise=noise).learn(150)
    twice = small(action_noise=noise).learn(75)
    twice.save(tmp_path / "model")
    loaded = CustomDDPG.load(tmp_path / "model", env=gym.make("Pendulum-v1"))
    twice.learn(75, reset_num_timesteps=False)
    loaded.learn(75, reset_num_timesteps=False)
    expected = noise_of(once)
    assert np.array_equal(noise_of(twice), expected)
    assert np.array_equal(noise_of(loaded), expected)


def test_loading_with_another_seed_is_another_noise(tmp_path: Path) -> None:
    small(seed=1).learn(30).save(tmp_path / "model")
    same, other = (CustomDDPG.load(tmp_path / "model", seed=seed) for seed in (1, 2))
    assert not np.array_equal(noise_of(same), noise_of(other))


class SetNoise(BaseCallback):
    def __init__(self, noise: Any) -> None:
        super().__init__()
        self.noise = noise

    def _on_step(self) -> bool:
        if self.num_timesteps == 60:
            self.model.action_noise = self.noise
        return True


@pytest.mark.parametrize("n_envs", [1, 2])
@pytest.mark.parametrize(
    "noise",
    ["pink", {"type": "normal", "std": 5.0}, GaussianNoise(5.0), NormalActionNoise(np.zeros(1), 5 * np.ones(1)), None],
    ids=["name", "mapping", "process", "SB3's", "none"],
)
def test_noise_that_a_callback_sets_is_that_of_the_next_rollout(noise: Any, n_envs: int) -> None:
    model = small(make_vec_env("Pendulum-v1", n_envs=n_envs), action_noise=None if noise == "pink" else "normal")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "action_noise=None")
        model.learn(500, callback=SetNoise(noise))  # past the end of an episode, which resets it
    saturated = np.mean(np.abs(model.replay_buffer.actions[60 // n_envs : 480 // n_envs]) == 1)
    assert (saturated > 0.5) == (noise not in ("pink", None))
    assert (model.action_noise is None) == (noise is None)
    if noise is not None:
        assert model.action_noise().shape == (
            (1,) if n_envs == 1 and isinstance(noise, NormalActionNoise) else (n_envs, 1)
        )


def test_a_change_of_std_counts_at_the_next_step() -> None:
    class Weaken(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps == 60:
                self.model.action_noise.process.std = 0.0
            return True

    model = small(action_noise={"type": "ou", "std": 5.0}, gradient_steps=0).learn(100, callback=Weaken())
    actions = model.replay_buffer.actions[:100, 0, 0]
    assert np.mean(np.abs(actions[20:60]) == 1) > 0.5
    assert np.max(np.abs(np.diff(actions[60:]))) < 0.1  # what the actor says, step by step


# --- Environments of all kinds ---


class Native(VecEnv):
    """A vectorized environment that is none of SB3's: no list of environments, no `spec`, no attributes to ask for."""

    def __init__(self) -> None:
        super().__init__(2, spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (1,)))

    def reset(self) -> Any:
        return np.zeros((2, 3), dtype=np.float32)

    def step_async(self, actions: np.ndarray) -> None:
        pass

    def step_wait(self) -> Any:
        return np.zeros((2, 3), dtype=np.float32), np.zeros(2), np.zeros(2, dtype=bool), [{}, {}]

    def close(self) -> None:
        pass

    def get_attr(self, attr_name: str, indices: Any = None) -> Any:
        if attr_name == "render_mode":
            return [None, None]
        raise NotImplementedError(attr_name)

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise NotImplementedError

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> Any:
        raise NotImplementedError

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False, False]


@pytest.mark.parametrize("noise", ["pink", "ou"])
def test_a_native_vectorized_environment(noise: str) -> None:
    model = small(Native(), action_noise=noise).learn(60)
    assert model._n_updates == 20
    if noise == "pink":
        assert model.action_noise.process.horizon is None


def unpicklable() -> gym.Env:
    env = gym.make("Pendulum-v1", max_episode_steps=70)
    env.unwrapped.spec.additional_wrappers = (lambda: None,)
    return env


def test_a_spec_that_cannot_be_sent_by_a_subprocess() -> None:
    env = SubprocVecEnv([unpicklable, unpicklable])
    model = small(env, action_noise="pink").learn(60)
    env.close()
    assert model._n_updates == 20
    assert model.action_noise.process.horizon == 70


def test_log_keys_are_sb3s() -> None:
    def keys(algorithm: Any, **kwargs: Any) -> set[str]:
        model = algorithm("MlpPolicy", "Pendulum-v1", **{**SMALL, "policy_kwargs": {"net_arch": [8]}}, **kwargs)
        model.learn(210, log_interval=1_000)
        return set(model.logger.name_to_value)

    assert keys(CustomDDPG) == keys(DDPG)
    assert "train/critic_loss" in keys(CustomDDPG)


# --- What SB3's users combine ---


@pytest.mark.parametrize(("n_envs", "gradient_steps", "updates"), [(1, 1, 40), (4, -1, 40), (4, 1, 10), (1, 0, 0)])
def test_updates_per_step(n_envs: int, gradient_steps: int, updates: int) -> None:
    model = small(make_vec_env("Pendulum-v1", n_envs=n_envs), gradient_steps=gradient_steps)
    assert model.learn(60)._n_updates == updates


def test_subprocesses() -> None:
    env = make_vec_env("Pendulum-v1", n_envs=2, vec_env_cls=SubprocVecEnv)
    model = small(env, gradient_steps=-1).learn(60)
    env.close()
    assert model._n_updates == 40


def test_vec_normalize_frame_stack_and_time_feature() -> None:
    env = make_vec_env("Pendulum-v1", n_envs=2, wrapper_class=TimeFeatureWrapper)
    model = small(VecNormalize(VecFrameStack(env, 2)), gradient_steps=-1).learn(60)
    assert model.observation_space.shape == (8,)
    assert model._n_updates == 40


@pytest.mark.filterwarnings("ignore:The last trajectory in the replay buffer will be truncated")
def test_her_learns_on_after_its_buffer_is_loaded(tmp_path: Path) -> None:
    env = BitFlippingEnv(n_bits=3, continuous=True)
    kwargs = {"policy": "MultiInputPolicy", "replay_buffer_class": HerReplayBuffer, "learning_starts": 50}
    model = small(env, **kwargs).learn(80)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    loaded = CustomDDPG.load(tmp_path / "model", env=env)
    loaded.load_replay_buffer(tmp_path / "buffer")
    updates = loaded._n_updates
    loaded.learn(20, reset_num_timesteps=False)
    assert loaded.num_timesteps == 100
    assert loaded._n_updates == updates + 20


def test_images_with_channels_last() -> None:
    env = FakeImageEnv(screen_height=36, screen_width=40, channel_first=False, discrete=False)
    model = small(env, policy="CnnPolicy", buffer_size=40, batch_size=4).learn(24)
    assert model.observation_space.shape == (1, 36, 40)


class Extractor(BaseFeaturesExtractor):
    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, features_dim=5)
        self.net = nn.Linear(3, 5)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.net(observations)


@pytest.mark.parametrize("share", [False, True])
def test_custom_extractor(share: bool) -> None:
    kwargs = {"net_arch": [8], "features_extractor_class": Extractor, "share_features_extractor": share}
    model = small(policy_kwargs=kwargs).learn(40)
    assert (model.actor.features_extractor is model.critic.features_extractor) is share


def test_action_bounds_other_than_one() -> None:
    model = small(gym.make("Pendulum-v1")).learn(60)  # bounds of +-2
    actions, _ = model.predict(np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32))
    assert actions.shape == (50, 1)
    assert np.abs(actions).max() <= 2
    assert model.replay_buffer is not None
    assert np.abs(model.replay_buffer.actions[:60]).max() <= 1


def test_predict_on_one_and_on_many() -> None:
    model = small()
    observations = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    many, state = model.predict(observations, deterministic=True)
    one, _ = model.predict(observations[1])
    assert state is None
    assert many.shape == (4, 1)
    assert one.shape == (1,)
    np.testing.assert_allclose(one, many[1], rtol=1e-5)


def test_callbacks(tmp_path: Path) -> None:
    evaluation = EvalCallback(
        make_vec_env("Pendulum-v1"),
        callback_on_new_best=StopTrainingOnRewardThreshold(-1e5, verbose=0),
        eval_freq=50,
        n_eval_episodes=1,
        log_path=str(tmp_path),
        best_model_save_path=str(tmp_path),
        verbose=0,
    )
    checkpoints = CheckpointCallback(40, str(tmp_path), save_replay_buffer=True)
    model = small().learn(100, callback=[evaluation, checkpoints])
    assert model.num_timesteps == 50
    assert {"evaluations.npz", "best_model.zip", "rl_model_40_steps.zip"} <= {p.name for p in tmp_path.iterdir()}
    assert np.isfinite(evaluate_policy(CustomDDPG.load(tmp_path / "best_model"), model.get_env(), 1)[0])


def test_callback_that_stops_after_an_episode() -> None:
    assert small().learn(500, callback=StopTrainingOnMaxEpisodes(1)).num_timesteps == 200


@pytest.mark.filterwarnings("ignore::tqdm.TqdmExperimentalWarning")
def test_progress_bar(capsys: pytest.CaptureFixture[str]) -> None:
    small().learn(30, progress_bar=True)
    assert "30/30" in capsys.readouterr().out


def test_tensorboard(tmp_path: Path) -> None:
    small(tensorboard_log=str(tmp_path)).learn(30)
    assert list(tmp_path.glob("CustomDDPG_1/events*"))


def test_save_load_set_parameters_and_learn_on(tmp_path: Path) -> None:
    model = small().learn(40)
    model.save(tmp_path / "model")
    loaded = CustomDDPG.load(tmp_path / "model", env=gym.make("Pendulum-v1"))
    observation = np.array([1.0, 0.0, 0.1], dtype=np.float32)
    assert np.array_equal(loaded.predict(observation)[0], model.predict(observation)[0])
    loaded.learn(30, reset_num_timesteps=False)
    assert loaded.num_timesteps == 70
    assert loaded._n_updates == 20 + 30
    loaded.set_parameters(tmp_path / "model.zip")
    assert np.array_equal(loaded.predict(observation)[0], model.predict(observation)[0])
    assert "_running_stats" not in CustomDDPG.load(tmp_path / "model").get_parameters()


def test_load_takes_another_noise(tmp_path: Path) -> None:
    small().save(tmp_path / "model")
    loaded = CustomDDPG.load(tmp_path / "model", env=gym.make("Pendulum-v1"), action_noise="normal")
    assert "GaussianNoise" in repr(loaded.action_noise)
    loaded.learn(30)


@pytest.mark.skipif(not th.cuda.is_available(), reason="needs a CUDA device")
def test_cuda() -> None:
    assert small(device="cuda").learn(60)._n_updates == 40


def test_the_public_names_exist() -> None:
    assert all(hasattr(sb3_ddpg_ext, name) for name in sb3_ddpg_ext.__all__)


def test_it_learns_pendulum() -> None:
    """A small network reaches -250 in half a minute; a policy that does nothing is at about -1,200."""
    model = CustomDDPG(
        "MlpPolicy",
        "Pendulum-v1",
        learning_starts=500,
        gamma=0.98,
        batch_size=64,
        action_noise="normal",
        policy_kwargs={"net_arch": [64, 64]},
        seed=0,
    ).learn(8_000)
    env = make_vec_env("Pendulum-v1", seed=1_000)
    mean, _ = evaluate_policy(model, env, n_eval_episodes=20)
    assert mean > -250
