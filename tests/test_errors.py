"""Errors in one line."""

import pytest

from sb3_ddpg_ext.errors import one_line, unknown


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("pnik", ["pink", "ou"], "unknown noise 'pnik'; did you mean 'pink'? known: ou, pink"),
        ("PINK", ["pink", "ou"], "unknown noise 'PINK'; did you mean 'pink'? known: ou, pink"),
        ("salt", ["pink", "ou"], "unknown noise 'salt'; known: ou, pink"),
        # A long list helps nobody who sees the name that was meant
        ("name11", [f"name{i}" for i in range(10)], "unknown noise 'name11'; did you mean 'name1'?"),
    ],
)
def test_unknown(name: str, known: list[str], expected: str) -> None:
    assert unknown("noise", name, known) == expected


def test_one_line() -> None:
    assert one_line(ValueError("two\n  lines")) == "two lines"
    assert one_line(ValueError()) == "ValueError()"
