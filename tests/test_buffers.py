"""Rows are SB3's replay buffer: the same contents, samples, memory and files."""

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
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ddpg_ext import CustomDDPG
from sb3_ddpg_ext.buffers import CompactReplayBuffer, DictNStepReplayBuffer, RowNStepReplayBuffer, RowReplayBuffer

ARRAYS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


def filled(
    n_add: int, n_envs: int, shape: tuple[int, ...], size: int = 12, dtype: Any = np.float32, **kwargs: Any
) -> list[ReplayBuffer]:
    """Both buffers with the same random transitions; n-step ones where `n_steps` is given."""
    classes = (RowNStepReplayBuffer, NStepReplayBuffer) if "n_steps" in kwargs else (RowReplayBuffer, ReplayBuffer)
    observation_space, action_space = spaces.Box(-1, 1, shape, dtype), spaces.Box(-1, 1, (2,), dtype=np.float64)
    buffers = [cls(size * n_envs, observation_space, action_space, "cpu", n_envs, **kwargs) for cls in classes]
    rng = np.random.default_rng(0)
    for _ in range(n_add):
        obs, next_obs = rng.normal(size=(2, n_envs, *shape)).astype(dtype)
        done = rng.random(n_envs) < 0.5
        infos = [{"TimeLimit.truncated": bool(d and rng.random() < 0.5)} for d in done]
        for buffer in buffers:
            buffer.add(
                obs, next_obs, rng.normal(size=(n_envs, 2)) * 0 + obs.sum(), obs.reshape(n_envs, -1)[:, 0], done, infos
            )
    return buffers


def sample(buffer: ReplayBuffer, n: int, env: VecNormalize | None = None) -> list[np.ndarray]:
    np.random.seed(1)  # noqa: NPY002 (SB3's buffers draw from it)
    samples = [np.asarray(x) for x in buffer.sample(n, env) if x is not None]
    return [*samples, np.random.random(1)]  # noqa: NPY002 (and leave it in the same state)


def assert_same(ours: list[np.ndarray], theirs: list[np.ndarray]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert a.tobytes() == b.tobytes()


@given(
    n_add=st.integers(1, 30),
    n_envs=st.integers(1, 3),
    shape=st.sampled_from([(1,), (3,), (2, 2)]),
    n=st.integers(1, 20),
    handle=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_same_contents_and_samples(n_add: int, n_envs: int, shape: tuple[int, ...], n: int, handle: bool) -> None:
    ours, theirs = filled(n_add, n_envs, shape, handle_timeout_termination=handle)
    assert_same([getattr(ours, name) for name in ARRAYS], [getattr(theirs, name) for name in ARRAYS])
    assert_same(sample(ours, n), sample(theirs, n))
    assert sum(getattr(theirs, name).nbytes for name in ARRAYS) == ours._rows.nbytes


@given(
    n_add=st.integers(1, 40),
    n_envs=st.integers(1, 3),
    shape=st.sampled_from([(1,), (3,), (2, 2)]),
    n=st.integers(1, 20),
    n_steps=st.integers(1, 5),
    gamma=st.sampled_from([0.9, 0.99, 1.0]),
    handle=st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_same_n_step_samples(
    n_add: int, n_envs: int, shape: tuple[int, ...], n: int, n_steps: int, gamma: float, handle: bool
) -> None:
    ours, theirs = filled(n_add, n_envs, shape, n_steps=n_steps, gamma=gamma, handle_timeout_termination=handle)
    assert_same(sample(ours, n), sample(theirs, n))
    assert_same(sample(ours, n), sample(theirs, n))  # neither left a mark


def test_rewards_and_dones_may_be_lists_or_numbers() -> None:
    """As somebody passes them who fills a buffer with demonstrations."""
    for n_envs, reward, done in ((2, [1.5, 0.5], [True, False]), (2, (1.5, 0.5), np.array([1, 0])), (1, 1.5, True)):
        ours, theirs = filled(3, n_envs, (3,))
        for buffer in (ours, theirs):
            buffer.add(np.ones((n_envs, 3)), np.ones((n_envs, 3)), np.ones((n_envs, 2)), reward, done, [{}] * n_envs)
        assert_same([getattr(ours, name) for name in ARRAYS], [getattr(theirs, name) for name in ARRAYS])


def as_networks_get_them(samples: list[np.ndarray]) -> list[np.ndarray]:
    """SB3 casts what it has stored when a network is called."""
    return [*(x.astype(np.float32) for x in samples[:-1]), samples[-1]]


@pytest.mark.parametrize("kwargs", [{}, {"n_steps": 3}])
@pytest.mark.parametrize("shape", [(1,), (3,), (2, 2)])
def test_float64_observations_are_what_networks_get_at_half_the_memory(shape: Any, kwargs: dict[str, Any]) -> None:
    ours, theirs = filled(30, 2, shape, dtype=np.float64, **kwargs)
    assert theirs.observations.dtype == np.float64
    assert ours.observations.dtype == np.float32
    assert_same(sample(ours, 20), as_networks_get_them(sample(theirs, 20)))
    assert 2 * ours.observations.nbytes == theirs.observations.nbytes
    assert ours.observation_space.dtype == np.float64


@pytest.mark.parametrize("kwargs", [{}, {"n_steps": 3}])
@pytest.mark.parametrize("n_envs", [1, 2])
def test_samples_are_contiguous(n_envs: int, kwargs: dict[str, Any]) -> None:
    for batch in (buffer.sample(5) for buffer in filled(12, n_envs, (2, 2), **kwargs)):
        assert all(x.is_contiguous() for x in batch if x is not None)


@pytest.mark.parametrize("kwargs", [{}, {"n_steps": 3}])
@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_that_are_assigned_are_what_is_sampled(name: str, kwargs: dict[str, Any]) -> None:
    ours, theirs = filled(12, 2, (3,), **kwargs)
    for buffer in (ours, theirs):
        setattr(buffer, name, 0.5 * getattr(buffer, name))
    assert_same(sample(ours, 9), sample(theirs, 9))
    for buffer in (ours, theirs):  # also where somebody goes on with them, and where new transitions come
        getattr(buffer, name)[:] *= 0.5
        buffer.add(np.ones((2, 3)), np.ones((2, 3)), np.ones((2, 2)), np.ones(2), np.zeros(2), [{}, {}])
    assert_same(sample(ours, 9), sample(theirs, 9))
    restored = pickle.loads(pickle.dumps(ours))
    assert_same(sample(restored, 9), sample(theirs, 9))
    assert not restored.arrays_are_views()


@pytest.mark.parametrize("kwargs", [{}, {"n_steps": 3}])
@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_that_are_edited_in_place_are_what_is_sampled(name: str, kwargs: dict[str, Any]) -> None:
    ours, theirs = filled(12, 2, (3,), **kwargs)
    for buffer in (ours, theirs):
        vars(buffer)[name] *= 0.5
        getattr(buffer, name)[3] = 0.25
    assert ours.arrays_are_views()
    assert_same(sample(ours, 9), sample(theirs, 9))


def test_a_dataset_in_place_of_the_arrays() -> None:
    ours, theirs = filled(5, 1, (3,))
    rng = np.random.default_rng(0)
    for name, shape in zip(ARRAYS, ((30, 1, 3), (30, 1, 3), (30, 1, 2), (30, 1), (30, 1), (30, 1)), strict=True):
        data = rng.random(shape)  # float64, and more of them than the buffer was made for
        for buffer in (ours, theirs):
            setattr(buffer, name, data)
    for buffer in (ours, theirs):
        buffer.buffer_size, buffer.pos, buffer.full = 30, 0, True
    assert_same(sample(ours, 50), sample(theirs, 50))


@pytest.mark.parametrize("kwargs", [{}, {"n_steps": 3}])
def test_samples_stay_what_they_were(kwargs: dict[str, Any]) -> None:
    ours, _ = filled(12, 1, (3,), **kwargs)
    first = ours.sample(4)
    before = [x.numpy().copy() for x in first if x is not None]
    ours.sample(4)
    ours._rows[:] = 0
    assert_same([np.asarray(x) for x in first if x is not None], before)


def test_a_restored_buffer_goes_on() -> None:
    ours, theirs = filled(20, 2, (3,))
    restored = pickle.loads(pickle.dumps(ours))
    assert len(pickle.dumps(ours)) < 1.1 * len(pickle.dumps(theirs)) + 1_000
    for buffer in (restored, theirs):
        buffer.add(np.ones((2, 3)), np.ones((2, 3)), np.ones((2, 2)), np.ones(2), np.ones(2), [{}, {}])
    assert_same(sample(restored, 9), sample(theirs, 9))


@pytest.mark.parametrize("kwargs", [{}, {"n_steps": 3}])
@pytest.mark.parametrize("n_envs", [1, 2])
@pytest.mark.parametrize("only", [{}, {"norm_obs": False}, {"norm_reward": False}])
def test_normalized_samples(n_envs: int, only: dict[str, Any], kwargs: dict[str, Any]) -> None:
    env = VecNormalize(make_vec_env("Pendulum-v1"), clip_reward=0.5, **only)
    if env.norm_obs:
        env.obs_rms.mean += 0.5  # type: ignore[union-attr]
    ours, theirs = filled(12, n_envs, (3,), **kwargs)
    before = ours._rows.copy()
    assert_same(sample(ours, 5, env), sample(theirs, 5, env))
    np.testing.assert_array_equal(ours._rows, before)


@pytest.mark.parametrize(
    "space", [spaces.Discrete(3), spaces.Box(0, 255, (3,), np.uint8), spaces.Box(-1, 1, (3,), np.float16)]
)
def test_other_observations_are_refused(space: Any) -> None:
    with pytest.raises(ValueError, match="use stable_baselines3's ReplayBuffer"):
        RowReplayBuffer(10, space, spaces.Box(-1, 1, (1,)))


class Viewing(BaseFeaturesExtractor):
    """Calls `.view`, which wants contiguous tensors."""

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, features_dim=3)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return observations.view(-1).view(-1, 3)


@pytest.mark.parametrize("kwargs", [{}, {"n_steps": 3}])
def test_an_extractor_that_views_its_observations(kwargs: dict[str, Any]) -> None:
    policy_kwargs = {"features_extractor_class": Viewing, "net_arch": [8]}
    model = CustomDDPG("MlpPolicy", "Pendulum-v1", buffer_size=100, policy_kwargs=policy_kwargs, seed=0, **kwargs)
    assert isinstance(model.replay_buffer, RowReplayBuffer)
    model.learn(120)


def halfcheetah(**kwargs: Any) -> CustomDDPG:
    small = {"buffer_size": 300, "batch_size": 8, "policy_kwargs": {"net_arch": [8]}, "seed": 0, **kwargs}
    return CustomDDPG("MlpPolicy", small.pop("env", "HalfCheetah-v5"), learning_starts=20, **small)


@pytest.mark.parametrize("n_steps", [1, 3])
def test_mujocos_observations_take_rows(n_steps: int) -> None:
    ours, theirs = (halfcheetah(n_steps=n_steps, fused=fused).learn(60) for fused in ("auto", False))
    assert ours.observation_space.dtype == np.float64
    assert isinstance(ours.replay_buffer, RowReplayBuffer)
    for name, value in theirs.policy.state_dict().items():
        np.testing.assert_allclose(ours.policy.state_dict()[name], value, atol=1e-4, err_msg=name)


@pytest.mark.parametrize(("norm_obs", "expected"), [(True, ReplayBuffer), (False, RowReplayBuffer)])
def test_float64_observations_are_normalised_from_what_sb3_stores(
    norm_obs: bool, expected: type, capsys: pytest.CaptureFixture[str]
) -> None:
    def env() -> VecNormalize:
        return VecNormalize(make_vec_env("HalfCheetah-v5", seed=0), norm_obs=norm_obs)

    ours, theirs = (halfcheetah(env=env(), fused=fused, verbose=fused == "auto").learn(40) for fused in ("auto", False))
    assert type(ours.replay_buffer) is expected
    assert ("VecNormalize normalises float64 observations" in capsys.readouterr().out) == norm_obs
    for model in (ours, theirs):  # the same transitions, whatever was learned meanwhile
        model.env = model._vec_normalize_env = theirs.env
    for name in ARRAYS:
        vars(ours.replay_buffer)[name][:] = vars(theirs.replay_buffer)[name]
    a, b = (sample(model.replay_buffer, 9, theirs.env) for model in (ours, theirs))
    assert_same(as_networks_get_them(a), as_networks_get_them(b))


@pytest.mark.parametrize(
    ("kwargs", "expected"),
    [
        ({}, RowReplayBuffer),
        ({"fused": False}, ReplayBuffer),
        ({"replay_buffer_class": ReplayBuffer}, ReplayBuffer),
        ({"n_steps": 3}, RowNStepReplayBuffer),
        ({"n_steps": 3, "fused": False}, NStepReplayBuffer),
    ],
)
def test_which_buffer_the_algorithm_takes(kwargs: dict[str, Any], expected: type, tmp_path: Path) -> None:
    model = CustomDDPG("MlpPolicy", "Pendulum-v1", buffer_size=300, learning_starts=20, seed=0, **kwargs).learn(40)
    assert type(model.replay_buffer) is expected
    model.save_replay_buffer(tmp_path / "buffer")
    model.save(tmp_path / "model")
    model = CustomDDPG.load(tmp_path / "model", env=model.get_env())
    model.load_replay_buffer(tmp_path / "buffer")
    assert type(model.replay_buffer) is expected
    assert getattr(model.replay_buffer, "n_steps", 1) == model.n_steps
    model.learn(20, reset_num_timesteps=False)
    assert model.replay_buffer is not None
    assert model.replay_buffer.pos == 60


# --- Each observation once ---


def filled_compactly(
    n_add: int, n_envs: int, shape: tuple[int, ...], dtype: Any, gaps: float, handle: bool = True, size: int = 12
) -> list[ReplayBuffer]:
    """SB3's usual buffer and a compact one, with transitions that mostly follow each other."""
    low, high = (0, 255) if dtype == np.uint8 else (-1, 1)
    observation_space, action_space = spaces.Box(low, high, shape, dtype), spaces.Box(-1, 1, (2,))
    buffers = [
        cls(size * n_envs, observation_space, action_space, "cpu", n_envs, handle_timeout_termination=handle)
        for cls in (CompactReplayBuffer, ReplayBuffer)
    ]
    rng = np.random.default_rng(0)

    def observations() -> np.ndarray:
        return rng.integers(0, 3, (n_envs, *shape)).astype(dtype)

    obs = observations()
    for _ in range(n_add):
        next_obs, done = observations(), rng.random(n_envs) < 0.3
        infos = [{"TimeLimit.truncated": bool(d and rng.random() < 0.5)} for d in done]
        action, reward = rng.normal(size=(n_envs, 2)), rng.normal(size=n_envs)
        for buffer in buffers:
            buffer.add(obs, next_obs, action, reward, done, infos)
        obs = next_obs.copy()
        begins = done | (rng.random(n_envs) < gaps)  # gaps: somebody adds transitions that do not follow each other
        obs[begins] = observations()[begins]
    return buffers


@given(
    n_add=st.integers(1, 40),
    n_envs=st.integers(1, 3),
    shape=st.sampled_from([(1,), (3,), (2, 2)]),
    dtype=st.sampled_from([np.float32, np.float64, np.uint8]),
    gaps=st.sampled_from([0.0, 0.5]),
    handle=st.booleans(),
    size=st.sampled_from([1, 2, 12]),
)
@settings(max_examples=150, deadline=None)
def test_a_compact_buffer_has_the_same_samples(
    n_add: int, n_envs: int, shape: tuple[int, ...], dtype: Any, gaps: float, handle: bool, size: int
) -> None:
    ours, theirs = filled_compactly(n_add, n_envs, shape, dtype, gaps, handle, size)
    expected = sample(theirs, 50)
    for buffer in (ours, pickle.loads(pickle.dumps(ours))):
        assert_same(sample(buffer, 50), as_networks_get_them(expected) if dtype == np.float64 else expected)
        assert (buffer.pos, buffer.full, buffer.size()) == (theirs.pos, theirs.full, theirs.size())
        assert all(x.is_contiguous() for x in buffer.sample(5) if x is not None)
    # What is kept is what is needed
    needed = int((ours._place >= n_envs).sum())
    assert len(ours._places()) <= max(2 * (needed + n_envs), 2 * n_envs * (size + 1))
    assert len({*ours._free}) == len(ours._free) == len(ours._places()) - n_envs - needed


def test_a_compact_buffer_takes_little_more_than_half() -> None:
    ours, theirs = filled_compactly(3_000, 1, (100,), np.float32, gaps=0.0, size=2_000)
    n_episodes = int(theirs.dones.sum())
    assert n_episodes > 300  # which are short
    bytes_of = [sum(x.nbytes for x in vars(buffer).values() if isinstance(x, np.ndarray)) for buffer in (ours, theirs)]
    assert bytes_of[0] < 0.8 * bytes_of[1]
    long, usual = filled_compactly(20, 1, (100,), np.float32, gaps=0.0, size=20_000)
    bytes_of = [sum(x.nbytes for x in vars(buffer).values() if isinstance(x, np.ndarray)) for buffer in (long, usual)]
    assert bytes_of[0] < 0.53 * bytes_of[1]


@pytest.mark.parametrize("fused", ["auto", False])
@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("n_envs", [1, 2])
def test_training_with_a_compact_buffer_is_the_same(n_envs: int, normalized: bool, fused: Any, tmp_path: Path) -> None:
    trained = []
    for compact in (False, True):
        env = make_vec_env("Pendulum-v1", n_envs, seed=0)
        model = CustomDDPG(
            "MlpPolicy",
            VecNormalize(env) if normalized else env,
            buffer_size=250 * n_envs,  # older transitions are replaced after 250 steps
            batch_size=16,
            policy_kwargs={"net_arch": [8]},
            optimize_memory_usage=compact,
            fused=fused,
            seed=0,
            device="cpu",
        ).learn(450 * n_envs)
        trained.append(model)
    usual, ours = trained
    assert type(ours.replay_buffer) is CompactReplayBuffer
    for a, b in zip(usual.policy.parameters(), ours.policy.parameters(), strict=True):
        assert th.equal(a, b)
    ours.save(tmp_path / "model")
    ours.save_replay_buffer(tmp_path / "buffer")
    loaded = CustomDDPG.load(tmp_path / "model", env=ours.get_env())
    loaded.load_replay_buffer(tmp_path / "buffer")
    assert_same(sample(loaded.replay_buffer, 50), sample(ours.replay_buffer, 50))


def test_where_observations_cannot_be_shared() -> None:
    with pytest.raises(
        ValueError, match=r"^optimize_memory_usage=True is not possible with n-step returns \(n_steps=3\); "
    ):
        CustomDDPG("MlpPolicy", "Pendulum-v1", n_steps=3, optimize_memory_usage=True)
    goals = make_vec_env("Pendulum-v1")
    goals.observation_space = spaces.Dict({"goal": goals.observation_space})
    with pytest.raises(ValueError, match="not possible with Dict observations; leave it out"):
        CustomDDPG("MultiInputPolicy", goals, optimize_memory_usage=True)


def test_sb3s_variant_is_taken_where_it_is_asked_for() -> None:
    without_timeouts = {"replay_buffer_kwargs": {"handle_timeout_termination": False}, "optimize_memory_usage": True}
    assert type(CustomDDPG("MlpPolicy", "Pendulum-v1", **without_timeouts).replay_buffer) is ReplayBuffer
    images = make_vec_env("Pendulum-v1")
    images.observation_space = spaces.Box(0, 255, (3, 36, 36), np.uint8)
    model = CustomDDPG("CnnPolicy", images, optimize_memory_usage=True, buffer_size=10)
    assert type(model.replay_buffer) is CompactReplayBuffer
    assert model.replay_buffer.observations.dtype == np.uint8


# --- n-step returns for Dict observations ---


def filled_dicts(
    n_add: int, n_envs: int, n_steps: int, gamma: float, handle: bool, size: int = 12
) -> tuple[DictNStepReplayBuffer, NStepReplayBuffer]:
    """A buffer of Dict observations, and SB3's with the same observations as one vector."""
    observation_space = spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Box(-1, 1, (1,))})
    arguments: Any = (spaces.Box(-1, 1, (2,)), "cpu", n_envs)
    kwargs: Any = {"n_steps": n_steps, "gamma": gamma, "handle_timeout_termination": handle}
    ours = DictNStepReplayBuffer(size * n_envs, observation_space, *arguments, **kwargs)
    theirs = NStepReplayBuffer(size * n_envs, spaces.Box(-1, 1, (3,)), *arguments, **kwargs)
    rng = np.random.default_rng(0)
    for _ in range(n_add):
        obs, next_obs = rng.normal(size=(2, n_envs, 3)).astype(np.float32)
        done = rng.random(n_envs) < 0.3
        infos = [{"TimeLimit.truncated": bool(d and rng.random() < 0.5)} for d in done]
        rest = (rng.normal(size=(n_envs, 2)), rng.normal(size=n_envs), done, infos)
        ours.add(*({"a": x[:, :2], "b": x[:, 2:]} for x in (obs, next_obs)), *rest)
        theirs.add(obs, next_obs, *rest)
    return ours, theirs


def sample_as_vectors(buffer: ReplayBuffer, n: int, env: VecNormalize | None = None) -> list[np.ndarray]:
    np.random.seed(1)  # noqa: NPY002 (SB3's buffers draw from it)
    batch = buffer.sample(n, env)
    flat = [th.cat([x["a"], x["b"]], dim=1) if isinstance(x, dict) else x for x in batch]
    return [*(x.numpy() for x in flat), np.random.random(1)]  # noqa: NPY002 (and leave it in the same state)


@given(
    n_add=st.integers(1, 40),
    n_envs=st.integers(1, 3),
    n=st.integers(1, 20),
    n_steps=st.integers(1, 5),
    gamma=st.sampled_from([0.9, 0.99, 1.0]),
    handle=st.booleans(),
    size=st.sampled_from([1, 2, 12]),
)
@settings(max_examples=150, deadline=None)
def test_n_step_samples_of_dicts_are_those_of_vectors(
    n_add: int, n_envs: int, n: int, n_steps: int, gamma: float, handle: bool, size: int
) -> None:
    ours, theirs = filled_dicts(n_add, n_envs, n_steps, gamma, handle, size)
    for _ in range(2):  # neither left a mark
        assert_same(sample_as_vectors(ours, n), sample_as_vectors(theirs, n))


def test_n_step_samples_of_dicts_by_hand() -> None:
    observation_space = spaces.Dict({"a": spaces.Box(-9, 9, (1,))})
    buffer = DictNStepReplayBuffer(5, observation_space, spaces.Box(-1, 1, (1,)), "cpu", n_steps=3, gamma=0.5)
    # Reward and end of each step: a termination, then a timeout; the buffer begins again after five
    steps = [(1, ""), (2, "terminated"), (4, ""), (8, "truncated"), (16, ""), (32, ""), (64, "")]
    for i, (reward, end) in enumerate(steps):
        obs, next_obs = ({"a": np.full((1, 1), float(x))} for x in (i, i + 0.5))
        infos = [{"TimeLimit.truncated": end == "truncated"}]
        buffer.add(obs, next_obs, np.zeros((1, 1)), np.array([reward]), np.array([bool(end)]), infos)
    batch = buffer._get_samples(np.arange(5))  # which hold the steps 5, 6, 2, 3, 4
    assert batch.observations["a"].flatten().tolist() == [5, 6, 2, 3, 4]
    assert batch.rewards.flatten().tolist() == [32 + 32, 64, 4 + 4, 8, 16 + 16 + 16]
    assert batch.next_observations["a"].flatten().tolist() == [6.5, 6.5, 3.5, 3.5, 6.5]
    assert batch.dones.flatten().tolist() == [0, 0, 0, 0, 0]  # timeouts bootstrap
    assert batch.discounts is not None
    assert batch.discounts.flatten().tolist() == [0.25, 0.5, 0.25, 0.5, 0.125]
    early = DictNStepReplayBuffer(5, observation_space, spaces.Box(-1, 1, (1,)), "cpu", n_steps=3, gamma=0.5)
    for reward, end in steps[:2]:
        early.add(
            {"a": np.ones((1, 1))}, {"a": np.ones((1, 1))}, np.zeros((1, 1)), [reward], np.array([bool(end)]), [{}]
        )
    assert early._get_samples(np.arange(2)).dones.flatten().tolist() == [1, 1]


@pytest.mark.parametrize("only", [{}, {"norm_obs_keys": ["a"]}, {"norm_reward": False}])
@pytest.mark.parametrize("n_envs", [1, 2])
def test_normalized_n_step_samples_of_dicts(n_envs: int, only: dict[str, Any]) -> None:
    ours, theirs = filled_dicts(20, n_envs, 3, 0.9, True)
    env = make_vec_env("Pendulum-v1")
    env.observation_space = ours.observation_space
    normalize = VecNormalize(env, clip_reward=0.5, **only)
    assert isinstance(normalize.obs_rms, dict)
    for statistics in normalize.obs_rms.values():
        statistics.mean += 0.5
    got, raw = sample_as_vectors(ours, 9, normalize), sample_as_vectors(theirs, 9)
    shift = np.array([0.5, 0.5, 0 if "norm_obs_keys" in only else 0.5], dtype=np.float32)
    for i in (0, 2):  # observations and next observations
        np.testing.assert_allclose(got[i], raw[i] - shift, rtol=1e-4, atol=1e-6)
    norm_reward = only.get("norm_reward", True)
    rewards = VecNormalize(make_vec_env("Pendulum-v1"), norm_obs=False, norm_reward=norm_reward, clip_reward=0.5)
    np.testing.assert_array_equal(got[4], sample_as_vectors(theirs, 9, rewards)[4])


class Parts(gym.Env[dict[str, np.ndarray], np.ndarray]):
    """Pendulum, whose observations are a Dict."""

    def __init__(self) -> None:
        self.env = gym.make("Pendulum-v1")
        self.action_space: Any = self.env.action_space
        self.observation_space: Any = spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Box(-8, 8, (1,))})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """:return: As Pendulum's"""
        return self._parts(self.env.reset(seed=seed, options=options)[0]), {}

    def step(self, action: Any) -> Any:
        """:return: As Pendulum's"""
        observation, *rest = self.env.step(action)
        return (self._parts(observation), *rest)

    def _parts(self, observation: Any) -> dict[str, np.ndarray]:
        return {"a": observation[:2], "b": observation[2:]}


@pytest.mark.parametrize("fused", ["auto", False])
@pytest.mark.parametrize("normalized", [False, True])
def test_training_with_n_step_returns_and_dicts(normalized: bool, fused: Any, tmp_path: Path) -> None:
    """It is that with the observations as one vector, which a CombinedExtractor makes of them."""
    models = []
    for policy, make in (("MultiInputPolicy", Parts), ("MlpPolicy", lambda: gym.make("Pendulum-v1"))):
        env = make_vec_env(make, 2, seed=0)  # type: ignore[arg-type]
        model = CustomDDPG(
            policy,
            VecNormalize(env) if normalized else env,
            n_steps=3,
            buffer_size=160,  # older transitions are replaced after 80 steps
            learning_starts=20,
            batch_size=8,
            policy_kwargs={"net_arch": [8]},
            fused=False if policy == "MlpPolicy" else fused,
            seed=0,
            device="cpu",
        )
        models.append(model.learn(300))
    ours, vectors = models
    assert type(ours.replay_buffer) is DictNStepReplayBuffer
    assert (ours.replay_buffer.n_steps, ours.replay_buffer.gamma) == (3, 0.99)
    for a, b in zip(ours.policy.parameters(), vectors.policy.parameters(), strict=True):
        assert th.equal(a, b)
    ours.save(tmp_path / "model")
    ours.save_replay_buffer(tmp_path / "buffer")
    loaded = CustomDDPG.load(tmp_path / "model", env=ours.get_env())
    loaded.load_replay_buffer(tmp_path / "buffer")
    assert_same(sample_as_vectors(loaded.replay_buffer, 50), sample_as_vectors(ours.replay_buffer, 50))  # type: ignore[arg-type]
    loaded.learn(20, reset_num_timesteps=False)
