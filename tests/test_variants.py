"""What the user writes in ``--algos``, and the folders that runs get."""

import contextlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from processes import ENVIRONMENT

from sb3_ddpg_ext.errors import SettingsError
from sb3_ddpg_ext.settings import load_settings
from sb3_ddpg_ext.variants import Variant, parse_variants, pieces


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ddpg", [Variant("ddpg", "ddpg")]),
        (" ddpg , td3", [Variant("ddpg", "ddpg"), Variant("td3", "td3")]),
        (
            "custom_ddpg:learning_rate=3e-4,batch_size=128,sac",
            [
                Variant(
                    "custom_ddpg:learning_rate=3e-4,batch_size=128",
                    "custom_ddpg",
                    None,
                    ("learning_rate=3e-4", "batch_size=128"),
                ),
                Variant("sac", "sac"),
            ],
        ),
        (
            "ddpg:policy_kwargs=dict(net_arch=[8, 8], n_critics=1),env_kwargs={g: 1, a: {b: [2, 3]}}",
            [
                Variant(
                    "ddpg:policy_kwargs=dict(net_arch=[8, 8], n_critics=1),env_kwargs={g: 1, a: {b: [2, 3]}}",
                    "ddpg",
                    None,
                    ("policy_kwargs=dict(net_arch=[8, 8], n_critics=1)", "env_kwargs={g: 1, a: {b: [2, 3]}}"),
                )
            ],
        ),
        (
            "custom_ddpg:hyperparams=ddpg,gamma=0.9",
            [Variant("custom_ddpg:hyperparams=ddpg,gamma=0.9", "custom_ddpg", Path("ddpg"), ("gamma=0.9",))],
        ),
        ("td3:hyperparams=a/b.yml", [Variant("td3:hyperparams=a/b.yml", "td3", Path("a/b.yml"))]),
        (
            " ddpg : gamma = 0.9 , tau= 0.1,td3",
            [Variant("ddpg:gamma=0.9,tau=0.1", "ddpg", None, ("gamma=0.9", "tau=0.1")), Variant("td3", "td3")],
        ),
        ("ddpg:gamma=0.9,ddpg", [Variant("ddpg:gamma=0.9", "ddpg", None, ("gamma=0.9",)), Variant("ddpg", "ddpg")]),
    ],
)
def test_variants(text: str, expected: list[Variant]) -> None:
    assert list(parse_variants(text)) == expected


VALUES = st.recursive(
    st.text("abc.01 ", min_size=1).filter(lambda s: s == s.strip()),
    lambda inner: (
        st.lists(inner).map(lambda items: f"[{','.join(items)}]")
        | st.lists(inner).map(lambda items: "{" + ", ".join(f"k: {i}" for i in items) + "}")
    ),
)
OVERRIDES = st.dictionaries(st.sampled_from(["gamma", "tau"]), VALUES).map(lambda d: [f"{k}={v}" for k, v in d.items()])


@given(st.lists(st.tuples(st.sampled_from(["ddpg", "sac"]), OVERRIDES), min_size=1))
def test_any_list_of_variants_is_read_as_it_was_written(written: list[tuple[str, list[str]]]) -> None:
    labels = [algo + ":" * bool(overrides) + ",".join(overrides) for algo, overrides in written]
    variants = parse_variants(",".join(labels))
    assert [variant.label for variant in variants] == labels
    assert [(variant.algo, list(variant.params)) for variant in variants] == written


@given(st.text())
def test_any_text_is_a_list_of_variants_or_a_settings_error(text: str) -> None:
    with contextlib.suppress(SettingsError):
        parse_variants(text)


@pytest.mark.parametrize(
    ("label", "folder"),
    [
        ("custom_ddpg", "custom_ddpg"),
        ("ddpg:gamma=0.9", "ddpg-gamma-0.9-[0-9a-f]{6}"),
        ("ddpg:policy_kwargs={net_arch: [" + "8, " * 90 + "8]}", "ddpg-policy_kwargs-net_arch[0-9-]*-[0-9a-f]{6}"),
    ],
)
def test_folders_are_short_and_safe(label: str, folder: str) -> None:
    assert re.fullmatch(folder, Variant(label, "ddpg").folder)


@given(st.lists(st.text(min_size=1), min_size=2, max_size=2, unique=True))
def test_folders_tell_labels_apart(labels: list[str]) -> None:
    folders = [Variant(label, "ddpg").folder for label in labels]
    assert folders[0] != folders[1]
    assert all(re.fullmatch("[A-Za-z0-9._-]{1,47}", folder) for folder in folders)


@pytest.mark.parametrize(
    ("text", "separators", "expected"),
    [
        ("", ",", [""]),
        ("ddpg", ",", ["ddpg"]),
        ("ddpg,td3,", ",", ["ddpg,", "td3,", ""]),
        ("a:b=1,c=2", ":,", ["a:", "b=1,", "c=2"]),
        ("a:b={c: [1, 2], d: (3, 4)},e=5", ":,", ["a:", "b={c: [1, 2], d: (3, 4)},", "e=5"]),
        ("a=[1,2", ",", ["a=[1,2"]),
    ],
)
def test_pieces(text: str, separators: str, expected: list[str]) -> None:
    assert pieces(text, separators) == expected


@given(st.text("a,:[]{}()"))
def test_pieces_joined_are_the_text(text: str) -> None:
    parts = pieces(text, ",:")
    assert "".join(parts) == text
    assert all(piece.endswith((",", ":")) for piece in parts[:-1])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("short=ddpg,td3", [Variant("short", "ddpg"), Variant("td3", "td3")]),
        ("low-g=custom_ddpg:gamma=0.9,tau=1", [Variant("low-g", "custom_ddpg", None, ("gamma=0.9", "tau=1"))]),
        ("ddpg:gamma=1,hyperparams=td3", [Variant("ddpg:gamma=1,hyperparams=td3", "ddpg", Path("td3"), ("gamma=1",))]),
        ("mine:My,sac", [Variant("mine:My", "mine:My"), Variant("sac", "sac")]),
        ("a.mine:My:tau=1,gamma=1", [Variant("a.mine:My:tau=1,gamma=1", "a.mine:My", None, ("tau=1", "gamma=1"))]),
        ("x=mine:My:tau=1", [Variant("x", "mine:My", None, ("tau=1",))]),
    ],
)
def test_names_and_classes_of_the_users(text: str, expected: list[Variant]) -> None:
    assert list(parse_variants(text)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("low=custom_dpg", "low=custom_dpg: unknown algorithm 'custom_dpg'; did you mean 'custom_ddpg'?"),
        ("custom_ddpg:gamma=0.9,low=sbx_sca:gamma=1", "unknown algorithm 'sbx_sca'; did you mean 'sbx_sac'?"),
        ("td3,two critics=custom_ddpg:gamma=0.9", "custom_ddpg cannot be called 'two critics'; expected letters"),
        ("..=custom_ddpg", "custom_ddpg cannot be called '..'; expected letters, digits, '.', '_' and '-', without"),
        ("report.html=td3", "td3 cannot be called 'report.html'"),
        ("runs.csv=td3", "td3 cannot be called 'runs.csv'"),
    ],
)
def test_what_cannot_be_a_name(text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=f"^--algos: .*{re.escape(message)}"):
        parse_variants(text)


def test_a_setting_after_a_class_without_settings_belongs_to_nothing() -> None:
    with pytest.raises(SettingsError, match=r"'tau=1' belongs to no algorithm; expected for example mine:My:tau=1$"):
        parse_variants("mine:My,tau=1")


MINE = """
from stable_baselines3 import TD3
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from sb3_ddpg_ext import CustomDDPG

class MyDDPG(CustomDDPG):
    def __init__(self, *args, bonus: float = 0.0, **kwargs):
        super().__init__(*args, **kwargs)
        self.bonus = bonus

class Foreign(OffPolicyAlgorithm):
    policy_aliases = TD3.policy_aliases
    def __init__(self, policy, env, learning_rate: float = 1e-3, **kwargs):
        super().__init__(policy, env, learning_rate, **kwargs)
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "own_algorithms.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_a_class_has_the_settings_of_its_ancestor_and_parameters_of_its_own(mine: Path) -> None:
    own = "own_algorithms:MyDDPG"
    assert load_settings(own, "Pendulum-v1").raw == load_settings("custom_ddpg", "Pendulum-v1").raw
    assert load_settings(own, "Pendulum-v1", overrides=["bonus=0.5", "gamma=0.5"]).hyperparams["bonus"] == 0.5
    (mine / "hyperparams").mkdir()
    (mine / "hyperparams" / "MyDDPG.yml").write_text("Pendulum-v1: {n_timesteps: 7}")
    assert load_settings(own, "Pendulum-v1").n_timesteps == 7
    for wrong, said in (
        (["bonus=high"], "bonus: expected float, got 'high'"),
        (["boni=1"], "unknown hyperparameter 'boni'; did you mean"),
    ):
        with pytest.raises(SettingsError, match=said):
            load_settings(own, "Pendulum-v1", overrides=wrong)
    foreign = "own_algorithms:Foreign"
    assert load_settings(foreign, "Pendulum-v1", overrides=["n_timesteps=9", "gamma=0.5"]).n_timesteps == 9
    with pytest.raises(SettingsError, match=r"Foreign has the defaults of its constructor, .*; say --steps$"):
        load_settings(foreign, "Pendulum-v1")
    for name in ("own_algorithms:None_", "nowhere:Class"):
        with pytest.raises(SettingsError, match=r"^cannot import '.*install its package or mend the path$"):
            load_settings(name, "Pendulum-v1")
    with pytest.raises(SettingsError, match="expected a subclass of stable_baselines3's OffPolicyAlgorithm"):
        load_settings("pathlib:Path", "Pendulum-v1")


def command(*arguments: str) -> str:
    result = subprocess.run(
        [sys.executable, "-m", "sb3_ddpg_ext", *arguments],
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.slow
def test_a_class_of_the_current_folder_is_compared_in_worker_processes_and_trained(mine: Path) -> None:
    few = ["--steps", "120", "--eval-freq", "60", "--eval-episodes", "10"]
    algos = "own_algorithms:MyDDPG:bonus=0.5,learning_starts=60,plain=custom_ddpg:learning_starts=60"
    printed = command("compare", "--algos", algos, "--envs", "Pendulum-v1", "--seeds", "1", *few, "--quiet")
    assert "plain  " in printed
    runs = {p.name for p in (mine / "runs" / "compare").iterdir() if p.is_dir()}
    assert "plain" in runs
    assert len(runs) == 2
    page = (mine / "runs" / "compare" / "report.md").read_text()
    assert "custom" not in page.split("## Runs")[0].replace("custom\\_ddpg/", "")  # it goes by its name everywhere
    command("train", "--env", "Pendulum-v1", "--algo", "own_algorithms:MyDDPG", *few, "--quiet")
    assert "mean return" in command("evaluate", "runs/MyDDPG/Pendulum-v1_1", "--episodes", "1")
