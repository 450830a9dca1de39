"""What the user writes in ``--algos``, and the folders that runs get."""

import contextlib
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sb3_ddpg_ext.errors import SettingsError
from sb3_ddpg_ext.settings import hyperparams_file
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
            [
                Variant(
                    "custom_ddpg:hyperparams=ddpg,gamma=0.9", "custom_ddpg", hyperparams_file("ddpg"), ("gamma=0.9",)
                )
            ],
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
