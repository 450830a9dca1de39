import contextlib
import copy
import inspect
import pickle
import re
import string
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from gymnasium.wrappers import FlattenObservation, TimeLimit
from hypothesis import given, settings
from hypothesis import strategies as st
from sb3_contrib import TQC
from stable_baselines3 import DDPG, SAC, HerReplayBuffer
from stable_baselines3.common.callbacks import CheckpointCallback, EveryNTimesteps
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecCheckNan
from stable_baselines3.td3.policies import TD3Policy
from torch import nn, optim

from sb3_ddpg_ext import CustomDDPG, PrioritizedReplayBuffer
from sb3_ddpg_ext.errors import SettingsError
from sb3_ddpg_ext.settings import (
    ALGORITHMS,
    NoiseSettings,
    Settings,
    algorithm_class,
    hyperparams_file,
    load_settings,
    parse_settings,
    read_yaml,
)

HYPERPARAMS = Path(__file__).parent.parent / "hyperparams"
ENVIRONMENTS = [
    "Pendulum-v1",
    "MountainCarContinuous-v0",
    "LunarLanderContinuous-v3",
    "BipedalWalker-v3",
    "InvertedPendulum-v5",
    "Reacher-v5",
    "HalfCheetah-v5",
    "Hopper-v5",
    "Walker2d-v5",
    "Ant-v5",
]

ZOO = """\
default:
  n_timesteps: !!float 1e6
  policy: 'MlpPolicy'

# Tuned
Pendulum-v1: &pendulum-defaults
  n_timesteps: !!float 2e4
  policy: 'MlpPolicy'
  gamma: 0.98
  learning_rate: !!float 1e-3
  buffer_size: 200_000
  batch_size: !!float 64
  noise_type: 'ornstein-uhlenbeck'
  noise_std: 0.5
  train_freq: [1, "episode"]
  gradient_steps: -1
  policy_kwargs: "dict(net_arch=dict(pi=[400, 300], qf=[64]), activation_fn=nn.Tanh, n_critics=1,
    optimizer_class=th.optim.AdamW, optimizer_kwargs=dict(eps=1e-5, betas=(0.9, 0.99), weight_decay=-0.0))"

Merged-v0:
  <<: *pendulum-defaults
  learning_rate: lin_7.3e-4
  train_freq: 8
  normalize: "{'norm_obs': True, 'norm_reward': False}"
  n_envs: 2
  frame_stack: 4
  env_kwargs: {g: 9.81}
  monitor_kwargs: "dict(info_keywords=('is_success',))"
  env_wrapper:
    - gymnasium.wrappers.FlattenObservation
    - gymnasium.wrappers.TimeLimit:
        max_episode_steps: 500
  vec_env_wrapper: stable_baselines3.common.vec_env.VecCheckNan
  callback:
    - stable_baselines3.common.callbacks.CheckpointCallback:
        save_freq: 100
        save_path: logs

Goal-v0:
  n_timesteps: 1000
  policy: 'MultiInputPolicy'
  learning_rate: 1e-3
  replay_buffer_class: HerReplayBuffer
  replay_buffer_kwargs: "dict(
    goal_selection_strategy='future',
    n_sampled_goal=4,
  )"
"""


def parse(algo="ddpg", /, **entry) -> Settings:
    return parse_settings(algo, {"n_timesteps": 100, **entry}, "test")


def error_of(algo="ddpg", /, **entry) -> str:
    with pytest.raises(SettingsError) as caught:
        parse(algo, **entry)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("test: ")
    return message.removeprefix("test: ")


@pytest.fixture
def zoo_file(tmp_path) -> Path:
    file = tmp_path / "zoo.yml"
    file.write_text(ZOO)
    return file


# Algorithms


INSTALLED = [algo for algo in ALGORITHMS if not algo.startswith("sbx_")]


@pytest.mark.parametrize("algo", INSTALLED)
def test_every_algorithm_is_found_and_has_a_file(algo):
    assert algorithm_class(algo).__name__.lower() == algo.replace("_", "")
    assert (HYPERPARAMS / f"{algo}.yml").is_file()


def test_files_of_the_package_by_name(tmp_path, monkeypatch):
    assert load_settings("custom_ddpg", "Pendulum-v1", Path("ddpg")) == load_settings(
        "custom_ddpg", "Pendulum-v1", HYPERPARAMS / "ddpg.yml"
    )
    few = load_settings("custom_ddpg", "Hopper-v5", Path("few_steps"))
    assert (few.n_timesteps, few.hyperparams["n_steps"]) == (100_000, 3)
    assert few.hyperparams["policy_kwargs"] == {"net_arch": [256, 256], "critic_layer_norm": True}
    with pytest.raises(SettingsError, match=r"^unknown settings 'few_step'; did you mean 'few_steps'\? known: crossq,"):
        load_settings("custom_ddpg", "Pendulum-v1", Path("few_step"))
    # A file of the user's is never taken for a name, and a folder is not taken for a file
    monkeypatch.chdir(tmp_path)
    Path("ddpg").mkdir()
    assert load_settings("custom_ddpg", "Pendulum-v1", Path("ddpg")).n_timesteps == 20_000
    Path("few_steps").write_text("default: {n_timesteps: 7, policy: MlpPolicy}")
    assert load_settings("custom_ddpg", "Pendulum-v1", Path("few_steps")).n_timesteps == 7


def test_unknown_algorithm():
    with pytest.raises(SettingsError, match=r"^unknown algorithm 'DDGP'; did you mean 'ddpg'\?$"):
        algorithm_class("DDGP")
    with pytest.raises(SettingsError, match=r"^unknown algorithm 'ppo'; known: crossq, custom_ddpg, .*tqc$"):
        algorithm_class("ppo")
    with pytest.raises(SettingsError, match="unknown algorithm"):
        load_settings("../secret", "Pendulum-v1")


def test_missing_sb3_contrib_names_the_line_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sb3_contrib", None)
    with pytest.raises(SettingsError, match=r"^tqc needs sb3_contrib: pip install 'sb3_ddpg_ext\[train\]'$"):
        load_settings("tqc", "Pendulum-v1")
    assert algorithm_class("custom_ddpg") is CustomDDPG


@pytest.mark.parametrize("algo", [algo for algo in ALGORITHMS if algo.startswith("sbx_")])
def test_sbx_takes_the_files_of_sb3_and_names_the_line_to_install(monkeypatch, algo):
    assert hyperparams_file(algo) == HYPERPARAMS / f"{algo.removeprefix('sbx_')}.yml"
    monkeypatch.setitem(sys.modules, "sbx", None)
    with pytest.raises(SettingsError, match=f"^{algo} needs sbx: pip install sbx-rl$"):
        load_settings(algo, "Pendulum-v1")


def test_sbx_is_not_given_classes_of_pytorch(monkeypatch):
    monkeypatch.setitem(sys.modules, "sbx", SimpleNamespace(SAC=SAC))
    kwargs = {"net_arch": [8], "activation_fn": "nn.Tanh"}
    said = "policy_kwargs: activation_fn is a class of PyTorch, which SBX cannot use; leave it out"
    assert error_of("sbx_sac", policy_kwargs=kwargs) == said
    assert parse("sac", policy_kwargs=kwargs).hyperparams["policy_kwargs"]["activation_fn"] is nn.Tanh
    assert parse("sbx_sac", policy_kwargs={"net_arch": [8]}).hyperparams["policy_kwargs"] == {"net_arch": [8]}


def test_a_parameter_without_annotation_takes_anything(monkeypatch):
    class Bare(DDPG):
        def __init__(self, policy, env, gamma: float = 0.99):  # SBX does not annotate its policy
            super().__init__(policy, env, gamma=gamma)

    monkeypatch.setitem(sys.modules, "sbx", SimpleNamespace(DDPG=Bare))
    assert parse("sbx_ddpg", policy="MlpPolicy", gamma=0.9).hyperparams == {"policy": "MlpPolicy", "gamma": 0.9}
    assert error_of("sbx_ddpg", gamma="high") == "gamma: expected float, got 'high'"
    assert error_of("sbx_ddpg", policy="MlpPolice").startswith("unknown policy 'MlpPolice'; did you mean 'MlpPolicy'")


# The files of this package


@pytest.mark.parametrize("algo", INSTALLED)
def test_packaged_file_is_complete_and_every_entry_fits_the_constructor(algo):
    entries = read_yaml(HYPERPARAMS / f"{algo}.yml")
    assert set(entries) == {*ENVIRONMENTS, "default"}
    for env_id in entries:
        settings = load_settings(algo, env_id)
        inspect.signature(algorithm_class(algo)).bind(env=env_id, **settings.hyperparams)
        assert settings.hyperparams["policy"] == "MlpPolicy"


@pytest.mark.parametrize("algo", INSTALLED)
def test_packaged_file_reads_the_same_with_plain_pyyaml(algo):
    file = HYPERPARAMS / f"{algo}.yml"
    assert yaml.safe_load(file.read_text()) == read_yaml(file)


@pytest.mark.parametrize("algo", INSTALLED)
def test_models_can_be_built_from_the_packaged_settings(algo):
    settings = load_settings(algo, "MountainCarContinuous-v0", overrides=["buffer_size=10", "policy_kwargs=null"])
    algorithm_class(algo)(env="Pendulum-v1", device="cpu", **copy.deepcopy(settings.hyperparams))


def test_values_of_a_packaged_entry():
    settings = load_settings("custom_ddpg", "MountainCarContinuous-v0")
    assert settings.n_timesteps == 50_000
    assert (settings.noise.type, settings.noise.std, settings.noise.kwargs) == (
        "ou",
        0.72468,
        {"correlation_time": 26.225},
    )
    assert settings.hyperparams["policy_kwargs"] == {"net_arch": [64, 64]}
    assert settings.hyperparams["learning_rate"](0.5) == pytest.approx(0.5 * 0.00066905)
    assert settings.normalize is None


# RL Zoo's format


def test_zoo_entry(zoo_file):
    settings = load_settings("ddpg", "Pendulum-v1", zoo_file)
    assert settings.n_timesteps == 20_000
    assert isinstance(settings.n_timesteps, int)
    assert (settings.noise.type, settings.noise.std) == ("ornstein-uhlenbeck", 0.5)
    assert settings.hyperparams == {
        "policy": "MlpPolicy",
        "gamma": 0.98,
        "learning_rate": 1e-3,
        "buffer_size": 200_000,
        "batch_size": 64,
        "train_freq": (1, "episode"),
        "gradient_steps": -1,
        "policy_kwargs": {
            "net_arch": {"pi": [400, 300], "qf": [64]},
            "activation_fn": nn.Tanh,
            "n_critics": 1,
            "optimizer_class": optim.AdamW,
            "optimizer_kwargs": {"eps": 1e-5, "betas": (0.9, 0.99), "weight_decay": 0.0},
        },
    }
    assert isinstance(settings.hyperparams["batch_size"], int)


def test_zoo_entry_with_wrappers(zoo_file):
    settings = load_settings("ddpg", "Merged-v0", zoo_file)
    assert settings.hyperparams["gamma"] == 0.98
    assert settings.hyperparams["train_freq"] == 8
    assert settings.normalize == {"norm_obs": True, "norm_reward": False, "gamma": 0.98}
    assert (settings.n_envs, settings.frame_stack) == (2, 4)
    assert settings.env_kwargs == {"g": 9.81}
    assert settings.monitor_kwargs == {"info_keywords": ("is_success",)}
    assert settings.env_wrapper == ((FlattenObservation, {}), (TimeLimit, {"max_episode_steps": 500}))
    assert settings.vec_env_wrapper == ((VecCheckNan, {}),)
    assert settings.callback == ((CheckpointCallback, {"save_freq": 100, "save_path": "logs"}),)


def test_zoo_entry_with_hindsight_replay(zoo_file):
    hyperparams = load_settings("tqc", "Goal-v0", zoo_file).hyperparams
    assert hyperparams["replay_buffer_class"] is HerReplayBuffer
    assert hyperparams["replay_buffer_kwargs"] == {"goal_selection_strategy": "future", "n_sampled_goal": 4}
    assert hyperparams["learning_rate"] == 1e-3


def test_linear_schedule_ends_at_zero_and_can_be_pickled(zoo_file):
    schedule = load_settings("ddpg", "Merged-v0", zoo_file).hyperparams["learning_rate"]
    assert isinstance(schedule, LinearSchedule)
    assert [schedule(1.0), schedule(0.5), schedule(0.0)] == pytest.approx([7.3e-4, 3.65e-4, 0.0])
    assert pickle.loads(pickle.dumps(schedule))(1.0) == schedule(1.0)


def test_settings_can_be_pickled_but_not_changed(zoo_file):
    settings = load_settings("ddpg", "Pendulum-v1", zoo_file)
    assert pickle.loads(pickle.dumps(settings)) == settings
    with pytest.raises(AttributeError):
        settings.n_timesteps = 1


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "Merged-v0", "Goal-v0", "default"])
def test_raw_is_plain_yaml_that_gives_the_same_settings_again(zoo_file, tmp_path, env_id):
    settings = load_settings("sac", env_id, zoo_file, ["gamma=0.9", "batch_size=32"])
    config = tmp_path / "config.yml"
    config.write_text(yaml.safe_dump(settings.raw, sort_keys=False))
    again = parse_settings("sac", read_yaml(config), "config.yml")
    assert again.raw == settings.raw
    assert again.hyperparams["gamma"] == 0.9
    assert str(again) == str(settings)  # schedules have no equality


def test_raw_does_not_change_with_the_mapping_it_came_from():
    entry = {"n_timesteps": 100, "policy_kwargs": {"net_arch": [64]}}
    settings = parse_settings("ddpg", entry, "test")
    entry["policy_kwargs"]["net_arch"].append(64)
    assert settings.raw == {"n_timesteps": 100, "policy_kwargs": {"net_arch": [64]}}


# Which entry


def test_entry_of_an_environment_with_its_package(zoo_file):
    assert load_settings("ddpg", "some_package:Pendulum-v1", zoo_file).n_timesteps == 20_000


def test_unlisted_environment_gets_the_default(zoo_file):
    assert load_settings("ddpg", "Other-v0", zoo_file).n_timesteps == 1_000_000


def test_no_entry_and_no_default(tmp_path):
    file = tmp_path / "mine.yml"
    file.write_text("Pendulum-v1: {n_timesteps: 1}")
    with pytest.raises(SettingsError, match=r"^mine.yml: .*'Pendulum-v0'; did you mean 'Pendulum-v1'\?.*'default'$"):
        load_settings("ddpg", "Pendulum-v0", file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"Pendulum-v1:\n  gamma: [0.9\n", r"^bad.yml: not a YAML file: line 3, column 1: .+"),
        (b"Pendulum-v1:\n  learning_rate: -\n", r"^bad.yml: not a YAML file: line 2, column 18: .+"),
        (b"Pendulum-v1: !!python/object/apply:os.system ['false']", "line 1, column 14: could not determine a constr"),
        (b"Pendulum-v1: !!float abc", r"^bad.yml: not a YAML file: .*abc"),
        (b"Pendulum-v1: !!int ''", r"^bad.yml: not a YAML file: "),
        (b"Pendulum-v1: !!timestamp abc", r"^bad.yml: not a YAML file: "),
        (b"Pendulum-v1: " + b"[" * 1500, r"^bad.yml: not a YAML file: "),
        (b"\x89PNG\r\n\x1a\n\0\0", r"^bad.yml: not a YAML file: .*decode byte 0x89"),
        (b"a: \0", r"^bad.yml: not a YAML file: .*not allowed"),
        (b"", "^bad.yml: expected a mapping, got None$"),
        (b"- Pendulum-v1", r"^bad.yml: expected a mapping, got \['Pendulum-v1'\]$"),
        (b"Pendulum-v1: 3", "^bad.yml, Pendulum-v1: expected a mapping of hyperparameters, got 3$"),
        (b"Pendulum-v1:", "^bad.yml, Pendulum-v1: expected a mapping of hyperparameters, got None$"),
    ],
)
def test_unreadable_file(tmp_path, content, message):
    file = tmp_path / "bad.yml"
    file.write_bytes(content)
    with pytest.raises(SettingsError, match=message) as caught:
        load_settings("ddpg", "Pendulum-v1", file)
    assert "\n" not in str(caught.value)


def test_missing_file_and_directory(tmp_path):
    with pytest.raises(SettingsError, match=r"none.yml: cannot be read: No such file"):
        load_settings("ddpg", "Pendulum-v1", tmp_path / "none.yml")
    with pytest.raises(SettingsError, match="cannot be read: "):
        load_settings("ddpg", "Pendulum-v1", tmp_path)


# Overrides


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("gamma=0.5", 0.5),
        ("gamma = 0.5", 0.5),
        ("learning_rate=1e-4", 1e-4),
        ("batch_size=1e2", 100),
        ("train_freq=[1,episode]", (1, "episode")),
        ("train_freq=4", 4),
        ("optimize_memory_usage=true", True),
        ("replay_buffer_class=null", None),
        ("policy_kwargs=dict(net_arch=[8,8])", {"net_arch": [8, 8]}),
        ("policy_kwargs=dict(net_arch={'pi': [8], 'qf': [16]})", {"net_arch": {"pi": [8], "qf": [16]}}),
        ("policy_kwargs={'net_arch': [8]}", {"net_arch": [8]}),
        ("policy_kwargs={net_arch: [8], activation_fn: nn.ELU}", {"net_arch": [8], "activation_fn": nn.ELU}),
        (
            "policy_kwargs={features_extractor_kwargs: {activation_fn: nn.ELU}}",
            {"features_extractor_kwargs": {"activation_fn": nn.ELU}},
        ),
    ],
)
def test_override(zoo_file, override, value):
    settings = load_settings("ddpg", "Pendulum-v1", zoo_file, [override])
    name = override.split("=")[0].strip()
    assert settings.hyperparams[name] == value
    assert type(settings.hyperparams[name]) is type(value)
    assert settings.raw.keys() >= {name, "n_timesteps"}


def test_overrides_of_run_settings_and_the_last_one_wins(zoo_file):
    overrides = ["n_timesteps=10", "n_timesteps=1e3", "noise_std=0.2", "learning_rate=lin_1e-3"]
    settings = load_settings("ddpg", "Pendulum-v1", zoo_file, overrides)
    assert (settings.n_timesteps, settings.noise.std) == (1000, 0.2)
    assert settings.raw["learning_rate"] == "lin_1e-3"


@pytest.mark.parametrize("override", ["gamma", "", "=3", " = 3", "--gamma 3", "a.=3", ".a=3", "a..b=3"])
def test_malformed_override(zoo_file, override):
    with pytest.raises(SettingsError, match=r"expected name=value, such as gamma=0.98$"):
        load_settings("ddpg", "Pendulum-v1", zoo_file, [override])


NESTED = """
Pendulum-v1: &shared
  n_timesteps: 10
  normalize: true
  gamma: 0.9
  policy_kwargs: {net_arch: [16], activation_fn: nn.Tanh}
  action_noise: {type: ou, std: 0.3, correlation_time: 3}
Zoo-v0:
  <<: *shared
  policy_kwargs: "dict(net_arch=[16], activation_fn=nn.Tanh, optimizer_class=th.optim.AdamW)"
"""


@pytest.fixture
def nested_file(tmp_path):
    (tmp_path / "nested.yml").write_text(NESTED)
    return tmp_path / "nested.yml"


@pytest.mark.parametrize(
    ("overrides", "changed"),
    [
        (["policy_kwargs.net_arch=[8]"], {"policy_kwargs": {"net_arch": [8], "activation_fn": "nn.Tanh"}}),
        (
            ["policy_kwargs.net_arch={pi: [8]}", "policy_kwargs.net_arch.qf=[4]"],
            {"policy_kwargs": {"net_arch": {"pi": [8], "qf": [4]}, "activation_fn": "nn.Tanh"}},
        ),
        (["policy_kwargs.n_critics=1", "policy_kwargs={net_arch: [4]}"], {"policy_kwargs": {"net_arch": [4]}}),
        (["env_kwargs.g=9.0"], {"env_kwargs": {"g": 9.0}}),
        (["env_kwargs.a.b=1", "env_kwargs.a.c=2"], {"env_kwargs": {"a": {"b": 1, "c": 2}}}),
        (["normalize.norm_reward=false"], {"normalize": {"norm_reward": False}}),
        (["noise_kwargs.schedule=linear"], {"noise_kwargs": {"correlation_time": 3, "schedule": "linear"}}),
        (["action_noise.std=0.1", "action_noise.schedule.type=linear"],
         {"noise_std": 0.1, "noise_kwargs": {"correlation_time": 3, "schedule": {"type": "linear"}}}),
        (["action_noise=pink", "action_noise.std=0.1"],
         {"noise_type": "pink", "noise_std": 0.1, "noise_kwargs": None}),
    ],
    ids=str,
)  # fmt: skip
def test_an_override_of_a_part_leaves_the_rest(nested_file, overrides, changed):
    before = load_settings("custom_ddpg", "Pendulum-v1", nested_file)
    after = load_settings("custom_ddpg", "Pendulum-v1", nested_file, overrides)
    assert dict(after.raw) == {name: value for name, value in {**before.raw, **changed}.items() if value is not None}
    assert load_settings("custom_ddpg", "Pendulum-v1", nested_file) == before  # nothing that is shared was changed


def test_an_override_of_a_part_of_an_expression(nested_file):
    settings = load_settings("custom_ddpg", "Zoo-v0", nested_file, ["policy_kwargs.net_arch=[8]"])
    kwargs = {"net_arch": [8], "activation_fn": nn.Tanh, "optimizer_class": optim.AdamW}
    assert settings.hyperparams["policy_kwargs"] == kwargs
    assert yaml.safe_load(yaml.safe_dump(dict(settings.raw))) == settings.raw


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("polcy_kwargs.net_arch=[8]", "unknown hyperparameter 'polcy_kwargs'; did you mean 'policy_kwargs'?"),
        ("gamma.high=1", "gamma is 0.9, in which nothing has a name; set it as a whole"),
        (
            "policy_kwargs.net_arch.pi=[8]",
            "policy_kwargs.net_arch is [16], in which nothing has a name; set it as a whole",
        ),
        ("batch_size.high=1", "batch_size: expected int, got {'high': 1}"),
    ],
)  # fmt: skip
def test_an_override_of_a_part_that_cannot_be(nested_file, override, message):
    with pytest.raises(SettingsError) as refused:
        load_settings("custom_ddpg", "Pendulum-v1", nested_file, [override])
    assert str(refused.value) == f"nested.yml, Pendulum-v1 with {override}: {message}"


def test_bad_override_is_blamed_on_the_override(zoo_file):
    expected = r"^zoo.yml, Pendulum-v1 with tau=0.1 gamma=\[1: gamma: expected float, got '\[1'$"
    with pytest.raises(SettingsError, match=expected):
        load_settings("ddpg", "Pendulum-v1", zoo_file, ["tau=0.1", "gamma=[1"])


# Names


def test_unknown_hyperparameter(tmp_path):
    file = tmp_path / "custom_ddpg.yml"
    file.write_text("Pendulum-v1: {n_timesteps: 1, lerning_rate: 0.1}")
    expected = r"^custom_ddpg.yml, Pendulum-v1: unknown hyperparameter 'lerning_rate'; did you mean 'learning_rate'\?$"
    with pytest.raises(SettingsError, match=expected):
        load_settings("custom_ddpg", "Pendulum-v1", file)


def test_each_algorithm_has_its_own_hyperparameters():
    assert "unknown hyperparameter 'policy_delay'" in error_of("ddpg", policy_delay=2)
    assert parse("td3", policy_delay=2).hyperparams["policy_delay"] == 2
    assert parse("custom_ddpg", stats_window_size=10).hyperparams["stats_window_size"] == 10
    assert parse("tqc", top_quantiles_to_drop_per_net=5).hyperparams["top_quantiles_to_drop_per_net"] == 5
    assert "unknown hyperparameter 'tau'" in error_of("crossq", tau=0.1)


@pytest.mark.parametrize("name", ["env", "seed", "verbose", "device", "tensorboard_log"])
def test_arguments_of_the_run_are_not_hyperparameters(name):
    assert error_of(**{name: 1}) == f"{name} cannot be set here: it belongs to the run"


def test_names_that_are_not_strings():
    with pytest.raises(SettingsError, match=r"^test: unknown hyperparameter '1'; known: batch_size, "):
        parse_settings("ddpg", {"n_timesteps": 1, 1: 2}, "test")


def test_n_timesteps_is_required():
    with pytest.raises(SettingsError, match=r"^test: n_timesteps is missing; add for example n_timesteps: 100000$"):
        parse_settings("ddpg", {}, "test")


def test_zoo_keys_may_be_null():
    names = ["n_envs", "normalize", "frame_stack", "env_wrapper", "vec_env_wrapper", "callback", "env_kwargs"]
    names += ["monitor_kwargs", "noise_type", "noise_std", "noise_kwargs"]
    settings = parse(**dict.fromkeys(names))
    assert settings == Settings(100, noise=NoiseSettings(None), hyperparams={"policy": "MlpPolicy"}, raw=settings.raw)


# Types and ranges


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("batch_size", 64.5, "expected int, got 64.5"),
        ("batch_size", True, "expected int, got True"),
        ("batch_size", "64", "expected int, got '64'"),
        ("batch_size", None, "expected int, got None"),
        ("batch_size", [64], "expected int, got [64]"),
        ("batch_size", 0, "expected 1 or more, got 0"),
        ("batch_size", -1.0, "expected 1 or more, got -1.0"),
        ("buffer_size", 0, "expected 1 or more, got 0"),
        ("buffer_size", float("inf"), "expected int, got inf"),
        ("learning_starts", -1, "expected 0 or more, got -1"),
        ("gradient_steps", -2, "expected 0 or more, or -1 for as many as environment steps, got -2"),
        ("gamma", "abc", "expected float, got 'abc'"),
        ("gamma", True, "expected float, got True"),
        ("gamma", 1.01, "expected between 0 and 1, got 1.01"),
        ("gamma", float("nan"), "expected between 0 and 1, got nan"),
        ("tau", 0, "expected above 0 and at most 1, got 0"),
        ("tau", 2, "expected above 0 and at most 1, got 2"),
        ("learning_rate", "-", "expected float | lin_<number>, got '-'"),
        ("learning_rate", True, "expected float | lin_<number>, got True"),
        ("learning_rate", "linear_1e-3", "expected float | lin_<number>, got 'linear_1e-3'"),
        ("learning_rate", "lin_fast", "expected a number after lin_, such as lin_7.3e-4, got 'lin_fast'"),
        ("learning_rate", "lin_0", "expected above 0, got 'lin_0'"),
        ("learning_rate", "lin_nan", "expected above 0, got 'lin_nan'"),
        ("learning_rate", -1e-3, "expected above 0, got -0.001"),
        ("learning_rate", "0e0", "expected above 0, got '0e0'"),
        ("train_freq", "often", "expected int | tuple[int, str], got 'often'"),
        ("train_freq", [1, 2, 3], "expected int | tuple[int, str], got [1, 2, 3]"),
        ("train_freq", 0, "expected 1 or more steps, or [1 or more, step or episode], got 0"),
        ("train_freq", [1, "epoch"], "expected 1 or more steps, or [1 or more, step or episode], got [1, 'epoch']"),
        ("optimize_memory_usage", 1, "expected bool, got 1"),
        ("optimize_memory_usage", "true", "expected bool, got 'true'"),
        ("replay_buffer_class", "sb3_ddpg_ext.PrioritizedReplayBuffer", "ddpg updates no priorities; PrioritizedR"),
        ("replay_buffer_class", 3, "expected type[ReplayBuffer] | None, got 3"),
        ("replay_buffer_class", "nn.Tanh", "expected type[ReplayBuffer] | None, got 'nn.Tanh'"),
        ("policy_kwargs", [1], "expected dict[str, Any] | None, got [1]"),
        ("policy_kwargs", {1: 2}, "expected dict[str, Any] | None, got {1: 2}"),
        ("policy_kwargs", "[1, 2]", "expected dict[str, Any] | None, got '[1, 2]'"),
        (
            "policy_kwargs",
            {"share_features_extractor": "flase"},
            "share_features_extractor: expected bool, got 'flase'",
        ),
        ("policy_kwargs", {"normalize_images": 1}, "normalize_images: expected bool, got 1"),
        (
            "replay_buffer_kwargs",
            {"handle_timeout_termination": "no"},
            "handle_timeout_termination: expected bool, got",
        ),
        ("normalize", {"norm_reward": "flase"}, "norm_reward: expected bool, got 'flase'"),
        ("normalize", {"clip_obs": "x"}, "clip_obs: expected float, got 'x'"),
        ("policy", 3, "expected str | type[TD3Policy], got 3"),
        ("n_timesteps", 0, "expected 1 or more, got 0"),
        ("n_timesteps", 1.5, "expected int, got 1.5"),
        ("n_timesteps", "many", "expected int, got 'many'"),
        ("n_envs", 0, "expected 1 or more, got 0"),
        ("n_envs", True, "expected int | None, got True"),
        ("frame_stack", 0, "expected 1 or more, got 0"),
        ("normalize", 1, "expected bool | dict[str, Any] | None, got 1"),
        ("noise_std", -0.1, "expected 0 or more, got -0.1"),
        ("noise_std", "loud", "expected float | list[float] | None, got 'loud'"),
        ("env_kwargs", "render_mode", "'render_mode' is not allowed here; expected numbers, strings, lists, dict(...)"),
    ],
)
def test_bad_value(name, value, message):
    assert error_of(**{name: value}).startswith(f"{name}: {message}")


@pytest.mark.parametrize(
    ("algo", "name", "value", "expected"),
    [
        ("ddpg", "batch_size", 64.0, 64),
        ("ddpg", "batch_size", "1e2", 100),
        ("ddpg", "gamma", 1, 1.0),
        ("ddpg", "gamma", 0, 0.0),
        ("ddpg", "learning_rate", "1e-3", 1e-3),
        ("ddpg", "learning_rate", " 1E-3 ", 1e-3),
        ("ddpg", "learning_rate", 1, 1.0),
        ("ddpg", "train_freq", 8.0, 8),
        ("ddpg", "policy", "stable_baselines3.td3.policies.TD3Policy", TD3Policy),
        ("ddpg", "replay_buffer_class", "HerReplayBuffer", HerReplayBuffer),
        ("custom_ddpg", "replay_buffer_class", "sb3_ddpg_ext.PrioritizedReplayBuffer", PrioritizedReplayBuffer),
        ("sac", "ent_coef", "auto", "auto"),
        ("sac", "ent_coef", "auto_0.1", "auto_0.1"),
        ("sac", "ent_coef", 0.1, 0.1),
        ("sac", "ent_coef", "1e-2", 0.01),
        ("crossq", "use_sde", True, True),
    ],
)
def test_good_value(algo, name, value, expected):
    converted = parse(algo, **{name: value}).hyperparams[name]
    assert converted == expected
    assert type(converted) is type(expected)


def test_long_values_are_shortened_in_messages():
    assert len(error_of(gamma="x" * 10_000)) < 200
    assert len(error_of(policy_kwargs="f(" + "x" * 10_000 + ")")) < 300


def test_unknown_policy():
    assert error_of(policy="MlpPolicie") == (
        "unknown policy 'MlpPolicie'; did you mean 'MlpPolicy'? known: CnnPolicy, MlpPolicy, MultiInputPolicy"
    )
    message = error_of(policy="stable_baselines3.sac.policies.SACPolicy")
    assert message.startswith("policy: expected str | type[TD3Policy], got 'stable_")


# Normalisation and noise


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({}, None),
        ({"normalize": False, "gamma": 0.9}, None),
        ({"normalize": True}, {}),
        ({"normalize": True, "gamma": 0.9}, {"gamma": 0.9}),
        ({"normalize": {"norm_reward": False}, "gamma": 0.9}, {"norm_reward": False, "gamma": 0.9}),
        ({"normalize": "dict(gamma=0.5)", "gamma": 0.9}, {"gamma": 0.5}),
        ({"normalize": {}}, {}),
    ],
)
def test_normalize(entry, expected):
    assert parse(**entry).normalize == expected


@pytest.mark.parametrize(("name", "expected"), [("pink", "pink"), (" ornstein-uhlenbeck ", "ornstein-uhlenbeck")])
def test_noise_type(name, expected):
    settings = parse(noise_type=name)
    assert (settings.noise.type, settings.noise.std, settings.noise.kwargs) == (expected, None, {})


def test_unknown_noise_type():
    known = "known: colored, normal, ornstein-uhlenbeck, ou, parameter, pink, uniform"
    expected = f"noise_type: unknown noise 'nromal'; did you mean 'normal'? {known}"
    assert error_of(noise_type="nromal") == expected


@pytest.mark.parametrize("entry", [{"noise_std": 0.1}, {"noise_kwargs": {"correlation_time": 3}}])
def test_noise_without_its_type(entry):
    name = next(iter(entry))
    assert error_of(**entry) == f"{name} without noise_type; add noise_type: normal or noise_type: ou"


def test_an_override_switches_the_noise_off(zoo_file):
    settings = load_settings("ddpg", "Pendulum-v1", zoo_file, ["noise_type=null"])
    assert (settings.noise.type, settings.noise.std) == (None, None)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("normal", {"noise_type": "normal"}),
        (None, {"noise_type": None}),
        ({"type": "normal", "std": 0.3}, {"noise_type": "normal", "noise_std": 0.3}),
        ({"type": "normal", "std": [0.3, 1]}, {"noise_type": "normal", "noise_std": [0.3, 1]}),
        ({"type": "ou", "correlation_time": 9}, {"noise_type": "ou", "noise_kwargs": {"correlation_time": 9}}),
    ],
)
def test_action_noise_is_short_for_the_three_keys(given, expected):
    assert parse(action_noise=given) == parse(**expected)
    assert parse(action_noise=given).raw == {"n_timesteps": 100, **expected}


def test_an_override_of_action_noise_replaces_all_noise_of_the_file(zoo_file):
    settings = load_settings("ddpg", "Pendulum-v1", zoo_file, ["action_noise={type: normal}"])
    assert (settings.noise.type, settings.noise.std) == ("normal", None)
    assert load_settings("ddpg", "Pendulum-v1", zoo_file, ["action_noise=null"]).noise == NoiseSettings(None)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"action_noise": {"type": 5}}, "noise_type: expected str | None, got 5"),
        ({"action_noise": {"std": 1}}, "action_noise: expected a name, {type: ..., std: ...} or null, got {'std': 1}"),
        ({"action_noise": 0.1}, "action_noise: expected a name, {type: ..., std: ...} or null, got 0.1"),
        ({"action_noise": {"type": "ou", "std": -1}}, "noise_std: expected 0 or more, got -1"),
        ({"action_noise": "ou", "noise_std": 0.1}, "action_noise and noise_std exclude each other; use one of the two"),
    ],
)
def test_bad_action_noise(entry, message):
    assert error_of(**entry) == message


# Import paths


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, ()),
        ([], ()),
        ("gymnasium.wrappers.FlattenObservation", ((FlattenObservation, {}),)),
        ({"gymnasium.wrappers.TimeLimit": {"max_episode_steps": 5}}, ((TimeLimit, {"max_episode_steps": 5}),)),
        ([{"gymnasium.wrappers.FlattenObservation": None}], ((FlattenObservation, {}),)),
    ],
)
def test_wrappers(value, expected):
    assert parse(env_wrapper=value).env_wrapper == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("TimeLimit", "expected an import path such as package.module.Class, got 'TimeLimit'"),
        (".TimeLimit", "expected an import path"),
        ("os; print.x", "expected an import path"),
        ("no_such_package.Wrapper", "cannot import 'no_such_package.Wrapper' (No module named 'no_such_package')"),
        ("gymnasium.wrappers.NoSuch", "cannot import 'gymnasium.wrappers.NoSuch' (module 'gymnasium.wrappers' has"),
        (
            "gymnasium.wrappers.__name__",
            "expected a subclass of gymnasium's Wrapper, got 'gymnasium.wrappers.__name__'",
        ),
        (3, "expected an import path, a mapping from import path to arguments, or a list of these"),
        # arguments that are not indented below their wrapper
        ([{"gymnasium.wrappers.TimeLimit": None, "max_episode_steps": 5}], "expected an import path, a mapping"),
    ],
)
def test_bad_wrapper(value, message):
    assert error_of(env_wrapper=value).startswith(f"env_wrapper: {message}")


def test_callbacks_are_callbacks():
    path = "stable_baselines3.common.callbacks.EveryNTimesteps"
    assert parse(callback=[{path: {"n_steps": 3}}]).callback == ((EveryNTimesteps, {"n_steps": 3}),)
    message = error_of(callback={"subprocess.Popen": {"args": "false"}})
    assert message == "callback: expected a subclass of stable_baselines3's BaseCallback, got 'subprocess.Popen'"


CALLABLES = ["os.system", "pydoc.pipepager", "subprocess.run", "subprocess.Popen", "builtins.eval", "shutil.rmtree"]


@pytest.mark.parametrize("path", [*CALLABLES, "gymnasium.make", "stable_baselines3.DDPG"])
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("env_wrapper", "gymnasium's Wrapper"),
        ("vec_env_wrapper", "stable_baselines3's VecEnvWrapper"),
        ("callback", "stable_baselines3's BaseCallback"),
        ("policy", "stable_baselines3's BasePolicy"),
    ],
)
def test_what_is_no_class_of_the_expected_kind_is_refused(name, expected, path):
    """A building block of attacks: a file could otherwise call any function there is, with arguments of its own."""
    message = f"{name}: expected a subclass of {expected}, got {path!r}"
    assert error_of(**{name: path}) == message
    if name != "policy":
        assert error_of(**{name: [{path: {"command": "false"}}]}) == message
        with pytest.raises(SettingsError, match=re.escape(message)):
            load_settings("ddpg", "Other-v0", overrides=[f"{name}={{{path}: {{command: 'false'}}}}"])


# Small files that mean something huge

NINE = "x, x, x, x, x, x, x, x, x"
NESTED_ALIASES = f"a0: &a0 [{NINE}]\n" + "".join(
    f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]\n" for i in range(9)
)
NESTED_MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i + 1}: &a{i + 1} {{<<: [{', '.join([f'*a{i}'] * 9)}]}}\n" for i in range(9)
)
CHAIN = "a0: &a0 [1]\n" + "".join(f"a{i + 1}: &a{i + 1} [*a{i}]\n" for i in range(2000))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (NESTED_ALIASES, "it has more than 50000 values, with those that its aliases repeat"),
        (NESTED_MERGES, "it has more than 50000 values, with those that its aliases repeat"),
        ("a: [" + "1," * 50_001 + "]", "it has more than 50000 values, with those that its aliases repeat"),
        (CHAIN, "it is nested more than 50 levels deep"),
        ("a: " + "[" * 60 + "]" * 60, "nested more than 50 levels deep"),
        ("[" * 20_000, "maximum recursion depth exceeded"),
        ("a" * 2**20, "it is longer than 256 KiB"),
        ("a: &a {b: *a}", "line 1, column 4: it contains itself"),
        ("a: {gamma: 1, tau: 1, gamma: 2}", "line 1, column 23: the key 'gamma' is there twice"),
        ("a: 1\n" * 20_000, "line 2, column 1: the key 'a' is there twice"),
    ],
    ids=lambda value: value[:12],
)
def test_files_that_are_too_large_are_refused_quickly(tmp_path, text, message):
    file = tmp_path / "any.yml"
    file.write_text(text)
    start = time.process_time()
    with pytest.raises(SettingsError, match=rf"^any.yml: not a YAML file: .*{message}"):
        read_yaml(file)
    assert time.process_time() - start < 5


def test_a_key_may_change_a_merged_one(tmp_path):
    file = tmp_path / "any.yml"
    file.write_text("a: &a {x: 1, y: 1}\nb: {<<: *a, x: 2}")
    assert read_yaml(file)["b"] == {"x": 2, "y": 1}


@pytest.mark.parametrize(
    ("net_arch", "message"),
    [
        ([1] * 100_000, "expected at most 100 layers, got 100000"),
        ({"pi": [8], "qf": [8] * 101}, "expected at most 100 layers, got 101"),
        ([2**16, 2**16], "expected at most 100000000 weights, got 4294967296"),
        ([10**9], "expected layers of 1 to 65536 units, such as [64, 64] or dict(pi=[64, 64], qf=[64, 64]), got [1000"),
        ([0], "expected layers of 1 to"),
        ([64.5], "expected layers of 1 to"),
        ([True], "expected layers of 1 to"),
        ([[64]], "expected layers of 1 to"),
        ("64", "expected layers of 1 to"),
        ({"pi": 64}, "expected layers of 1 to"),
    ],
)
def test_networks_that_nobody_can_build_are_refused(net_arch, message):
    assert error_of(policy_kwargs={"net_arch": net_arch}).startswith(f"policy_kwargs: net_arch: {message}")
    if len(repr(net_arch)) < 10_000:
        given = f"dict(net_arch={net_arch!r})"
        assert error_of(policy_kwargs=given).startswith(f"policy_kwargs: net_arch: {message}")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"n_envs": 10**9}, "n_envs: expected at most 10000, got 1000000000"),
        ({"frame_stack": 10**9}, "frame_stack: expected at most 1000, got 1000000000"),
        ({"policy_kwargs": {"n_critics": 10**6}}, "policy_kwargs: n_critics: expected 1 to 100, got 1000000"),
        ({"policy_kwargs": "dict(a='" + "x" * 10_000 + "')"}, "policy_kwargs: expected an expression of at most 10000"),
    ],
)
def test_absurd_sizes_are_refused(entry, message):
    assert error_of(**entry).startswith(message)


# Expressions: nothing is executed

HOSTILE = [
    "__import__('os').system('touch {path}')",
    "dict(a=__import__('os').system('touch {path}'))",
    "dict(a=open('{path}', 'w'))",
    "dict(**open('{path}', 'w'))",
    "dict(open('{path}', 'w'))",
    "[open('{path}', 'w') for _ in 'x']",
    "{{'a': (lambda: open('{path}', 'w'))()}}",
    "{{open('{path}', 'w'): 1}}",
    "{{**dict(a=1)}}",
    'dict(a=f\'{{open("{path}", "w")}}\')',
    "dict(a=nn.Tanh())",
    "dict(a=nn.Tanh.__init__)",
    "dict(a=nn)",
    "dict(a=nn.modules)",
    "dict(a=nn.init)",
    "dict(a=th.hub.load)",
    "dict(a=(b := 1))",
    "dict(a=2 ** 99999999)",
    "dict(a=1 if 1 else 2)",
    "dict(a=...)",
    "dict(a=b'1')",
    "dict(a=1j)",
    "dict(a=-True.x)",
    "dict.fromkeys('ab')",
    "().__class__",
    "nn.Tanh",
    "dict",
    "dict(",
    "",
    "a = 1",
    "import os",
    "(" * 3000,
    "[" * 90 + "]" * 90 + "x",
    "-" * 5000 + "1",
    "dict(a='\0')",
    "\ud800",
]


@pytest.mark.parametrize("name", ["policy_kwargs", "replay_buffer_kwargs", "normalize", "env_kwargs"])
@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text[:40]))
def test_expression_that_is_not_allowed(tmp_path, name, text):
    path = tmp_path / "executed"
    message = error_of(**{name: text.format(path=path) if "{path}" in text else text})
    assert message.startswith(f"{name}: ")
    assert not path.exists()


def test_message_names_the_part_that_is_not_allowed():
    assert error_of(policy_kwargs="dict(net_arch=[64], activation_fn=nn.Tan)") == (
        "policy_kwargs: 'nn.Tan' is not allowed here; expected numbers, strings, lists, dict(...) and names "
        "such as nn.ReLU, th.optim.Adam or HerReplayBuffer"
    )
    assert "'nn.Tan' is not allowed here" in error_of(policy_kwargs={"activation_fn": "nn.Tan"})
    assert "expected a mapping or an expression such as dict(net_arch=[64, 64])" in error_of(policy_kwargs="dict(a=")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nn.LeakyReLU", nn.LeakyReLU),
        ("th.nn.Mish", nn.Mish),
        ("torch.nn.SiLU", nn.SiLU),
        ("optim.Adam", optim.Adam),
        ("th.optim.RMSprop", optim.RMSprop),
        ("torch.optim.SGD", optim.SGD),
        ("HerReplayBuffer", HerReplayBuffer),
        ("[1, -2.5, 1e-3, 'a', None, True]", [1, -2.5, 1e-3, "a", None, True]),
        ("(1, (2,), ())", (1, (2,), ())),
        ("{'a': {1: [dict(b=dict())]}}", {"a": {1: [{"b": {}}]}}),
    ],
)
def test_expression(text, expected):
    assert parse(policy_kwargs=f"dict(x={text})").hyperparams["policy_kwargs"] == {"x": expected}


def test_classes_in_a_plain_mapping():
    entry = {"activation_fn": "nn.Tanh", "optimizer_class": "optim.AdamW", "note": "nn.Tanh", "net_arch": []}
    assert parse(policy_kwargs=entry).hyperparams["policy_kwargs"] == {
        "activation_fn": nn.Tanh,
        "optimizer_class": optim.AdamW,
        "note": "nn.Tanh",
        "net_arch": [],
    }


literals = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(string.ascii_letters), inner) | st.tuples(inner, inner),
    max_leaves=10,
)


@settings(max_examples=50, deadline=None)
@given(literals)
def test_expression_gives_back_what_was_written(value):
    assert parse(policy_kwargs=repr({"x": value})).hyperparams["policy_kwargs"] == {"x": value}


pieces = st.sampled_from(["dict(", "nn.Tanh", "__import__('os')", "[", ")", "{", "a=", "lambda: ", ",", ".", "1", "'"])


def accepted_or_refused_in_one_line(name, value) -> bool:
    try:
        parse(**{name: value})
    except SettingsError as error:
        return "\n" not in str(error)
    return True


@settings(max_examples=100, deadline=None)
@given(st.text() | st.lists(pieces).map("".join))
def test_any_text_is_an_expression_or_a_settings_error(text):
    assert accepted_or_refused_in_one_line("policy_kwargs", text)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(["gamma", "learning_rate", "train_freq", "policy", "normalize", "env_wrapper"]), literals)
def test_any_value_is_a_setting_or_a_settings_error(name, value):
    assert accepted_or_refused_in_one_line(name, value)


@settings(max_examples=100, deadline=None)
@given(st.text() | st.lists(pieces).map("".join))
def test_any_text_is_a_file_or_a_settings_error(tmp_path_factory, text):
    file = tmp_path_factory.getbasetemp() / "any.yml"
    file.write_text(text, encoding="utf-8", errors="replace")
    with pytest.raises(SettingsError, match=r"^any.yml: .*\Z"):
        load_settings("ddpg", "Pendulum-v1", file)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(["policy_kwargs", "learning_rate", "n_envs"]), st.text())
def test_any_override_is_a_setting_or_a_settings_error(name, text):
    with contextlib.suppress(SettingsError):
        load_settings("ddpg", "Other-v0", overrides=[f"{name}={text}"])


def test_classes_of_the_algorithms():
    assert algorithm_class("ddpg") is DDPG
    assert algorithm_class("tqc") is TQC


def test_the_default_of_custom_ddpg_is_the_agent_and_the_noise_of_the_comparison_of_noises():
    """Every environment of a user's own gets it."""
    agent = read_yaml(HYPERPARAMS.parent / "docs/noise/agent.yml")["MountainCarContinuous-v0"]
    default = read_yaml(HYPERPARAMS / "custom_ddpg.yml")["default"]
    assert default == agent | {"policy": "MlpPolicy", "noise_type": "ou", "train_freq": 1, "gradient_steps": 1}
    report = (HYPERPARAMS.parent / "docs/noise/report.md").read_text()
    for noise, score in (("ou", r"0.852 \[0.816, 0.861\]"), ("normal, std: 0.1", r"0.435 \[0.418, 0.440\]")):
        assert rf"action\_noise=\{{type: {noise}\}} | {score}" in report
        assert score.replace("\\", "") in (HYPERPARAMS / "custom_ddpg.yml").read_text()
