"""Policies as TorchScript and ONNX: they act as ``predict`` does, and a file that does not is never written."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from small_runs import TINY_PARAMS
from stable_baselines3 import SAC, TD3
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ddpg_ext import CustomDDPG
from sb3_ddpg_ext.arguments import ExportArgs, ExportFormat, TrainArgs
from sb3_ddpg_ext.building import make_env
from sb3_ddpg_ext.errors import SettingsError
from sb3_ddpg_ext.evaluation import find_model
from sb3_ddpg_ext.export import DeterministicPolicy, check, export, observations, write
from sb3_ddpg_ext.training import train

FORMATS: list[ExportFormat] = ["torchscript", "onnx"]
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


@pytest.fixture(autouse=True)
def _extra(request: pytest.FixtureRequest) -> None:
    if "onnx" in request.node.name:
        pytest.importorskip("onnxruntime")


class Anything(gym.Env[Any, Any]):
    """Random observations of any space; actions with different bounds."""

    def __init__(self, space: spaces.Space[Any]) -> None:
        self.observation_space = space
        self.action_space = spaces.Box(np.float32([-2, 0]), np.float32([2, 10]))

    def reset(self, **kwargs: Any) -> Any:
        super().reset(**kwargs)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        return self.observation_space.sample(), 0.0, False, bool(self.np_random.random() < 0.1), {}


def trained(
    cls: type[OffPolicyAlgorithm], policy: str, space: spaces.Space[Any], normalize: dict[str, Any] | None
) -> OffPolicyAlgorithm:
    env: Any = make_vec_env(lambda: Anything(space), seed=0)
    if normalize is not None:
        env = VecNormalize(env, **normalize)
    kwargs = {"net_arch": [16], **({"normalize_images": True} if policy in ("CnnPolicy", "MultiInputPolicy") else {})}
    model = cls(policy, env, policy_kwargs=kwargs, learning_starts=20, buffer_size=100, batch_size=8, seed=0)
    model.learn(40)
    if normalize is not None:
        env.training = False
    return model


FLAT = spaces.Box(np.float64([-1, -np.inf, 0]), np.float64([1, np.inf, 50]), dtype=np.float64)  # like MuJoCo's
IMAGES = spaces.Box(0, 255, (3, 36, 36), np.uint8)
DICT = spaces.Dict({"z": spaces.Box(-5, 5, (3,)), "picture": IMAGES, "a": spaces.Discrete(3)})
CASES = {
    "flat": (CustomDDPG, "MlpPolicy", FLAT, None),
    "simba": (CustomDDPG, "SimbaPolicy", FLAT, None),
    "normalized": (CustomDDPG, "MlpPolicy", FLAT, {}),
    "normalized-rewards-only": (CustomDDPG, "MlpPolicy", FLAT, {"norm_obs": False}),
    "td3": (TD3, "MlpPolicy", FLAT, {"clip_obs": 2.0}),
    "sac": (SAC, "MlpPolicy", FLAT, {}),
    "images": (CustomDDPG, "CnnPolicy", IMAGES, None),
    "dict": (CustomDDPG, "MultiInputPolicy", DICT, {"norm_obs_keys": ["z"]}),
}


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("case", CASES)
def test_a_file_acts_as_the_model(case: str, format_: ExportFormat, tmp_path: Path) -> None:
    model = trained(*CASES[case])
    write(DeterministicPolicy(model), tmp_path / "policy", format_)
    assert check(tmp_path / "policy", model, format_) < 1e-5


def test_observations_reach_the_bounds_and_beyond_what_is_usual() -> None:
    space = spaces.Box(np.float64([-1, -np.inf, 0]), np.float64([1, np.inf, 1e6]), dtype=np.float64)
    (batch,) = observations(space).values()
    assert batch.dtype == np.float64
    np.testing.assert_array_equal(batch.min(axis=0), [-1, -1000, 0])
    np.testing.assert_array_equal(batch.max(axis=0), [1, 1000, 1000])
    np.testing.assert_array_equal(batch, observations(space)["observation"])
    assert list(observations(DICT)) == list(DICT.spaces)


def _without_statistics(model: OffPolicyAlgorithm, policy: DeterministicPolicy) -> None:
    policy._statistics = {}


def _without_rescaling(model: OffPolicyAlgorithm, policy: DeterministicPolicy) -> None:
    policy._low, policy._high = -th.ones(2), th.ones(2)


def _one_weight_a_little(model: OffPolicyAlgorithm, policy: DeterministicPolicy) -> None:
    with th.no_grad():
        model.policy.actor.mu[2].bias += 0.01  # type: ignore[union-attr, index, operator]


@pytest.mark.parametrize("change", [_without_statistics, _without_rescaling, _one_weight_a_little])
def test_a_file_that_acts_differently_is_noticed(change: Any, tmp_path: Path) -> None:
    model = trained(CustomDDPG, "MlpPolicy", FLAT, {})
    policy = DeterministicPolicy(model)
    if change is not _one_weight_a_little:
        change(model, policy)
    write(policy, tmp_path / "policy", "torchscript")
    if change is _one_weight_a_little:
        change(model, policy)
    with pytest.raises(SettingsError, match="acts differently"):
        check(tmp_path / "policy", model, "torchscript")


# --- The command ---


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    params = (*TINY_PARAMS, "normalize=true")
    args = TrainArgs("Pendulum-v1", steps=120, eval_freq=60, eval_episodes=1, quiet=True, params=params)
    return train(TrainArgs(**{**vars(args), "log_dir": tmp_path_factory.mktemp("runs")})).directory


@pytest.mark.parametrize("format_", FORMATS)
def test_a_run_is_exported(run: Path, format_: ExportFormat, tmp_path: Path) -> None:
    file, difference = export(ExportArgs(run, format_, tmp_path / "policy"))
    assert file == tmp_path / "policy"
    assert difference < 1e-6
    assert list(tmp_path.iterdir()) == [file]
    # As whoever is given the file would use it, with the statistics of the best model inside
    observation = np.float32([[0.6, 0.8, -3.0]])
    if format_ == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(file)
        (action,) = session.run(["action"], {"observation": observation})
    else:
        action = th.jit.load(str(file))(th.as_tensor(observation)).numpy()
    saved = find_model(run)
    env = make_env(saved.env, saved.settings, 1, 0, training=False, vecnormalize=saved.vecnormalize)
    assert isinstance(env, VecNormalize)
    expected, _ = saved.load(env, "cpu").predict(env.normalize_obs(observation))
    np.testing.assert_allclose(action, expected, rtol=1e-5)


def test_a_file_gets_the_models_name(run: Path) -> None:
    assert export(ExportArgs(run, model="last"))[0] == run / "Pendulum-v1.pt"


def test_nothing_is_written_where_actions_differ(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DeterministicPolicy, "forward", lambda self, observation: observation[:, :1])
    with pytest.raises(SettingsError, match=r"best_model\.zip: the torchscript file acts differently: by [\d.e+]+ of"):
        export(ExportArgs(run, output=tmp_path / "policy.pt"))
    assert list(tmp_path.iterdir()) == []


def test_a_policy_that_cannot_be_traced(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DeterministicPolicy, "forward", lambda self, observation: str(observation))
    with pytest.raises(SettingsError, match="its policy cannot be written as torchscript") as error:
        export(ExportArgs(run, output=tmp_path / "policy.pt"))
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_pickles_need_trust(tmp_path: Path) -> None:
    TD3("MlpPolicy", "Pendulum-v1", policy_kwargs={"net_arch": [8]}, buffer_size=10).save(tmp_path / "model.zip")
    with pytest.raises(SettingsError, match="--trusted"):
        export(ExportArgs(tmp_path / "model.zip", algo="td3", env="Pendulum-v1"))
    export(ExportArgs(tmp_path / "model.zip", algo="td3", env="Pendulum-v1", trusted=True))
    assert (tmp_path / "model.pt").exists()
