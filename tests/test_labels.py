import pytest
from hypothesis import given
from hypothesis import strategies as st

from sb3_ddpg_ext.labels import pieces


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
    found = pieces(text, ",:")
    assert "".join(found) == text
    assert all(piece.endswith((",", ":")) for piece in found[:-1])
