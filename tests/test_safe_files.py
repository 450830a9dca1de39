"""Model files: everything comes back as it was, and nothing in a file from a stranger is run."""

import base64
import contextlib
import copy
import hashlib
import io
import json
import pickle
import shutil
import subprocess
import sys
import zipfile
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from damages import Bomb, members
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies
from stable_baselines3 import DDPG, SAC, TD3, HerReplayBuffer
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise, VectorizedActionNoise
from stable_baselines3.common.utils import ConstantSchedule, LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_ddpg_ext import CustomDDPG, ExponentialSchedule, ScheduledNoise
from sb3_ddpg_ext.errors import SavedFileError, UntrustedFileError
from sb3_ddpg_ext.safe_files import classes
from sb3_ddpg_ext.safe_files.loading import load_model
from sb3_ddpg_ext.safe_files.model_file import write_model
from sb3_ddpg_ext.safe_files.objects import Decoder, Encoder
from sb3_ddpg_ext.safe_files.plain import NotPlainError

SMALL: dict[str, Any] = {
    "buffer_size": 500,
    "learning_starts": 20,
    "batch_size": 8,
    "policy_kwargs": {"net_arch": [8]},
    "seed": 0,
    "device": "cpu",
}


def small(**kwargs: Any) -> CustomDDPG:
    return CustomDDPG("MlpPolicy", "Pendulum-v1", **{**copy.deepcopy(SMALL), **kwargs})


def sealed(content: dict[str, bytes]) -> dict[str, bytes]:
    """:return: The members of a model's file with checksums that fit, as somebody would make them who means it"""
    document = json.loads(content["sb3_ddpg_ext.json"])
    document["sha256"] = {name: hashlib.sha256(member).hexdigest() for name, member in content.items()}
    text = json.dumps(document).encode()
    digest = hashlib.sha256(text).hexdigest().encode()
    return {**content, "sb3_ddpg_ext.json": text, "sb3_ddpg_ext.sha256": digest}


def write(file: Path, content: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, value in content.items():
            archive.writestr(name, value)
    return file


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("saved") / "model.zip"
    small().learn(60).save(file)
    return file


def edited(saved: Path, folder: Path, edit: Callable[[Any], object]) -> Path:
    """:return: The model with other JSON"""
    content = members(saved)
    document = json.loads(content["sb3_ddpg_ext.json"])
    edit(document)
    content["sb3_ddpg_ext.json"] = json.dumps(document).encode()
    return write(folder / "edited.zip", sealed(content))


def through_json(value: Any) -> Any:
    blob = bytearray()
    text = json.dumps(Encoder(blob)(value, "value"), allow_nan=False)
    return Decoder(bytes(blob))(json.loads(text))


# --- What is saved comes back ---

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
ARRAYS = numpy_strategies.arrays(
    numpy_strategies.boolean_dtypes()
    | numpy_strategies.integer_dtypes(endianness="=")
    | numpy_strategies.floating_dtypes(sizes=(16, 32, 64), endianness="="),
    numpy_strategies.array_shapes(min_dims=0, max_side=12),
)
VALUES = st.recursive(
    SCALARS | ARRAYS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=4) | st.integers() | st.just("$"), inner, max_size=4)
        | st.lists(inner, max_size=4).map(lambda items: deque(items, maxlen=9))
    ),
    max_leaves=12,
)


def assert_same(a: Any, b: Any) -> None:
    assert type(a) is type(b)
    if isinstance(a, np.ndarray):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, (list, tuple)) or type(a).__name__ == "deque":
        assert len(a) == len(b)
        assert getattr(a, "maxlen", None) == getattr(b, "maxlen", None)
        for item, other in zip(a, b, strict=True):
            assert_same(item, other)
    else:
        assert a == b or (a != a and b != b)


@settings(deadline=None)
@given(VALUES)
def test_plain_values_come_back(value: Any) -> None:
    assert_same(value, through_json(value))


BOXES = st.builds(
    lambda low, width, dtype: spaces.Box(low.astype(dtype), (low + width).astype(dtype), dtype=dtype),
    numpy_strategies.arrays(np.int32, st.just((2, 3)), elements=st.integers(0, 100)),
    st.integers(1, 100),
    st.sampled_from([np.float32, np.float64, np.uint8, np.int64]),
)
OTHERS = (
    st.builds(spaces.Discrete, st.integers(1, 9), start=st.integers(-5, 5))
    | st.builds(spaces.MultiDiscrete, st.lists(st.integers(1, 9), min_size=1, max_size=4))
    | st.builds(spaces.MultiBinary, st.integers(1, 9) | st.lists(st.integers(1, 4), min_size=2, max_size=3))
    | st.builds(spaces.Box, st.just(-np.inf), st.just(np.inf), st.just((3,)))
    | st.builds(spaces.Box, st.just(0), st.just(255), st.just((84, 84, 4)), st.just(np.uint8))
)
SPACES = st.recursive(
    BOXES | OTHERS,
    lambda inner: st.dictionaries(st.text(min_size=1, max_size=3), inner, min_size=1, max_size=3).map(spaces.Dict),
    max_leaves=4,
)


@settings(deadline=None)
@given(SPACES, st.none() | st.integers(0, 2**31))
def test_spaces_come_back_with_their_generators(space: Any, seed: int | None) -> None:
    if seed is not None:
        space.seed(seed)
    back = through_json(space)
    assert back == space
    assert back.dtype == space.dtype
    if seed is not None:
        for _ in range(3):
            expected, got = space.sample(), back.sample()
            assert_same(dict(expected) if isinstance(expected, dict) else expected, got)


ONE, TWO = np.zeros(1), np.full(1, 0.2)
NOISES: dict[str, Any] = {
    "normal": "normal",
    "ou": "ou",
    "pink": "pink",
    "colored": {"type": "colored", "beta": 0.5, "horizon": 40},
    "uniform": "uniform",
    "scheduled": {"type": "pink", "schedule": {"type": "linear", "end": 0.1}},
    "scheduled twice": ScheduledNoise(ScheduledNoise("ou", "exponential"), 0.5),
    "a schedule of SB3's noise": ScheduledNoise(NormalActionNoise(ONE, TWO), ExponentialSchedule(0.2)),
    "SB3's normal": NormalActionNoise(ONE, TWO),
    "SB3's ou": OrnsteinUhlenbeckActionNoise(ONE, TWO, initial_noise=np.ones(1)),
    "None": None,
}


def samples(noise: Any, n_envs: int) -> list[np.ndarray]:
    np.random.seed(1)  # noqa: NPY002 (SB3's generator)
    before = [noise() for _ in range(200)]
    if isinstance(noise, VectorizedActionNoise):
        noise.reset(range(n_envs))
    return [*before, *(noise() for _ in range(200))]


@pytest.mark.filterwarnings("ignore:action_noise=None")
@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("noise", NOISES)
def test_noise_goes_on_where_it_was(noise: str, n_envs: int, tmp_path: Path) -> None:
    env = DummyVecEnv([lambda: gym.make("Pendulum-v1")] * n_envs)
    model = CustomDDPG("MlpPolicy", env, action_noise=NOISES[noise], **SMALL).learn(90)
    model.save(tmp_path / "model")
    loaded = CustomDDPG.load(tmp_path / "model")
    assert type(loaded.action_noise) is type(model.action_noise)
    if model.action_noise is None or loaded.action_noise is None:
        return
    expected, got = (samples(each.action_noise, n_envs) for each in (model, loaded))
    np.testing.assert_array_equal(expected, got)


SETTINGS: dict[str, dict[str, Any]] = {
    "everything else": {
        "learning_rate": LinearSchedule(1e-3, 1e-4, 0.5),
        "train_freq": (1, "episode"),
        "gradient_steps": -1,
        "n_steps": 3,
        "gamma": np.float64(0.9),
        "stats_window_size": 7,
        "policy_kwargs": {
            "net_arch": {"pi": [8], "qf": [4, 4]},
            "activation_fn": th.nn.Tanh,
            "optimizer_class": th.optim.AdamW,
            "optimizer_kwargs": {"weight_decay": 1e-3},
            "n_critics": 2,
        },
    },
    "a constant": {"learning_rate": ConstantSchedule(1e-3)},
    "shared features": {"policy_kwargs": {"net_arch": [8], "share_features_extractor": True}},
}


@pytest.mark.parametrize("case", SETTINGS)
def test_a_model_comes_back(case: str, tmp_path: Path) -> None:
    model = small(**SETTINGS[case]).learn(250)
    model.save(tmp_path / "model")
    loaded = CustomDDPG.load(tmp_path / "model")
    for name, value in vars(model).items():
        if name in SETTINGS[case] and not callable(value):
            assert_same(value, vars(loaded)[name])
    for progress in (1.0, 0.7, 0.0):
        assert loaded.lr_schedule(progress) == model.lr_schedule(progress)
    ours, theirs = (pickle.dumps(each.get_parameters()["policy"]) for each in (loaded, model))
    assert len(ours) == len(theirs)
    for name, value in model.policy.state_dict().items():
        assert th.equal(value, loaded.policy.state_dict()[name]), name
    for optimizer, own in (
        (model.actor.optimizer, loaded.actor.optimizer),
        (model.critic.optimizer, loaded.critic.optimizer),
    ):
        assert str(optimizer.state_dict()) == str(own.state_dict())


def test_sb3_reads_it_without_any_difference(saved: Path) -> None:
    theirs, ours = DDPG.load(saved), CustomDDPG.load(saved)
    for name, value in ours.policy.state_dict().items():
        assert th.equal(value, theirs.policy.state_dict()[name])
    assert repr(theirs.action_noise) == repr(ours.action_noise)


@pytest.mark.parametrize("algorithm", [SAC, TD3, DDPG])
def test_models_of_sb3s_other_algorithms_can_be_saved_so(algorithm: Any, tmp_path: Path) -> None:
    model = algorithm("MlpPolicy", "Pendulum-v1", **copy.deepcopy(SMALL)).learn(60)
    write_model(model, tmp_path / "model.zip")
    loaded = load_model(algorithm, tmp_path / "model.zip")
    observation = np.array([[1.0, 0.0, 0.1]], dtype=np.float32)
    expected = model.predict(observation, deterministic=True)[0]
    np.testing.assert_array_equal(loaded.predict(observation, deterministic=True)[0], expected)
    if algorithm is SAC:
        assert th.equal(loaded.log_ent_coef, model.log_ent_coef)
    assert algorithm.load(tmp_path / "model.zip").num_timesteps == 60


def test_images_and_her(tmp_path: Path) -> None:
    images, actions = spaces.Box(0, 255, (3, 40, 40), np.uint8), spaces.Box(-1, 1, (2,))

    class Images(gym.Env):  # type: ignore[type-arg]
        observation_space, action_space = images, actions

    model = CustomDDPG(
        "CnnPolicy", Images(), buffer_size=4, policy_kwargs={"features_extractor_kwargs": {"features_dim": 8}}
    )
    model.save(tmp_path / "images")
    assert CustomDDPG.load(tmp_path / "images").observation_space == model.observation_space
    assert (tmp_path / "images.zip").stat().st_size < 3e6
    space = spaces.Dict({name: spaces.Box(-1, 1, (2,)) for name in ("observation", "achieved_goal", "desired_goal")})

    class Goals(gym.Env):  # type: ignore[type-arg]
        observation_space, action_space = space, actions

    kwargs: dict[str, Any] = {"replay_buffer_class": HerReplayBuffer, "replay_buffer_kwargs": {"n_sampled_goal": 2}}
    CustomDDPG("MultiInputPolicy", Goals(), buffer_size=4, **kwargs).save(tmp_path / "goals")
    assert CustomDDPG.load(tmp_path / "goals", env=Goals()).replay_buffer_class is HerReplayBuffer


def test_set_parameters_reads_the_same_file(saved: Path) -> None:
    other = small(seed=5)
    other.set_parameters(saved)
    for name, value in CustomDDPG.load(saved).policy.state_dict().items():
        assert th.equal(value, other.policy.state_dict()[name])
    with pytest.raises(SavedFileError, match="its weights do not fit"):
        small(policy_kwargs={"net_arch": [9]}).set_parameters(saved)


# --- What cannot be written as data ---


def test_a_function_of_the_user_needs_trust_or_a_value(tmp_path: Path) -> None:
    small(learning_rate=lambda progress: 1e-3 * progress).save(tmp_path / "model")
    with pytest.raises(
        UntrustedFileError, match=r"learning_rate is of .*function.*custom_objects={'learning_rate'.*trusted=True"
    ):
        CustomDDPG.load(tmp_path / "model")
    assert CustomDDPG.load(tmp_path / "model", trusted=True).lr_schedule(0.5) == 5e-4
    assert CustomDDPG.load(tmp_path / "model", custom_objects={"learning_rate": 0.1}).lr_schedule(0.5) == 0.1
    assert CustomDDPG.load(tmp_path / "model", learning_rate=0.1).lr_schedule(0.5) == 0.1


class OwnActivation(th.nn.Tanh):
    pass


def test_the_error_names_where_a_foreign_class_is(tmp_path: Path) -> None:
    small(policy_kwargs={"net_arch": [8], "activation_fn": OwnActivation}).save(tmp_path / "model")
    with pytest.raises(UntrustedFileError, match=r"policy_kwargs\['activation_fn'\] is the class .*OwnActivation"):
        CustomDDPG.load(tmp_path / "model")
    kwargs = {"policy_kwargs": {"net_arch": [8], "activation_fn": OwnActivation}}
    for loaded in (
        CustomDDPG.load(tmp_path / "model", trusted=True),
        CustomDDPG.load(tmp_path / "model", custom_objects=kwargs),
    ):
        assert isinstance(loaded.actor.mu[1], OwnActivation)


@pytest.mark.parametrize("algorithm", [DDPG, TD3])
def test_sb3s_files_need_trust(algorithm: Any, tmp_path: Path) -> None:
    kwargs = {**SMALL, "policy_kwargs": {"net_arch": [8], "n_critics": 1}}
    model = algorithm("MlpPolicy", "Pendulum-v1", **kwargs)
    model.save(tmp_path / "model")
    ours = small()
    for read in (CustomDDPG.load, ours.set_parameters):
        with pytest.raises(UntrustedFileError, match=r"saved by Stable-Baselines3.*trusted=True"):
            read(tmp_path / "model")
    ours.set_parameters(tmp_path / "model", trusted=True)
    for name, value in model.policy.state_dict().items():
        assert th.equal(value, ours.policy.state_dict()[name])
    assert CustomDDPG.load(tmp_path / "model", trusted=True).num_timesteps == 0


# --- What strangers may try ---


def bombs(canary: Path, data: bytes) -> dict[str, bytes]:
    """:return: Payloads for the members of a zip"""
    pickled = pickle.dumps(Bomb(canary))
    file = io.BytesIO()
    th.save(Bomb(canary), file)
    fields = json.loads(data)
    encoded = base64.b64encode(pickled).decode()
    all_fields = {name: {":type:": "x", ":serialized:": encoded} for name in fields}
    return {"pickle": pickled, "torch": file.getvalue(), "data": json.dumps(all_fields).encode()}


def test_a_payload_in_any_member_is_not_run(saved: Path, tmp_path: Path) -> None:
    canary, content = tmp_path / "canary", members(saved)
    for member in content:
        for payload in bombs(canary, content["data"]).values():
            changed = {**content, member: payload}
            file = write(tmp_path / "bomb.zip", changed if member.startswith("sb3_ddpg_ext") else sealed(changed))
            for read in (CustomDDPG.load, small().set_parameters):
                with contextlib.suppress(SavedFileError):
                    read(file)
            assert not canary.exists(), member
    # The canary can sing
    with contextlib.suppress(Exception):
        DDPG.load(write(tmp_path / "bomb.zip", {**content, "data": bombs(canary, content["data"])["data"]}))
    assert canary.exists()


def test_pickles_of_the_torch_files_are_not_read(saved: Path, tmp_path: Path) -> None:
    """Only the bytes of the tensors are read from ``policy.pth``; its pickle can be anything."""
    content = members(saved)
    inner = {name: value for name, value in _inner(content["policy.pth"]).items() if name != "archive/data.pkl"}
    file = write(tmp_path / "inner.zip", inner | {"archive/data.pkl": pickle.dumps(Bomb(tmp_path / "canary"))})
    loaded = CustomDDPG.load(write(tmp_path / "model.zip", sealed({**content, "policy.pth": file.read_bytes()})))
    assert th.equal(loaded.actor.mu[0].weight, CustomDDPG.load(saved).actor.mu[0].weight)
    assert not (tmp_path / "canary").exists()


def _inner(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_classes_are_not_imported() -> None:
    for path in ("os.system", "subprocess.Popen", "builtins.eval", "torch.load", None, 3, ["a"]):
        with pytest.raises(ValueError, match="is not a class that a file may name"):
            classes.find(path)
    assert not classes.is_allowed(OwnActivation)
    with pytest.raises(NotPlainError):
        Encoder()(OwnActivation, "x")


HOSTILE_ARCHIVES: dict[str, Callable[[dict[str, bytes], Path], object]] = {
    "no zip": lambda content, file: file.write_bytes(b"PK\x03\x04 no zip"),
    "empty": lambda content, file: file.write_bytes(b""),
    "too many members": lambda content, file: write(file, content | {f"x{i}": b"" for i in range(200)}),
    "twice the same name": lambda content, file: _twice(content, file),
    "a path": lambda content, file: write(file, content | {"../../etc/passwd": b""}),
    "an absolute path": lambda content, file: write(file, content | {"/etc/passwd": b""}),
    "a backslash": lambda content, file: write(file, content | {"a\\..\\b": b""}),
    "a bomb": lambda content, file: write(file, content | {"x": b"\0" * 10**8}, zipfile.ZIP_DEFLATED),
    "large JSON": lambda content, file: write(
        file, content | {"sb3_ddpg_ext.json": b" " * 2**23}, zipfile.ZIP_DEFLATED
    ),
    "deep JSON": lambda content, file: write(file, content | {"sb3_ddpg_ext.json": b"[" * 10**6}),
    "no JSON": lambda content, file: write(file, content | {"sb3_ddpg_ext.json": b"{"}),
    "other JSON": lambda content, file: write(file, content | {"sb3_ddpg_ext.json": b"[]"}),
    "a key twice": lambda content, file: write(file, content | {"sb3_ddpg_ext.json": b'{"format": 1, "format": 1}'}),
    "bzip2": lambda content, file: write(file, content, zipfile.ZIP_BZIP2),
    "no arrays": lambda content, file: write(file, {n: c for n, c in content.items() if n != "sb3_ddpg_ext.bin"}),
    "no weights": lambda content, file: write(file, {n: c for n, c in content.items() if n != "policy.pth"}),
    "truncated": lambda content, file: file.write_bytes(write(file, content).read_bytes()[:-400]),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
def _twice(content: dict[str, bytes], file: Path) -> None:
    write(file, content | {"policy.ptx": b""})
    file.write_bytes(file.read_bytes().replace(b"policy.ptx", b"policy.pth"))


@pytest.mark.parametrize("case", HOSTILE_ARCHIVES)
def test_hostile_archives_are_refused(case: str, saved: Path, tmp_path: Path) -> None:
    HOSTILE_ARCHIVES[case](members(saved), tmp_path / "model.zip")
    with pytest.raises(SavedFileError) as error:
        CustomDDPG.load(tmp_path / "model.zip")
    assert "\n" not in str(error.value)


def test_a_repacked_model_loads(saved: Path, tmp_path: Path) -> None:
    assert CustomDDPG.load(write(tmp_path / "x.zip", members(saved), zipfile.ZIP_DEFLATED)).num_timesteps == 60
    with saved.open("rb") as file:
        assert CustomDDPG.load(file).num_timesteps == 60
    shutil.copy(saved, tmp_path / "no_suffix")
    assert CustomDDPG.load(tmp_path / "no_suffix").num_timesteps == 60


def array(shape: list[int], **content: Any) -> dict[str, Any]:
    return {"$": "array", "dtype": "<f4", "shape": shape, **content}


def space(shape: list[int], low: float = -1, high: float = 1) -> dict[str, Any]:
    bounds = {"low": array(shape, fill=_number(low)), "high": array(shape, fill=_number(high))}
    return {"$": "space", "class": "Box", **bounds, "dtype": {"$": "dtype", "value": "<f4"}, "generator": None}


def _number(value: float) -> str:
    return base64.b64encode(np.float32(value).tobytes()).decode()


FIELDS: dict[str, tuple[str, Any]] = {
    "gamma as text": ("gamma", "0.9"),
    "gamma": ("gamma", 1.5),
    "gamma is NaN": ("gamma", {"$": "float", "value": "nan"}),
    "tau": ("tau", 7),
    "tau is True": ("tau", True),
    "batch_size": ("batch_size", -1),
    "buffer_size": ("buffer_size", 10**15),
    "learning_rate": ("learning_rate", -1.0),
    "learning_rate is a class": ("learning_rate", {"$": "class", "path": "builtins.float2"}),
    "a method": ("train", 1),
    "a dunder": ("__class__", 1),
    "a property": ("logger", 1),
    "layers": ("policy_kwargs", {"net_arch": [1] * 100_000}),
    "wide layers": ("policy_kwargs", {"net_arch": [200_000, 200_000]}),
    "critics": ("policy_kwargs", {"net_arch": [8], "n_critics": 10**6}),
    "no dict": ("policy_kwargs", None),
    "an unknown argument": ("policy_kwargs", {"net_arch": [8], "x": 1}),
    "other layers": ("policy_kwargs", {"net_arch": [9]}),
    "policy": ("policy_class", "os.system"),
    "policy is an optimizer": ("policy_class", {"$": "class", "path": "torch.optim.adam.Adam"}),
    "observation space": ("observation_space", space([4])),
    "huge space": ("observation_space", space([2**39])),
    "large space": ("observation_space", space([2**25])),
    "no space": ("observation_space", 3),
    "action space": ("action_space", space([2])),
    "discrete actions": ("action_space", {"$": "space", "class": "Discrete", "n": 3, "start": 0, "generator": None}),
    "NaN bounds": ("action_space", space([1], float("nan"))),
    "unbounded": ("action_space", space([1], -np.inf, np.inf)),
    "seed": ("seed", -1),
    "n_envs": ("n_envs", 0),
    "train_freq": ("train_freq", {"$": "train_freq", "items": [0, "step"]}),
    "noise": ("action_noise", 3),
    "kind": ("action_noise", {"$": "exec"}),
    "kind is a list": ("action_noise", {"$": ["exec"]}),
    "deep": ("action_noise", json.loads("[" * 80 + "]" * 80)),
    "buffer": ("replay_buffer_class", {"$": "class", "path": "sb3_ddpg_ext.policies.MlpPolicy"}),
    "last observation": ("_last_obs", "x"),
    "start": ("start_time", "now"),
    "a dtype": ("_last_obs", {**array([1], base64=""), "dtype": "|O"}),
    "an array's size": ("_last_obs", array([3], base64="AAAA")),
    "an array's place": ("_last_obs", array([3], offset=2**40)),
}


@pytest.mark.parametrize("case", FIELDS)
def test_fields_are_checked(case: str, saved: Path, tmp_path: Path) -> None:
    name, value = FIELDS[case]
    file = edited(saved, tmp_path, lambda document: document["fields"].update({name: value}))
    with pytest.raises((SavedFileError, AssertionError)) as error:
        CustomDDPG.load(file)
    assert "\n" not in str(error.value)
    if isinstance(error.value, SavedFileError):
        assert str(file) in str(error.value)


def dict_space(**subspaces: Any) -> str:
    return json.dumps({"$": "space", "class": "Dict", "spaces": subspaces, "generator": None})


BEFORE, AFTER = dict_space(a=3).split("3")
BITS = {"$": "space", "class": "MultiBinary", "n": [2**20, 2**20], "generator": None}
LARGE_SPACES = {
    "huge": (dict_space(a=space([100_000, 100_000])), "an array of the shape (100000, 100000) is too large"),
    "many": (dict_space(**{str(i): space([1]) for i in range(10_000)}), "it has more than 1000 spaces"),
    "deep": (BEFORE * 10_000 + json.dumps(space([1])) + AFTER * 10_000, "is nested too deeply"),
    "bits": (dict_space(a=BITS), "Unable to allocate"),
}
# Prints what loading each file leads to, in 256 MB beyond those that PyTorch takes
LIMITED = """
import resource, sys
from sb3_ddpg_ext import CustomDDPG
from sb3_ddpg_ext.errors import SavedFileError
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**28,) * 2)
for file in sys.argv[1:]:
    try:
        print(CustomDDPG.load(file, device="cpu").observation_space["image"])
    except SavedFileError as error:
        print(error)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_what_spaces_would_take_is_not_taken(tmp_path: Path) -> None:
    class Seeing(gym.Env):  # type: ignore[type-arg]
        observation_space = spaces.Dict(
            image=spaces.Box(0, 255, (12, 84, 84), np.uint8), grid=spaces.Box(-1, 1, (84, 84, 12)), n=spaces.Discrete(5)
        )
        action_space = spaces.Box(-1, 1, (1,))

    good = tmp_path / "good.zip"
    CustomDDPG("MultiInputPolicy", Seeing(), policy_kwargs={"net_arch": [8]}, buffer_size=20).save(good)
    content, files = members(good), [good]
    document = json.loads(content["sb3_ddpg_ext.json"])
    document["sha256"] = {name: hashlib.sha256(member).hexdigest() for name, member in content.items()}
    document["fields"]["observation_space"] = "here"
    for case, (text, _) in LARGE_SPACES.items():
        changed = json.dumps(document).replace('"here"', text).encode()
        digest = hashlib.sha256(changed).hexdigest().encode()
        changes = {"sb3_ddpg_ext.json": changed, "sb3_ddpg_ext.sha256": digest}
        files.append(write(tmp_path / f"{case}.zip", content | changes))
    result = subprocess.run([sys.executable, "-c", LIMITED, *files], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    first, *refusals = result.stdout.splitlines()
    assert first == "Box(0, 255, (12, 84, 84), uint8)"
    for refusal, file, (_, reason) in zip(refusals, files[1:], LARGE_SPACES.values(), strict=True):
        assert refusal.startswith(str(file))
        assert reason in refusal


def noise_state(**changes: Any) -> Callable[[Any], object]:
    return lambda document: document["fields"]["action_noise"]["process"]["state"].update(changes)


NOISE_EDITS: dict[str, Callable[[Any], object]] = {
    "a negative std": noise_state(_std=array([], base64=_number(-1))),
    "an attribute more": noise_state(sample=1),
    "many environments": noise_state(_bound={"$": "tuple", "items": [10**6, {"$": "tuple", "items": [1]}]}),
    "many actions": noise_state(_bound={"$": "tuple", "items": [1, {"$": "tuple", "items": [10**9]}]}),
    "no generator": noise_state(_generators=[3]),
    "another shape": noise_state(_state=array([5], fill=_number(0))),
    "a count": noise_state(_n_used=-3),
    "no process": lambda document: document["fields"]["action_noise"].update(process=3),
    "another class": lambda document: document["fields"]["action_noise"]["process"].update({"class": "Path"}),
}


PARAMETER_NOISE_EDITS: dict[str, Callable[[Any], object]] = {
    "many environments": noise_state(_bound={"$": "tuple", "items": [10**6, {"$": "tuple", "items": [1]}]}),
    "a coefficient below 1": noise_state(adaptation_coefficient=0.5),
    "an interval of 0": noise_state(adaptation_interval=0),
    "a negative ratio": noise_state(_ratio=-1.0),
    "seeds of another type": noise_state(_seeds=array([1], fill=_number(0))),
    "no seeds": noise_state(_seeds=None),
}


@pytest.mark.parametrize("case", PARAMETER_NOISE_EDITS)
def test_parameter_noise_is_checked(case: str, tmp_path: Path) -> None:
    model = CustomDDPG("MlpPolicy", "Pendulum-v1", action_noise="parameter", **SMALL).learn(30)
    model.save(tmp_path / "model.zip")
    with pytest.raises(SavedFileError, match="action_noise"):
        CustomDDPG.load(edited(tmp_path / "model.zip", tmp_path, PARAMETER_NOISE_EDITS[case]))


@pytest.mark.parametrize("case", NOISE_EDITS)
def test_noise_is_checked(case: str, saved: Path, tmp_path: Path) -> None:
    with pytest.raises(SavedFileError, match="action_noise"):
        CustomDDPG.load(edited(saved, tmp_path, NOISE_EDITS[case]))


def weights_of(document: Any, member: str) -> Any:
    return document["weights"][member]["content"]


WEIGHT_EDITS: dict[str, Callable[[Any], object]] = {
    "a shape": lambda d: weights_of(d, "policy")["actor.mu.0.weight"].update(shape=[3, 9]),
    "a transposed shape": lambda d: weights_of(d, "policy")["actor.mu.0.weight"].update(shape=[3, 8]),
    "a dtype": lambda d: weights_of(d, "policy")["actor.mu.0.weight"].update(dtype="float64"),
    "a number": lambda d: weights_of(d, "policy")["actor.mu.0.weight"].update(number=10**6),
    "a missing weight": lambda d: weights_of(d, "policy").pop("actor.mu.0.weight"),
    "an additional weight": lambda d: weights_of(d, "policy").update(x=weights_of(d, "policy")["actor.mu.0.weight"]),
    "another owner": lambda d: d["weights"].update({"__class__": d["weights"]["policy"]}),
    "a learning rate": lambda d: weights_of(d, "actor.optimizer")["param_groups"][0].update(lr="x"),
    "betas": lambda d: weights_of(d, "actor.optimizer")["param_groups"][0].update(betas=[1]),
    "parameters": lambda d: weights_of(d, "actor.optimizer")["param_groups"][0].update(params=[0]),
    "no groups": lambda d: weights_of(d, "actor.optimizer").update(param_groups=[]),
    "no optimizer": lambda d: d["weights"].pop("actor.optimizer"),
    "a format": lambda d: d.update(format=2),
    "no fields": lambda d: d.update(fields=3),
}


@pytest.mark.parametrize("case", WEIGHT_EDITS)
def test_weights_are_checked(case: str, saved: Path, tmp_path: Path) -> None:
    with pytest.raises(SavedFileError) as error:
        CustomDDPG.load(edited(saved, tmp_path, WEIGHT_EDITS[case]))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("member", ["sb3_ddpg_ext.json", "sb3_ddpg_ext.bin", "policy.pth", "actor.optimizer.pth"])
def test_what_was_changed_and_packed_again_is_noticed(member: str, saved: Path, tmp_path: Path) -> None:
    content = members(saved)
    changed = bytearray(content[member])
    changed[len(changed) // 2] ^= 1
    with pytest.raises(SavedFileError, match=f"{member} is damaged|is not valid JSON"):
        CustomDDPG.load(write(tmp_path / "changed.zip", {**content, member: bytes(changed)}))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(value: float, tmp_path: Path) -> None:
    model = small()
    with th.no_grad():
        model.critic.q_networks[0][0].bias[3] = value
    model.save(tmp_path / "model")
    with pytest.raises(SavedFileError, match=r"critic\.qf0\.0\.bias has a number that is not finite"):
        CustomDDPG.load(tmp_path / "model")
