"""
A model that an earlier version saved loads; and of damaged and hostile files by the thousand, each loads or gives one
clear error, and runs no code.
"""

import base64
import contextlib
import hashlib
import json
import pickle
import random
import resource
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3 import DDPG

from sb3_ddpg_ext import CustomDDPG
from sb3_ddpg_ext.errors import SavedFileError
from sb3_ddpg_ext.safe_files.archive import SafeArchive

FIXTURE = Path(__file__).parent / "data" / "model_0.1.0.zip"
N_FILES = 1_800
MAX_SECONDS, MAX_MEGABYTES = 5, 600  # of one file; and by how much the peak of memory may grow over all of them


def test_a_model_of_version_0_1_0_loads() -> None:
    """The file was saved by ``sb3_ddpg_ext`` 0.1.0, after 100 steps, the last 50 of them with updates."""
    model = CustomDDPG.load(FIXTURE, env=gym.make("Pendulum-v1"), device="cpu")
    expected = json.loads(FIXTURE.with_suffix(".json").read_text())
    observation = np.array([[1.0, 0.0, 0.5]], dtype=np.float32)
    assert model.num_timesteps == expected["num_timesteps"]
    assert model._n_updates == expected["n_updates"]
    assert repr(model.action_noise) == expected["action_noise"]
    np.testing.assert_allclose(model.predict(observation)[0], expected["action"], rtol=1e-6)
    noise = [float(model.action_noise()[0, 0]) for _ in range(3)]  # type: ignore[misc]
    np.testing.assert_allclose(noise, expected["noise"], rtol=1e-6)
    model.learn(60, reset_num_timesteps=False)
    theirs = DDPG.load(FIXTURE).policy.state_dict()
    ours = CustomDDPG.load(FIXTURE).policy.state_dict()
    assert all(th.equal(theirs[name], ours[name]) for name in theirs)


def _contents(file: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _mutate(content: bytes, rng: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 8, 64])):
        if not data:
            return bytes(data)
        position = rng.randrange(len(data))
        match rng.randrange(5):
            case 0:
                data[position] ^= 1 << rng.randrange(8)
            case 1:
                data[position] = rng.randrange(256)
            case 2:
                del data[position : position + rng.randrange(1, 9)]
            case 3:
                data[position:position] = rng.randbytes(rng.randrange(1, 9))
            case 4:
                data[position : position + 8] = rng.choice([b"\xff" * 8, b"\0" * 8, b"PK\x03\x04PK\x01\x02"])
    return bytes(data)


def raw(content: dict[str, bytes], whole: bytes, file: Path, rng: random.Random) -> None:
    """Bytes of the archive itself."""
    data = _mutate(whole, rng)
    file.write_bytes(data[: rng.randrange(len(data))] if rng.random() < 0.1 else data)


def repacked(content: dict[str, bytes], whole: bytes, file: Path, rng: random.Random) -> None:
    """Bytes of members, with checksums that fit."""
    name = rng.choice(list(content))
    _write(file, {**content, name: _mutate(content[name], rng)}, rng)


def shuffled(content: dict[str, bytes], whole: bytes, file: Path, rng: random.Random) -> None:
    """Members that are missing, or swapped."""
    names = list(content)
    changed = dict(content)
    for _ in range(rng.randrange(1, 3)):
        a, b = rng.sample(names, 2)
        if rng.random() < 0.5:
            changed.pop(a, None)
        else:
            changed[a] = content[b]
    _write(file, changed, rng)


NASTY: list[Any] = [
    *(None, True, -1, 0, 1, 2**31, 2**63, 10**30, 0.5, -1e300, "", "x", "nan", [], {}, [1], [[]], {"a": 1}),
    *(
        {"$": "class", "path": path}
        for path in ("os.system", "torch.optim.adam.Adam", "torch.nn.modules.activation.ReLU")
    ),
    {"$": "array", "dtype": "<f8", "shape": [2**36], "fill": "AAAAAAAAAAA="},
    {"$": "array", "dtype": "<f4", "shape": [3], "fill": "AADAfw=="},
    {"$": "tensor", "number": 0, "dtype": "float32", "shape": [1]},
    {"$": "float", "value": "inf"},
    {"$": "dict", "items": [[1, 2]]},
]


def semantic(content: dict[str, bytes], whole: bytes, file: Path, rng: random.Random) -> None:
    """Valid JSON that says something else."""
    document = json.loads(content["sb3_ddpg_ext.json"])
    for _ in range(rng.choice([1, 1, 2, 5])):
        places: list[tuple[Any, Any]] = []
        _collect(document, places)
        container, key = rng.choice(places)
        match rng.randrange(4):
            case 0 | 1:
                container[key] = rng.choice(NASTY)
            case 2:
                del container[key]
            case 3:
                other_container, other_key = rng.choice(places)
                container[key] = json.loads(json.dumps(other_container[other_key]))
    _write(file, _sealed({**content, "sb3_ddpg_ext.json": json.dumps(document).encode()}), rng)


def _sealed(content: dict[str, bytes]) -> dict[str, bytes]:
    """:return: The members with checksums that fit, as far as there is JSON to hold them"""
    with contextlib.suppress(ValueError, TypeError):
        document = json.loads(content["sb3_ddpg_ext.json"])
        document["sha256"] = {name: hashlib.sha256(member).hexdigest() for name, member in content.items()}
        content = {**content, "sb3_ddpg_ext.json": json.dumps(document).encode()}
    digest = hashlib.sha256(content["sb3_ddpg_ext.json"]).hexdigest().encode()
    return {**content, "sb3_ddpg_ext.sha256": digest}


def resealed(content: dict[str, bytes], whole: bytes, file: Path, rng: random.Random) -> None:
    """Bytes of members, with all checksums that fit."""
    name = rng.choice(list(content))
    _write(file, _sealed({**content, name: _mutate(content[name], rng)}), rng)


def _collect(value: Any, places: list[tuple[Any, Any]]) -> None:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        places.append((value, key))
        _collect(item, places)


def _write(file: Path, content: dict[str, bytes], rng: random.Random) -> None:
    compression = rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, value in content.items():
            archive.writestr(name, value)


class Bomb:
    """Creates a file when it is unpickled."""

    def __reduce__(self) -> Any:
        return Path.touch, (CANARY,)


def payload(content: dict[str, bytes], whole: bytes, file: Path, rng: random.Random) -> None:
    """A pickle that runs code, as a member, inside of one, or inside of the fields that SB3 unpickles."""
    bomb = pickle.dumps(Bomb(), protocol=rng.randrange(6))
    name = rng.choice(list(content))
    member = content[name]
    match rng.randrange(3):
        case 0:
            member = bomb
        case 1:
            position = rng.randrange(len(member))
            member = member[:position] + bomb + member[position:]
        case 2:
            encoded = {":type:": "x", ":serialized:": base64.b64encode(bomb).decode()}
            name, member = "data", json.dumps(dict.fromkeys(json.loads(content["data"]), encoded)).encode()
    changed = {**content, name: member}
    _write(file, changed if rng.random() < 0.3 else _sealed(changed), rng)


ACCIDENTS = [raw, repacked, shuffled]  # after which whatever loads is equal to what was saved
KINDS: list[Callable[[dict[str, bytes], bytes, Path, random.Random], None]]
KINDS = [*ACCIDENTS, resealed, semantic, payload]
CANARY = Path("canary")


def _fingerprint(model: CustomDDPG) -> Any:
    fields = {name: repr(value) for name, value in vars(model).items() if isinstance(value, (int, float, str, dict))}
    arrays = {name: value.tobytes() for name, value in vars(model).items() if isinstance(value, np.ndarray)}
    weights = {name: value.numpy().tobytes() for name, value in model.policy.state_dict().items()}
    optimizers = repr([model.actor.optimizer.state_dict(), model.critic.optimizer.state_dict()])
    return fields, arrays, weights, optimizers, pickle.dumps(model.action_noise), pickle.dumps(model.action_space)


def _peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _outcome(file: Path) -> tuple[CustomDDPG | None, str]:
    try:
        return CustomDDPG.load(file), ""
    except SavedFileError as error:
        return None, str(error)


@pytest.mark.drill
@pytest.mark.filterwarnings("ignore")  # SB3's, of what files ask for
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_fuzzed_models(kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where payloads create their file
    content, whole, rng = _contents(FIXTURE), FIXTURE.read_bytes(), random.Random(kind.__name__)
    original = _fingerprint(CustomDDPG.load(FIXTURE))
    observation, before = np.array([[1.0, 0.0, 0.5]], dtype=np.float32), _peak_megabytes()
    n_refused = 0
    for number in range(N_FILES // len(KINDS)):
        file = tmp_path / "fuzzed.zip"
        kind(content, whole, file, rng)
        start = time.perf_counter()
        model, message = _outcome(file)
        assert time.perf_counter() - start < MAX_SECONDS, number
        assert not CANARY.exists(), number
        n_refused += model is None
        if model is None:
            assert str(file) in message, number
            assert "\n" not in message, number
        elif kind in ACCIDENTS:
            assert _fingerprint(model) == original, number
        elif model.observation_space.shape == (3,):
            assert np.isfinite(model.predict(observation)[0]).all(), number
    assert n_refused > 0
    assert _peak_megabytes() - before < MAX_MEGABYTES


@pytest.mark.parametrize("n", [3, 20, 50])
def test_a_directory_that_claims_to_be_larger_is_not_read(n: int, tmp_path: Path) -> None:
    file = tmp_path / "model.zip"
    with zipfile.ZipFile(file, "w") as archive:
        for i in range(n):
            archive.writestr(f"{i}" * 100, b"")
    with file.open("rb") as opened:
        SafeArchive(opened, "x", max_members=n)
        with pytest.raises(SavedFileError, match="members"):
            SafeArchive(opened, "x", max_members=n - 1)
