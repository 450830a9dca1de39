"""The table of what can be tuned, for each algorithm and environment that there are settings for."""

import json
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from small_runs import noise_of

from sb3_ddpg_ext.building import make_env, make_model
from sb3_ddpg_ext.errors import SettingsError
from sb3_ddpg_ext.settings import (
    ALGORITHMS,
    Settings,
    hyperparams_file,
    load_settings,
    parse_settings,
    read_yaml,
)
from sb3_ddpg_ext.tuning.space import Space, make_space

ALGOS = [algo for algo in ALGORITHMS if not algo.startswith("sbx_")]
NOISE = {"noise_type", "noise_std", "correlation_time", "noise_schedule"}
ENTRIES = [(algo, env) for algo in ALGOS for env in read_yaml(hyperparams_file(algo))]


def space(algo: str = "custom_ddpg", env: str = "Pendulum-v1", *fix: str, **given: Any) -> Space:
    return make_space(algo, load_settings(algo, env), given, fix)


def meaning(settings: Settings) -> dict[str, Any]:
    """What settings mean, with what the constructors of SB3 do where they say nothing."""
    silent = {"tau": 0.005, "gamma": 0.99, "n_steps": 1, "learning_starts": 100, "buffer_size": 1_000_000}
    silent |= {"batch_size": 256, "gradient_steps": 1, "train_freq": 1, "ent_coef": "auto"}
    said = {**silent, **settings.hyperparams}
    said["policy_kwargs"] = {k: v for k, v in (said.get("policy_kwargs") or {}).items() if k != "activation_fn"}
    for name in ("learning_rate", "policy_delay"):  # not the same in all
        said.pop(name, None)
    if said["gradient_steps"] == -1:
        said["gradient_steps"] = said["train_freq"] * settings.n_envs
    said["noise"] = noise_of(settings)
    return said


@pytest.mark.parametrize(("algo", "env"), ENTRIES)
def test_the_previous_settings_are_a_point_of_the_space(algo: str, env: str) -> None:
    found, previous = space(algo, env), load_settings(algo, env)
    settings = found.settings(found.incumbent_values(), "")
    assert meaning(settings) == meaning(previous)
    assert settings.n_timesteps == previous.n_timesteps
    rate, before = (s.hyperparams.get("learning_rate") for s in (settings, previous))
    if before is not None:
        assert getattr(rate, "start", rate) == getattr(before, "start", before)
        assert type(rate) is type(before)


def test_whole_ends_of_real_numbers() -> None:
    """They are whole numbers for settings that are whole."""
    given: dict[str, Any] = {name: {"low": 1, "high": 2} for name in ("noise_std", "huber_delta", "batch_size")}
    found = {d.name: d.distribution for d in space(**given, gamma={"low": 0, "high": 1}).dimensions}
    for name in ("noise_std", "huber_delta", "gamma"):
        assert isinstance(found[name], FloatDistribution)
    assert isinstance(found["batch_size"], IntDistribution)


def test_learning_starts_before_training_ends() -> None:
    def choices(n_timesteps: int) -> Any:
        raw = {"n_timesteps": n_timesteps, "learning_starts": 100}
        found = make_space("custom_ddpg", parse_settings("custom_ddpg", raw, ""), {}, ())
        return {d.name: d.distribution for d in found.dimensions}["learning_starts"].choices  # type: ignore[attr-defined]

    assert choices(20_000) == (100, 1_000, 10_000)
    assert choices(1_500) == (100, 1_000)
    assert choices(1_000) == choices(50) == (100,)


@pytest.mark.parametrize("algo", ALGOS)
def test_whatever_is_sampled_can_be_used_and_does_not_change_what_is_not_tuned(algo: str) -> None:
    found = space(algo, "MountainCarContinuous-v0")
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    names = set()
    for _ in range(60):
        trial = study.ask()
        values = found.sample(trial)
        settings = found.settings(values, "")
        assert trial.params == values
        assert settings.n_timesteps == found.base["n_timesteps"]
        assert yaml.safe_load(yaml.safe_dump(dict(settings.raw))) == settings.raw
        names |= values.keys()
        if algo == "custom_ddpg":
            assert ("correlation_time" in values) == (settings.noise.type == "ou")
            assert set(settings.noise.kwargs) - {"schedule"} == {"correlation_time"} & values.keys()
            assert settings.noise.kwargs.get("schedule", "constant") == values["noise_schedule"]
    assert names == {dimension.name for dimension in found.dimensions}


def test_rows_belong_to_the_algorithms_that_have_them() -> None:
    names = {algo: {d.name for d in space(algo, "Hopper-v5").dimensions} for algo in ALGOS}
    assert "policy_delay" in names["td3"] - names["ddpg"]
    assert "ent_coef" in names["sac"] - names["td3"]
    assert "noise_type" in names["ddpg"] - names["sac"]
    assert "tau" in names["tqc"] - names["crossq"]
    assert {"correlation_time", "noise_schedule"} <= names["custom_ddpg"] - names["ddpg"]
    assert not {"policy_delay", "ent_coef"} & names["custom_ddpg"]


def test_each_algorithm_is_tuned_with_its_own_noises() -> None:
    def noises(algo: str) -> tuple[Any, ...]:
        (dimension,) = [d for d in space(algo, "Hopper-v5").dimensions if d.name == "noise_type"]
        assert isinstance(dimension.distribution, CategoricalDistribution)
        return tuple(dimension.distribution.choices)

    assert {"normal", "ou", "pink"} <= set(noises("custom_ddpg"))
    assert "ornstein-uhlenbeck" in noises("ddpg")
    assert not {"ou", "pink"} & set(noises("ddpg"))


def test_ranges_are_widened_so_that_they_hold_the_previous_settings() -> None:
    previous = load_settings("custom_ddpg", "Pendulum-v1", overrides=["gamma=0.5", "tau=0.5"])
    values = {d.name: d.distribution for d in make_space("custom_ddpg", previous, {}, ()).dimensions}
    assert values["gamma"].choices[-1] == 0.5  # type: ignore[attr-defined]
    assert values["buffer_size"].choices[-1] == 200_000  # type: ignore[attr-defined]
    assert values["tau"] == FloatDistribution(0.001, 0.5, log=True)


def test_a_setting_that_no_value_can_express_stays_as_it_is() -> None:
    previous = load_settings("ddpg", "Pendulum-v1", overrides=["train_freq=[1, episode]", "gradient_steps=-1"])
    found = make_space("ddpg", previous, {}, ())
    assert "updates_per_step" not in {d.name for d in found.dimensions}
    settings = found.settings(found.incumbent_values(), "")
    assert (settings.hyperparams["train_freq"], settings.hyperparams["gradient_steps"]) == ((1, "episode"), -1)


@pytest.mark.parametrize(
    ("noise", "std"),
    [("ou", 0.2 / 0.3**0.5), ("pink", 0.3), ("normal", 0.1), ("uniform", 0.1), ("{type: colored, beta: 0.5}", 0.3)],
)
def test_a_noise_without_a_given_standard_deviation_has_its_default(noise: str, std: float) -> None:
    previous = load_settings("custom_ddpg", "Pendulum-v1", overrides=[f"action_noise={noise}"])
    found = make_space("custom_ddpg", previous, {}, ())
    assert found.incumbent_values()["noise_std"] == std
    settings = found.settings(found.incumbent_values(), "")
    assert (settings.noise.type, settings.noise.std) == (previous.noise.type, std)
    assert dict(settings.noise.kwargs).items() >= dict(previous.noise.kwargs).items()


def test_arguments_of_one_noise_are_not_given_to_another() -> None:
    spec = "action_noise={type: colored, beta: 0.5, std: 0.2, horizon: 50, schedule: {type: linear, end: 0.1}}"
    previous = load_settings("custom_ddpg", "Pendulum-v1", overrides=[spec])
    found = make_space("custom_ddpg", previous, {}, ())
    assert meaning(found.settings(found.incumbent_values(), "")) == meaning(previous)
    env = make_env("Pendulum-v1", previous, 1, 0)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen = set()
    for _ in range(20):
        settings = found.settings(found.sample(study.ask()), "")
        make_model(settings, "custom_ddpg", env)  # refuses arguments that a noise does not have
        seen.add(settings.noise.type)
        assert settings.noise.kwargs.get("horizon") == (50 if settings.noise.type in ("colored", "pink") else None)
    assert seen >= {"normal", "ou", "pink", "colored"}


def test_a_standard_deviation_for_each_action_stays_as_it_is() -> None:
    previous = load_settings("custom_ddpg", "Pendulum-v1", overrides=["action_noise={type: ou, std: [0.2]}"])
    found = make_space("custom_ddpg", previous, {}, ())
    assert "noise_std" not in {d.name for d in found.dimensions}
    assert found.settings(found.incumbent_values(), "").noise.std == [0.2]


@pytest.mark.parametrize(("policy", "by_name"), [("MlpPolicy", False), ("LayerNormPolicy", True)])
def test_layer_norm_is_tuned(policy: str, by_name: bool) -> None:
    previous = load_settings("custom_ddpg", "Pendulum-v1", overrides=[f"policy={policy}"])
    found = make_space("custom_ddpg", previous, {}, ())
    values = found.incumbent_values()
    assert values["critic_layer_norm"] is by_name
    assert "critic_layer_norm" not in found.entry(values)["policy_kwargs"]
    entry = found.entry({**values, "critic_layer_norm": not by_name})
    assert entry["policy_kwargs"]["critic_layer_norm"] is not by_name


def test_simba_has_layer_norm_and_blocks_of_one_width_already() -> None:
    kwargs = "policy_kwargs={net_arch: {pi: [32], qf: [64]}}"
    previous = load_settings("custom_ddpg", "Pendulum-v1", overrides=["policy=SimbaPolicy", kwargs])
    found = make_space("custom_ddpg", previous, {}, ())
    names = {dimension.name for dimension in found.dimensions}
    assert not {"critic_layer_norm", "net_arch"} & names
    assert "activation_fn" in names
    assert found.incumbent_entry()["policy_kwargs"]["net_arch"] == {"pi": [32], "qf": [64]}


def test_n_steps_is_tuned_where_the_buffer_supports_it() -> None:
    def names(*overrides: str, algo: str = "custom_ddpg") -> set[str]:
        previous = load_settings(algo, "Pendulum-v1", overrides=["n_steps=1", *overrides])
        return {d.name for d in make_space(algo, previous, {}, ()).dimensions}

    assert "n_steps" in names()
    assert "n_steps" in names(algo="ddpg")
    assert "n_steps" in names("policy=MultiInputPolicy")
    assert "n_steps" not in names("policy=MultiInputPolicy", algo="ddpg")
    assert "n_steps" in names("replay_buffer_class=sb3_ddpg_ext.PrioritizedReplayBuffer")
    assert "n_steps" not in names("replay_buffer_class=HerReplayBuffer")
    assert "n_steps" not in names("optimize_memory_usage=true")
    previous = load_settings("custom_ddpg", "Pendulum-v1", overrides=["n_steps=1"])
    fixed = make_space("custom_ddpg", previous, {}, ("replay_buffer_class=HerReplayBuffer",))
    assert "n_steps" not in {d.name for d in fixed.dimensions}


def test_only_sampled_values_are_rounded() -> None:
    previous = load_settings("custom_ddpg", "Pendulum-v1", overrides=["learning_rate=0.00123456789"])
    found = make_space("custom_ddpg", previous, {}, ("gamma=0.9999999",))
    entry = found.entry(found.incumbent_values())
    assert (entry["learning_rate"], entry["gamma"]) == (0.00123456789, 0.9999999)
    assert found.entry({"learning_rate": 0.00123456780})["learning_rate"] == 0.0012346
    chosen = make_space("custom_ddpg", previous, {"gamma": [0.99, 0.9999999]}, ())
    assert chosen.entry({"gamma": 0.9999999})["gamma"] == 0.9999999


def test_rows_of_a_file_that_the_table_builds_on() -> None:
    previous = load_settings("custom_ddpg", "Pendulum-v1", overrides=["n_envs=4", "train_freq=1", "gradient_steps=4"])
    found = make_space("custom_ddpg", previous, {"n_envs": [1, 4, 8]}, ())
    assert meaning(found.settings(found.incumbent_values(), "")) == meaning(previous)
    assert found.entry({**found.incumbent_values(), "n_envs": 8})["gradient_steps"] == 8


def test_a_noise_that_a_file_leaves_out() -> None:
    previous = load_settings("custom_ddpg", "Pendulum-v1", overrides=["action_noise={type: pink, horizon: 9}"])
    found = make_space("custom_ddpg", previous, {"noise_type": ["normal", "ou"]}, ())
    assert not found.incumbent_values().keys() & {"noise_type", "noise_std"}
    assert not found.entry(found.incumbent_values()).keys() & {"noise_type", "noise_std", "noise_kwargs"}
    entry = found.entry({**found.incumbent_values(), "noise_type": "normal", "noise_std": 0.3})
    assert (entry["noise_type"], entry["noise_std"], entry["noise_kwargs"]) == ("normal", 0.3, {})


@pytest.mark.parametrize(
    "overrides",
    [
        ["noise_type=ou", "noise_std=0.0"],
        ["noise_type=ou", 'noise_kwargs="dict(correlation_time=20)"'],
        ["gradient_steps=0"],
        ['replay_buffer_kwargs="dict(handle_timeout_termination=False)"'],
        ['policy_kwargs="dict(net_arch=[64, 64], optimizer_kwargs=dict(betas=(0.5, 0.999)))"'],
    ],
    ids=str,
)
def test_settings_at_the_edge_stay_what_they_are(overrides: list[str]) -> None:
    previous = load_settings("custom_ddpg", "Pendulum-v1", overrides=["noise_kwargs=null", "noise_std=0.5", *overrides])
    found = make_space("custom_ddpg", previous, {}, ())
    settings = found.settings(found.incumbent_values(), "")
    here, before = meaning(settings), meaning(previous)
    assert here.pop("noise")[:2] == before.pop("noise")[:2]
    assert json.dumps(here, sort_keys=True, default=str) == json.dumps(before, sort_keys=True, default=str)
    assert yaml.safe_load(yaml.safe_dump(dict(settings.raw))) == settings.raw


def test_settings_as_rl_zoo_writes_them(tmp_path: Path) -> None:
    file = tmp_path / "zoo.yml"
    text = 'policy_kwargs: "dict(net_arch=[32], activation_fn=nn.Tanh, optimizer_class=th.optim.AdamW)"'
    file.write_text(f"Pendulum-v1:\n  n_timesteps: 100\n  learning_rate: lin_1e-3\n  {text}\n")
    found = make_space("ddpg", load_settings("ddpg", "Pendulum-v1", file), {}, ())
    entry = found.entry(found.incumbent_values())
    assert entry["policy_kwargs"] == {
        "optimizer_class": "th.optim.AdamW", "net_arch": [32], "activation_fn": "nn.Tanh"
    }  # fmt: skip
    assert entry["learning_rate"] == "lin_0.001"
    assert entry["noise_type"] is None


def test_fixed_settings() -> None:
    found = space(
        "custom_ddpg", "Pendulum-v1", "gamma=0.9", "net_arch=[8, 8]", "n_envs=4", "noise_type=normal", "tau=1e-2"
    )
    assert found.fixed == {"gamma": 0.9, "net_arch": "[8, 8]", "noise_type": "normal", "tau": 0.01}
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        trial = study.ask()
        entry = found.entry(found.sample(trial))
        assert not trial.params.keys() & {"gamma", "net_arch", "noise_type", "correlation_time", "tau"}
        assert (entry["gamma"], entry["policy_kwargs"]["net_arch"], entry["n_envs"]) == (0.9, [8, 8], 4)
        updates = trial.params["updates_per_step"] * trial.params["train_freq"] * 4
        assert entry["gradient_steps"] == max(round(updates), 1)


@pytest.mark.parametrize(
    ("fix", "changed", "gone"),
    [
        ("action_noise=null", ["noise_type", "noise_std"], NOISE),
        ("action_noise={type: normal, std: 0.2}", ["noise_std"], NOISE),
        ("policy_kwargs={net_arch: [8]}", ["policy_kwargs"], {"net_arch", "activation_fn"}),
        ("gradient_steps=3", ["gradient_steps"], {"updates_per_step"}),
    ],
)
def test_what_a_fixed_setting_replaces_is_not_tuned(fix: str, changed: list[str], gone: set[str]) -> None:
    found = space("custom_ddpg", "Pendulum-v1", fix)
    before = {d.name for d in space("custom_ddpg", "Pendulum-v1").dimensions}
    now = {d.name for d in found.dimensions}
    assert gone <= before - now
    assert {"gamma", "tau", "batch_size"} <= now
    said = load_settings("custom_ddpg", "Pendulum-v1", overrides=[fix]).raw
    entry = found.entry(found.incumbent_values())
    assert [entry.get(name) for name in changed] == [said.get(name) for name in changed]


def test_a_part_of_a_mapping_that_is_fixed_leaves_the_rest() -> None:
    found = space("custom_ddpg", "Pendulum-v1", "policy_kwargs.optimizer_kwargs.eps=1e-5")
    assert {"net_arch", "activation_fn"} <= {d.name for d in found.dimensions}
    kwargs = found.entry(found.incumbent_values())["policy_kwargs"]
    assert kwargs == {"net_arch": [64, 64], "activation_fn": "nn.ReLU", "optimizer_kwargs": {"eps": 1e-5}}


def test_a_part_of_the_noise_that_is_fixed_leaves_the_rest() -> None:
    found = space("custom_ddpg", "Pendulum-v1", "action_noise.std=0.2")
    entry = found.entry(found.incumbent_values())
    assert (entry["noise_type"], entry["noise_std"]) == ("normal", 0.2)
    with pytest.raises(SettingsError, match=r"^--fix: gamma is 0.98, in which nothing has a name; set it as a whole$"):
        space("custom_ddpg", "Pendulum-v1", "gamma.high=1")


@pytest.mark.parametrize(
    ("fix", "expected"),
    [
        ("train_freq=[1, episode]", {"train_freq": [1, "episode"]}),
        ("learning_rate=lin_1.0e-3", {"learning_rate": "lin_1.0e-3"}),
    ],
)
def test_fixed_values_that_other_rows_build_on(fix: str, expected: dict[str, Any]) -> None:
    found = space("custom_ddpg", "Pendulum-v1", fix)
    entry = found.entry(found.incumbent_values() | {"updates_per_step": 1.0, "learning_rate_schedule": "linear"})
    assert {name: entry[name] for name in expected} == expected


OPTIONS = ("critic_learning_rate", "max_grad_norm", "huber_delta", "pre_activation_coef", "target_policy_noise")


def test_options_are_searched_where_they_are_named() -> None:
    assert not {d.name for d in space().dimensions} & {*OPTIONS}
    (mentioned,) = {d.name for d in space("custom_ddpg", "Pendulum-v1", "max_grad_norm=3.0").dimensions} & {*OPTIONS}
    assert mentioned == "max_grad_norm"

    found = space(**{name: {} for name in OPTIONS})
    values = found.incumbent_values()
    rate = values.pop("critic_learning_rate")
    assert rate == values["learning_rate"]  # the critic has the actor's until now
    assert [values[name] for name in OPTIONS[1:]] == ["default", "default", 0.0, 0.0]
    assert found.settings(values, "").hyperparams.keys().isdisjoint({"max_grad_norm", "huber_delta"})
    tried = {"critic_learning_rate": 5e-3, "max_grad_norm": 0.5, "huber_delta": 1.0, "target_policy_noise": 0.2}
    hyperparams = found.settings({**values, **tried}, "").hyperparams
    assert {name: hyperparams[name] for name in tried} == tried


def test_a_file_narrows_and_extends_the_table() -> None:
    given = yaml.safe_load(
        "gamma: [0.98, 0.99]\nlearning_rate: {low: 0.0001, high: 0.001, log: true}\nnet_arch: [[8], [8, 8]]\n"
        "batch_size: {low: 16, high: 64}\ntau: 0.01\n"
        "stats_window_size: [10, 20]\nenv_kwargs.g: {low: 9.0, high: 11.0}\n"
    )
    found = space("custom_ddpg", "Pendulum-v1", **given)
    values = {d.name: d.distribution for d in found.dimensions}
    assert values["gamma"] == CategoricalDistribution((0.98, 0.99))
    assert values["learning_rate"] == FloatDistribution(1e-4, 1e-3, log=True)
    assert values["batch_size"] == IntDistribution(16, 64)
    assert found.fixed == {"tau": 0.01}
    assert "learning_rate" not in found.incumbent_values()  # 0.002 is not among them
    entry = found.entry({**found.incumbent_values(), "net_arch": "[8, 8]", "batch_size": 20, "env_kwargs.g": 10.0})
    assert (entry["policy_kwargs"]["net_arch"], entry["batch_size"], entry["env_kwargs"]) == ([8, 8], 20, {"g": 10.0})
    assert found.settings({"stats_window_size": 20}, "").hyperparams["stats_window_size"] == 20


REFUSED = {
    "choice": ({"gamma": [0.9, 2]}, "gamma=2: gamma: expected between 0 and 1, got 2"),
    "end": ({"tau": {"low": 0.1, "high": 3.0}}, "tau=3.0: tau: expected above 0 and at most 1"),
    "type": ({"gamma": ["high"]}, "gamma=high: gamma: expected float"),
    "name": ({"gama": [0.9]}, "gama=0.9: unknown hyperparameter 'gama'; did you mean 'gamma'"),
    "other keys": (
        {"tau": {"low": 0.1, "high": 1, "scale": "log"}},
        r"--space: tau: expected .* or \{low: 0.1, high: 1, log",
    ),
    "wrong way round": ({"tau": {"low": 1, "high": 0.1}}, r"--space: tau: expected .*\{low"),
    "nothing": ({"gamma": []}, r"--space: gamma: expected choices such as \[0.1, 1\]"),
}


@pytest.mark.parametrize(("given", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        space("custom_ddpg", "Pendulum-v1", **given)
    assert "\n" not in str(caught.value)
