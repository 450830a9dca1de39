"""Prioritized replay: the sum tree against a cumulative sum, sampling, weights and priorities by hand."""

import copy
import pickle
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.utils import ConstantSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_ddpg_ext import CustomDDPG, PrioritizedReplayBuffer
from sb3_ddpg_ext.prioritized import SumTree

# --- The sum tree ---

SIZES = st.sampled_from([1, 2, 3, 7, 100, 4_096, 4_097, 9_000, 20_000])  # the last ones have more leaves than blocks


@given(n=SIZES, seed=st.integers(0, 2**32 - 1), largest=st.sampled_from([1, 3, 1_000]), n_changes=st.integers(0, 4))
@settings(max_examples=60, deadline=None)
def test_a_sum_tree_finds_what_a_cumulative_sum_finds(n: int, seed: int, largest: int, n_changes: int) -> None:
    """Of whole numbers, whose sums are exact: at all borders, too, where many are 0."""
    rng = np.random.default_rng(seed)
    expected, tree = np.zeros(n), SumTree(n)
    for i in range(n_changes + 1):
        changed = rng.integers(0, n, n if i == 0 else 5)
        expected[changed] = values = rng.integers(0, largest + 1, n)[changed]
        tree.set(changed, values)
        expected[-1] = 1  # so that there is a sum
        tree.set(np.array([n - 1]), 1.0)
        sums = np.cumsum(expected)
        assert tree.total() == sums[-1]
        borders = np.unique([0, *sums[:-1][rng.integers(0, n, 50) % max(n - 1, 1)]]) if n > 1 else np.zeros(1)
        prefix_sums = np.concatenate((borders, np.nextafter(borders[1:], 0), rng.random(50) * sums[-1]))
        prefix_sums = prefix_sums[prefix_sums < sums[-1]]
        found = tree.find(prefix_sums)
        np.testing.assert_array_equal(found, np.searchsorted(sums, prefix_sums, side="right"))
        assert (expected[found] > 0).all()


@given(n=SIZES, seed=st.integers(0, 2**32 - 1), exponent=st.sampled_from([1, 30, 200]))
@settings(max_examples=60, deadline=None)
def test_zeros_are_never_found_and_sums_do_not_drift(n: int, seed: int, exponent: int) -> None:
    """Of numbers whose sums are rounded, and of very different sizes."""
    rng = np.random.default_rng(seed)
    tree = SumTree(n)
    for _ in range(5):
        changed = rng.integers(0, n, max(n // 2, 1))
        tree.set(changed, 10.0 ** -rng.integers(0, exponent, len(changed)) * (rng.random(len(changed)) < 0.5))
        tree.total()
    tree.set(np.array([0]), 0.1)
    total = tree.total()
    found = tree.find(np.concatenate((rng.random(200) * total, [0.0, total])))
    assert (tree.leaves[found] > 0).all()
    assert found[-2] == 0
    anew = SumTree(n)
    anew.set(np.arange(n), tree.leaves)
    assert anew.total() == total  # to the last bit, however the numbers came about
    np.testing.assert_array_equal(anew._nodes[anew._first_block :], tree._nodes[tree._first_block :])
    np.testing.assert_allclose(total, tree.leaves.sum())


def test_a_zero_is_not_found_where_rounding_leads_to_it() -> None:
    tree, large = SumTree(16_384), 2.0**52 + 2  # four leaves in a block; a number whose next one is larger by 1
    tree.set(np.arange(4), np.array([1.5, 0.0, large, 0.0]))
    assert tree.total() == large + 2  # rounded up
    # What is left of the prefix sum after 1.5 is large - 0.5, rounded to large: as much as there is in the third leaf
    assert tree.find(np.array([large + 1])) == 2


def test_many_changes_without_a_search() -> None:
    tree = SumTree(10_000)
    tree.total()
    for i in range(2_500):
        tree.set(np.array([i]), 1.0)
    assert tree._changed is None or len(tree._changed) <= 1_000  # the list does not grow without an end
    assert tree.total() == 2_500
    assert tree.find(np.array([1_999.5]))[0] == 1_999


# --- The buffer ---

BOX, ACTIONS = spaces.Box(-1, 1, (2,)), spaces.Box(-1, 1, (1,))


def make(size: int, n_envs: int = 1, **kwargs: Any) -> PrioritizedReplayBuffer:
    return PrioritizedReplayBuffer(size * n_envs, BOX, ACTIONS, "cpu", n_envs, **kwargs)


def add(buffer: ReplayBuffer, n: int, reward: float = 0.0, done: bool = False) -> None:
    """As many transitions of each environment."""
    for _ in range(n):
        zeros = np.zeros((buffer.n_envs, 2), dtype=np.float32)
        buffer.add(
            zeros, zeros, zeros[:, :1], zeros[:, 0] + reward, np.array([done] * buffer.n_envs), [{}] * buffer.n_envs
        )


def seeded(buffer: Any, n: int, env: VecNormalize | None = None) -> Any:
    np.random.seed(0)  # noqa: NPY002 (SB3's buffers draw from it)
    return buffer.sample(n, env)


def update(buffer: PrioritizedReplayBuffer, *td_errors: float) -> None:
    """Set the priorities of the first transitions."""
    buffer.update_priorities(np.arange(len(td_errors)), th.tensor(td_errors)[:, None])


def test_weights_by_hand() -> None:
    buffer = make(5, alpha=0.5, beta=1.0, eps=1e-12)
    add(buffer, 2)
    update(buffer, 1.0, 4.0)
    # p^alpha = 1 and 2, P = 1/3 and 2/3. Three ranges of equal probability: the first one is the first transition's
    samples = seeded(buffer, 3)
    assert samples.indices.tolist() == [0, 1, 1]
    # (2 / 3)^-1 = 3/2 and (4 / 3)^-1 = 3/4, over 3/2
    np.testing.assert_allclose(samples.weights, [[1], [0.5], [0.5]], rtol=1e-6)
    buffer.beta_schedule = ConstantSchedule(0.5)
    buffer.update_beta(1.0)
    np.testing.assert_allclose(seeded(buffer, 3).weights[1], [0.5**0.5], rtol=1e-6)
    assert samples.weights.dtype == th.float32


def test_new_transitions_get_the_largest_priority_also_where_the_buffer_begins_again() -> None:
    buffer = make(3, n_envs=2, alpha=1.0, eps=0.5)
    add(buffer, 2)
    np.testing.assert_array_equal(buffer.scaled_priorities, [[1, 1], [1, 1], [0, 0]])
    update(buffer, 0.0, 2.5, 0.25)  # transitions of the environments by turns
    np.testing.assert_array_equal(buffer.scaled_priorities, [[0.5, 3], [0.75, 1], [0, 0]])
    add(buffer, 2)
    np.testing.assert_array_equal(buffer.scaled_priorities, [[3, 3], [0.75, 1], [3, 3]])
    update(buffer, 0.0, 0.0)  # a priority that has been larger counts
    add(buffer, 1)
    np.testing.assert_array_equal(buffer.scaled_priorities, [[0.5, 0.5], [3, 3], [3, 3]])
    buffer.reset()
    add(buffer, 1)
    np.testing.assert_array_equal(buffer.scaled_priorities, [[1, 1], [0, 0], [0, 0]])
    assert set(seeded(buffer, 20).indices) == {0, 1}


@pytest.mark.parametrize(("n_add", "n_envs"), [(5, 1), (12, 1), (5, 3), (30, 3)])
@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
def test_how_often_transitions_are_sampled(n_add: int, n_envs: int, alpha: float) -> None:
    buffer = make(10, n_envs, alpha=alpha)
    add(buffer, n_add)
    n = min(n_add, 10) * n_envs
    errors = np.random.default_rng(0).random(n)
    update(buffer, *errors.tolist())
    powers = (errors.astype(np.float32) + 1e-6) ** alpha
    expected = powers / powers.sum()
    n_draws = 400 * n
    np.random.seed(0)  # noqa: NPY002
    drawn = np.concatenate([buffer.sample(1).indices for _ in range(n_draws)])  # no strata, but independent
    counts = np.bincount(drawn, minlength=n)
    chi_square = ((counts - n_draws * expected) ** 2 / (n_draws * expected)).sum()
    assert chi_square < n + 4 * np.sqrt(2 * n)  # its mean is n - 1, its variance 2 (n - 1)
    # In one stratified minibatch, each is there as often as expected, but for the two ranges that it shares with others
    counts = np.bincount(seeded(buffer, n_draws).indices, minlength=n)
    assert np.abs(counts - n_draws * expected).max() < 2
    if alpha == 0:
        assert (seeded(buffer, 20).weights == 1).all()


@given(
    n_add=st.integers(1, 30),
    n_envs=st.integers(1, 3),
    n_steps=st.sampled_from([1, 2, 5]),
    normalized=st.booleans(),
    handle=st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_samples_are_sb3s_of_the_same_transitions(
    n_add: int, n_envs: int, n_steps: int, normalized: bool, handle: bool
) -> None:
    ours = make(12, n_envs, n_steps=n_steps, gamma=0.9, handle_timeout_termination=handle)
    theirs = [
        NStepReplayBuffer(12, BOX, ACTIONS, "cpu", n_steps=n_steps, gamma=0.9, handle_timeout_termination=handle)
        for _ in range(n_envs)
    ]
    rng = np.random.default_rng(0)
    for _ in range(n_add):
        obs, next_obs = rng.normal(size=(2, n_envs, 2)).astype(np.float32)
        action, reward = rng.normal(size=(n_envs, 1)).astype(np.float32), rng.normal(size=n_envs)
        done = rng.random(n_envs) < 0.3
        infos = [{"TimeLimit.truncated": bool(d and rng.random() < 0.5)} for d in done]
        ours.add(obs, next_obs, action, reward, done, infos)
        for i, buffer in enumerate(theirs):
            buffer.add(*(x[i : i + 1] for x in (obs, next_obs, action, reward, done)), infos[i : i + 1])
    update(ours, *rng.random(ours.size() * n_envs).tolist())
    env = normalizing() if normalized else None
    samples = seeded(ours, 20, env)
    for i, index in enumerate(samples.indices.tolist()):
        position, env_index = divmod(index, n_envs)
        expected = theirs[env_index]._get_samples(np.array([position]), env)
        for ours_of_all, theirs_of_one in zip(samples[:5], expected[:5], strict=True):
            np.testing.assert_allclose(ours_of_all[i : i + 1], theirs_of_one, rtol=1e-6)
        if n_steps == 1:
            assert samples.discounts is None
        else:
            np.testing.assert_array_equal(samples.discounts[i : i + 1], expected.discounts)


def normalizing() -> VecNormalize:
    env = VecNormalize(DummyVecEnv([Simple]), clip_obs=1.5, clip_reward=0.5)
    env.obs_rms.mean += 0.5  # type: ignore[union-attr]
    return env


class Simple(gym.Env[np.ndarray, np.ndarray]):
    """An environment for such transitions, in which nothing is done."""

    observation_space, action_space = BOX, ACTIONS


def test_copies_and_pickles_go_on() -> None:
    def original() -> PrioritizedReplayBuffer:
        buffer = make(10)
        add(buffer, 8)
        update(buffer, *range(8))
        return buffer

    for other in (copy.deepcopy(original()), pickle.loads(pickle.dumps(original()))):
        expected = original()
        for each in (other, expected):
            add(each, 4)
            update(each, 3.0)
        np.testing.assert_array_equal(other.scaled_priorities, expected.scaled_priorities)
        assert seeded(other, 20).indices.tolist() == seeded(expected, 20).indices.tolist()
    assert len(pickle.dumps(original())) < 3_000  # without the sums


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"alpha": 1.5}, r"alpha must be from 0 \(uniform sampling\) to 1, got 1.5"),
        ({"alpha": float("nan")}, "alpha must be"),
        ({"beta": -0.1}, "beta must be from 0 to 1, got -0.1"),
        ({"beta": ConstantSchedule(2)}, "beta must be from 0 to 1, got 2.0 at the remaining progress 1"),
        ({"eps": 0.0}, "eps must be positive"),
        ({"optimize_memory_usage": True}, "optimize_memory_usage=True is not possible with PrioritizedReplayBuffer"),
    ],
)
def test_arguments_are_checked(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(10, **kwargs)


def test_what_cannot_be_sampled_is_said() -> None:
    buffer = make(10)
    with pytest.raises(ValueError, match="has no transitions with a priority"):
        buffer.sample(1)
    add(buffer, 1)
    buffer.rewards = buffer.rewards.copy()
    with pytest.raises(ValueError, match=r"change them in place: buffer.rewards\[:\] = x"):
        buffer.sample(1)


@pytest.mark.parametrize(
    ("policy", "space"),
    [("MultiInputPolicy", spaces.Dict({"a": BOX})), ("CnnPolicy", spaces.Box(0, 255, (3, 36, 36), np.uint8))],
)
def test_observations_that_it_does_not_store(policy: str, space: Any) -> None:
    env = make_vec_env("Pendulum-v1")
    env.observation_space = space
    with pytest.raises(
        ValueError, match=r"^PrioritizedReplayBuffer cannot store this: the observations are (Dict|Box)"
    ):
        CustomDDPG(policy, env, replay_buffer_class=PrioritizedReplayBuffer)


# --- Training ---


def small(env: Any = "Pendulum-v1", **kwargs: Any) -> CustomDDPG:
    arguments: dict[str, Any] = {
        "replay_buffer_class": PrioritizedReplayBuffer,
        "buffer_size": 200,
        "learning_starts": 20,
        "batch_size": 8,
        "policy_kwargs": {"net_arch": [8]},
        "seed": 0,
        "device": "cpu",
        **kwargs,
    }
    return CustomDDPG("MlpPolicy", env, **arguments)


def constant_model(*q_values: float, target: float, fused: bool = False, **kwargs: Any) -> CustomDDPG:
    """A model whose critic's networks return these numbers for everything, and whose target network another one."""
    policy_kwargs = {"net_arch": [], "n_critics": len(q_values)}
    model = small(Simple(), gamma=0.5, fused=fused, policy_kwargs=policy_kwargs, replay_buffer_kwargs=kwargs)
    for parameter in (*model.critic.parameters(), *model.critic_target.parameters()):
        th.nn.init.zeros_(parameter)
    for network, value in zip(model.critic.q_networks, q_values, strict=True):
        th.nn.init.constant_(network[-1].bias, value)  # type: ignore[arg-type]
    for network in model.critic_target.q_networks:
        th.nn.init.constant_(network[-1].bias, target)  # type: ignore[arg-type]
    model.set_logger(configure(None, []))
    return model


@pytest.mark.parametrize("fused", [False, True])
def test_priorities_and_loss_of_a_step_by_hand(fused: bool) -> None:
    model = constant_model(2.0, target=1.0, fused=fused, alpha=1.0, beta=1.0, eps=0.25)
    buffer: Any = model.replay_buffer
    add(buffer, 1, reward=3)  # y = 3 + 0.5 * 1 = 3.5, a TD error of 1.5
    add(buffer, 1, reward=-2, done=True)  # y = -2, a TD error of 4
    update(buffer, 0.75, 2.75)  # priorities of 1 and 3: of four transitions the second one makes three
    model.train(1, batch_size=4)
    np.testing.assert_allclose(buffer.scaled_priorities[:3, 0], [1.75, 4.25, 0])
    # Weights of 1 and 1/3: (1 * 1.5^2 + 3 * 1/3 * 4^2) / 4
    np.testing.assert_allclose(model.logger.name_to_value["train/critic_loss"], (2.25 + 16) / 4)


def test_the_gradient_is_that_of_the_weighted_loss() -> None:
    """The critic's bias moves with its gradient, which SGD shows: 2 * mean of w (Q - y)."""
    model = constant_model(2.0, target=1.0, alpha=1.0, beta=1.0, eps=0.25)
    model.critic.optimizer = th.optim.SGD(model.critic.parameters(), lr=1.0)
    model.learning_rate, model.lr_schedule = 1.0, ConstantSchedule(1.0)
    add(model.replay_buffer, 1, reward=3)  # type: ignore[arg-type]
    add(model.replay_buffer, 1, reward=-2, done=True)  # type: ignore[arg-type]
    update(model.replay_buffer, 0.75, 2.75)  # type: ignore[arg-type]
    model.train(1, batch_size=4)
    # (1 * (2 - 3.5) + 3 * 1/3 * (2 + 2)) / 4 = 0.625
    np.testing.assert_allclose(model.critic.q_networks[0][-1].bias.item(), 2 - 2 * 0.625, rtol=1e-6)  # type: ignore[union-attr, operator]


@pytest.mark.parametrize("fused", [False, True])
def test_several_critics_errors_are_averaged(fused: bool) -> None:
    model = constant_model(2.0, 4.5, target=1.0, fused=fused, alpha=1.0, eps=0.25)
    add(model.replay_buffer, 1, reward=3)  # type: ignore[arg-type]
    model.train(1, batch_size=4)
    np.testing.assert_allclose(vars(model.replay_buffer)["scaled_priorities"][0], (1.5 + 1.0) / 2 + 0.25)
    np.testing.assert_allclose(model.logger.name_to_value["train/critic_loss"], 1.5**2 + 1.0**2)


def test_td_errors_that_are_not_finite_change_no_priority() -> None:
    buffer = make(5, alpha=1.0, eps=0.5)
    add(buffer, 3)
    update(buffer, float("nan"), 2.0, float("inf"))
    assert buffer.scaled_priorities.T.tolist() == [[1, 2.5, 1, 0, 0]]
    assert buffer.max_priority == 2.5


def test_rare_transitions_with_large_errors_are_sampled_more() -> None:
    model = small(Simple(), gamma=0.0, buffer_size=1_000, batch_size=64, learning_rate=1e-3)
    model.set_logger(configure(None, []))
    buffer: Any = model.replay_buffer
    rng = np.random.default_rng(0)
    for i in range(1_000):
        observation = rng.uniform(-1, 1, (1, 2)).astype(np.float32)
        reward = np.array([10.0 if i % 100 == 0 else 0.0])
        buffer.add(observation, observation, np.zeros((1, 1), np.float32), reward, np.array([True]), [{}])
    share = []
    for _ in range(30):
        model.train(2, batch_size=64)
        share.append(np.mean(seeded(copy.deepcopy(buffer), 64).indices % 100 == 0))
    assert np.mean(share[:1]) < 0.1  # all are new, and 1% are rare
    assert np.mean(share[-5:]) > 0.1


class Betas(BaseCallback):
    """Notes beta after each rollout."""

    def __init__(self) -> None:
        super().__init__()
        self.betas: list[float] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        self.betas.append(self.model.replay_buffer.beta)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("beta", "expected"),
    [
        (0.4, [0.4, 0.55, 0.7, 0.85]),
        (ConstantSchedule(0.4), [0.4] * 4),
        (lambda progress: progress**2, [1, 0.5625, 0.25, 0.0625]),
    ],
)
def test_beta_follows_training(beta: Any, expected: list[float]) -> None:
    callback = Betas()
    small(replay_buffer_kwargs={"beta": beta}, train_freq=50, learning_starts=0).learn(200, callback)
    np.testing.assert_allclose(callback.betas, expected)


@pytest.mark.parametrize("n_steps", [1, 3])
@pytest.mark.parametrize("n_envs", [1, 2])
def test_training(n_steps: int, n_envs: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kwargs = {"alpha": 0.7, "beta": ConstantSchedule(0.5)}
    models = []
    for seed in (0, 0, 1):
        env = VecNormalize(make_vec_env("Pendulum-v1", n_envs, seed=seed))
        model = small(
            env, buffer_size=100 * n_envs, seed=seed, n_steps=n_steps, gamma=0.9, replay_buffer_kwargs=kwargs, verbose=1
        )
        models.append(model.learn(120 * n_envs))
    out = capsys.readouterr().out
    assert "computed in closed form by the compiled kernel" in out
    assert "autograd" not in out
    a, b, c = (th.cat([x.flatten() for x in model.policy.parameters()]) for model in models)
    assert th.equal(a, b)
    assert not th.equal(a, c)
    assert kwargs.keys() == {"alpha", "beta"}  # the user's own
    buffer: Any = models[0].replay_buffer
    assert (buffer.n_steps, buffer.gamma if n_steps > 1 else 0.9, buffer.alpha) == (n_steps, 0.9, 0.7)
    assert len(np.unique(buffer.scaled_priorities)) > 50
    models[0].save(tmp_path / "model")
    loaded = CustomDDPG.load(tmp_path / "model", env=models[0].get_env())
    assert type(loaded.replay_buffer) is PrioritizedReplayBuffer
    assert (loaded.replay_buffer.n_steps, loaded.replay_buffer.alpha, loaded.replay_buffer.beta) == (n_steps, 0.7, 0.5)
    loaded.learn(60)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("n_critics", [1, 2])
@pytest.mark.parametrize("n_steps", [1, 3])
def test_the_closed_form_is_autograd(
    n_critics: int, n_steps: int, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Priorities are the same within rounding, so the same transitions are drawn, and networks end alike."""
    if not compiled:
        monkeypatch.setattr("sb3_ddpg_ext.fused.update.library", lambda: None)
    models = [
        small(
            fused=fused,
            policy_kwargs={"net_arch": [8], "n_critics": n_critics, "activation_fn": th.nn.Tanh},
            n_steps=n_steps,
            gamma=0.9,
        ).learn(120)
        for fused in (True, False)
    ]
    ours, theirs = (th.cat([x.flatten() for x in model.policy.parameters()]) for model in models)
    assert (ours - theirs).norm() < 1e-4 * theirs.norm()
    buffers: Any = [model.replay_buffer for model in models]
    np.testing.assert_allclose(buffers[0].scaled_priorities, buffers[1].scaled_priorities, rtol=1e-3, atol=1e-4)
    assert buffers[0].max_priority == pytest.approx(buffers[1].max_priority, rel=1e-3)


def test_a_buffer_that_is_exchanged(capsys: pytest.CaptureFixture[str]) -> None:
    """Weights count from the next step on, in closed form, and no more after it is exchanged again."""
    models = []
    for fused in (True, False):
        model = small(replay_buffer_class=None, fused=fused, verbose=1).learn(30)
        uniform, model.replay_buffer = model.replay_buffer, small().replay_buffer
        model.learn(60)
        assert len(np.unique(vars(model.replay_buffer)["scaled_priorities"])) > 10
        model.replay_buffer = uniform
        models.append(model.learn(60))
    ours, theirs = (th.cat([x.flatten() for x in model.policy.parameters()]) for model in models)
    assert (ours - theirs).norm() < 1e-4 * theirs.norm()
    assert capsys.readouterr().out.count("computed by autograd: fused=False") == 1


def test_weights_of_another_shape_are_autograds(capsys: pytest.CaptureFixture[str]) -> None:
    model = small(verbose=1)
    buffer: Any = model.replay_buffer
    sample = buffer.sample
    buffer.sample = lambda n, env: (batch := sample(n, env))._replace(
        weights=batch.weights[:1]
    )  # PyTorch broadcasts it
    model.learn(30)
    assert "computed by autograd: samples differ from SB3's" in capsys.readouterr().out
