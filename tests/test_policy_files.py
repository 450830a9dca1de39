"""Policies that are saved without their algorithm: they come back, go into other models, and run no code."""

import hashlib
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from damages import Bomb, members
from gymnasium import spaces
from stable_baselines3 import DDPG, TD3
from stable_baselines3.td3 import policies as td3

from sb3_ddpg_ext import CnnPolicy, CustomDDPG, LayerNormPolicy, MlpPolicy, MultiInputPolicy, SimbaPolicy
from sb3_ddpg_ext.errors import SavedFileError, UntrustedFileError

ACTIONS = spaces.Box(-2, 2, (2,))
SMALL: dict[str, Any] = {"learning_starts": 20, "batch_size": 8, "buffer_size": 500, "device": "cpu"}
POLICIES: dict[str, tuple[type[Any], spaces.Space[Any], dict[str, Any]]] = {
    "mlp": (MlpPolicy, spaces.Box(-1, 1, (3,)), {"activation_fn": th.nn.Tanh, "n_critics": 2}),
    "other optimizer": (
        MlpPolicy,
        spaces.Box(np.array([-1, -2, 0], np.float32), np.array([1, 2, 3], np.float32)),
        {"optimizer_class": th.optim.AdamW, "optimizer_kwargs": {"weight_decay": 0.1}},
    ),
    "cnn": (CnnPolicy, spaces.Box(0, 255, (3, 36, 36), np.uint8), {"features_extractor_kwargs": {"features_dim": 4}}),
    "dict": (MultiInputPolicy, spaces.Dict({name: spaces.Box(-1, 1, (2,)) for name in "ab"}), {}),
}
WITHOUT_SB3: dict[str, tuple[type[Any], spaces.Space[Any], dict[str, Any]]] = {
    "layer norm": (LayerNormPolicy, spaces.Box(-1, 1, (3,)), {"critic_optimizer_class": th.optim.AdamW}),
    "simba": (SimbaPolicy, spaces.Box(-1, 1, (3,)), {}),
}
"""Networks that SB3's own policies do not have"""


class OwnActivation(th.nn.Tanh):
    pass


def policy_of(case: str) -> Any:
    policy_class, observations, kwargs = {**POLICIES, **WITHOUT_SB3}[case]
    return policy_class(observations, ACTIONS, lambda _: 1e-3, **{"net_arch": [8], **kwargs})


def model(algorithm: Any = CustomDDPG, seed: int = 0, width: int = 8) -> Any:
    policy_kwargs = {"net_arch": [width], "n_critics": 1}
    return algorithm("MlpPolicy", "Pendulum-v1", policy_kwargs=policy_kwargs, seed=seed, **SMALL)


def assert_same_weights(a: Any, b: Any) -> None:
    weights, others = a.state_dict(), b.state_dict()
    assert list(weights) == list(others)
    assert all(th.equal(weights[name], others[name]) for name in weights)


@pytest.mark.parametrize("case", [*POLICIES, *WITHOUT_SB3])
def test_a_policy_comes_back(case: str, tmp_path: Path) -> None:
    policy, file = policy_of(case), tmp_path / "policy"
    policy.save(str(file))
    loaded = type(policy).load(file, device="cpu")
    assert type(loaded) is type(policy)
    assert_same_weights(policy, loaded)
    observation = policy.observation_space.sample()
    np.testing.assert_array_equal(policy.predict(observation)[0], loaded.predict(observation)[0])
    assert loaded.optimizer_class is policy.optimizer_class
    assert loaded.observation_space == policy.observation_space


@pytest.mark.parametrize("case", POLICIES)
def test_sb3_opens_it(case: str, tmp_path: Path) -> None:
    policy, file = policy_of(case), tmp_path / "policy.pth"
    policy.save(file)
    sb3_class: Any = {MlpPolicy: td3.MlpPolicy, CnnPolicy: td3.CnnPolicy, MultiInputPolicy: td3.MultiInputPolicy}
    loaded = sb3_class[type(policy)].load(str(file), device="cpu")
    assert type(loaded).__module__.startswith("stable_baselines3")
    assert_same_weights(policy, loaded)


def test_a_file_that_is_open(tmp_path: Path) -> None:
    policy = policy_of("mlp")
    with (tmp_path / "policy").open("wb") as file:
        policy.save(file)
    with (tmp_path / "policy").open("rb") as file:
        assert_same_weights(policy, MlpPolicy.load(file))


@pytest.mark.parametrize("trained", [False, True])
def test_weights_go_from_a_policy_into_a_model(trained: bool, tmp_path: Path) -> None:
    """The model keeps its own optimizers, and learns on."""
    first, second, file = model().learn(60), model(seed=5), tmp_path / "policy"
    first.policy.save(file)
    if trained:
        second.learn(60)
    before = str(second.actor.optimizer.state_dict())
    second.set_parameters(file)
    assert_same_weights(first.policy, second.policy)
    assert str(second.actor.optimizer.state_dict()) == before
    second.learn(30, reset_num_timesteps=False)
    with pytest.raises(SavedFileError, match=r"policy: its weights do not fit: .*size mismatch"):
        model(width=9).set_parameters(file)


@pytest.mark.parametrize("algorithm", [DDPG, TD3])
def test_sb3s_policies_need_trust(algorithm: Any, tmp_path: Path) -> None:
    theirs, ours, file = model(algorithm), model(seed=5), tmp_path / "policy"
    theirs.policy.save(file)
    for read in (MlpPolicy.load, ours.set_parameters):
        with pytest.raises(UntrustedFileError, match=r"policy is a policy .* SB3 .*trusted=True"):
            read(file)
    ours.set_parameters(file, trusted=True)
    for policy in (MlpPolicy.load(file, trusted=True), ours.policy):
        assert_same_weights(theirs.policy, policy)


def test_a_class_of_the_user_needs_trust(tmp_path: Path) -> None:
    policy = MlpPolicy(spaces.Box(-1, 1, (3,)), ACTIONS, lambda _: 1e-3, net_arch=[8], activation_fn=OwnActivation)
    policy.save(tmp_path / "policy")
    with pytest.raises(UntrustedFileError):
        MlpPolicy.load(tmp_path / "policy")
    assert_same_weights(policy, MlpPolicy.load(tmp_path / "policy", trusted=True))


def test_a_policy_is_no_model_nor_the_other_way_round(tmp_path: Path) -> None:
    ours = model()
    ours.policy.save(tmp_path / "policy")
    ours.save(tmp_path / "model")
    for trusted in (False, True):
        with pytest.raises(SavedFileError, match=r"policy holds no model; .*set_parameters"):
            CustomDDPG.load(tmp_path / "policy", trusted=trusted)
        with pytest.raises(SavedFileError, match=r"model holds no policy.*by its algorithm"):
            MlpPolicy.load(tmp_path / "model", trusted=trusted)


# --- What strangers may try ---


def write(file: Path, content: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(file, "w") as archive:
        for name, value in content.items():
            archive.writestr(name, value)
    return file


def sealed(content: dict[str, bytes], edit: Callable[[Any], object] = lambda document: None) -> dict[str, bytes]:
    """:return: The members with checksums that fit"""
    document = json.loads(content["archive/policy.json"])
    edit(document)
    document["sha256"] = {name: hashlib.sha256(member).hexdigest() for name, member in content.items()}
    del document["sha256"]["archive/policy.json"], document["sha256"]["archive/policy.sha256"]
    text = json.dumps(document).encode()
    return {**content, "archive/policy.json": text, "archive/policy.sha256": hashlib.sha256(text).hexdigest().encode()}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    file = tmp_path / "policy"
    policy_of("mlp").save(file)
    return file


def test_a_pickle_in_a_policy_is_not_run(saved: Path, tmp_path: Path) -> None:
    content, canary = members(saved), tmp_path / "canary"
    payload = pickle.dumps(Bomb(canary))
    for name in content:
        changed = {**content, name: payload}
        file = write(saved, changed if name.startswith("archive/policy.") else sealed(changed))
        if name == "archive/data.pkl":  # which is for SB3 only
            MlpPolicy.load(file)
        elif not name.startswith("archive/.") and name != "archive/version":
            with pytest.raises(SavedFileError):
                MlpPolicy.load(file)
    assert not canary.exists()
    th.save(Bomb(canary), saved)
    with pytest.raises(UntrustedFileError):
        MlpPolicy.load(saved)
    assert not canary.exists()
    th.load(saved, weights_only=False)
    assert canary.exists()


def test_a_flipped_bit_of_a_policy_is_noticed(saved: Path) -> None:
    content = members(saved)
    for name, member in content.items():
        for place in {0, len(member) // 2, len(member) - 1}:
            changed = bytearray(member)
            changed[place] ^= 1
            with pytest.raises(SavedFileError) as error:
                MlpPolicy.load(write(saved, {**content, name: bytes(changed)}))
            assert str(error.value).startswith(str(saved))
            assert "\n" not in str(error.value)


EDITS: dict[str, Callable[[Any], object]] = {
    "format": lambda d: d.update(format=2),
    "no index": lambda d: d.pop("index"),
    "an argument more": lambda d: d["index"]["content"]["data"].update(x=1),
    "an argument less": lambda d: d["index"]["content"]["data"].pop("action_space"),
    "a schedule": lambda d: d["index"]["content"]["data"].update(lr_schedule="x"),
    "a class": lambda d: d["index"]["content"]["data"].update(activation_fn={"$": "class", "path": "os.system"}),
    "another class": lambda d: d["index"]["content"]["data"].update(
        activation_fn={"$": "class", "path": "builtins.int"}
    ),
    "critics": lambda d: d["index"]["content"]["data"].update(n_critics=10**7),
    "layers": lambda d: d["index"]["content"]["data"].update(net_arch=[1] * 10**5),
    "wide layers": lambda d: d["index"]["content"]["data"].update(net_arch=[10**6, 10**6]),
    "other layers": lambda d: d["index"]["content"]["data"].update(net_arch=[9]),
    "a space": lambda d: d["index"]["content"]["data"].update(observation_space=3),
    "weights": lambda d: d["index"]["content"].update(state_dict=3),
    "a weight": lambda d: d["index"]["content"]["state_dict"].pop("actor.mu.0.weight"),
    "no weight": lambda d: d["index"]["content"]["state_dict"].update({"actor.mu.0.weight": 3}),
    "no parts": lambda d: d["index"].update(content=[]),
}


@pytest.mark.parametrize("case", EDITS)
def test_what_a_policy_file_says_is_checked(case: str, saved: Path) -> None:
    write(saved, sealed(members(saved), EDITS[case]))
    with pytest.raises(SavedFileError) as error:
        MlpPolicy.load(saved)
    assert str(error.value).startswith(str(saved))
    assert "\n" not in str(error.value)
