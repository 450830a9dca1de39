"""Import paths lead to classes of the expected kind, and not into a run directory."""

from pathlib import Path

import gymnasium as gym
import pytest
from gymnasium.wrappers import TimeLimit

from sb3_ddpg_ext.errors import SettingsError
from sb3_ddpg_ext.imports import check_origin, import_class


def test_a_class() -> None:
    assert import_class("gymnasium.wrappers.TimeLimit", gym.Wrapper) is TimeLimit
    with pytest.raises(SettingsError, match=r"^expected a subclass of gymnasium's Wrapper, got 'os.system'$"):
        import_class("os.system", gym.Wrapper)


def test_a_module_that_ends_the_program_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "leaves_at_once.py").write_text("raise SystemExit('first line\\nsecond line')")
    monkeypatch.syspath_prepend(tmp_path)
    message = (
        r"^cannot import 'leaves_at_once.Wrapper' \(first line second line\); install its package or mend the path$"
    )
    with pytest.raises(SettingsError, match=message):
        import_class("leaves_at_once.Wrapper", gym.Wrapper)


def test_a_link_into_the_directory_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "code.py").touch()
    (tmp_path / "linked_code.py").symlink_to(tmp_path / "run" / "code.py")
    (tmp_path / "linked_run").symlink_to(tmp_path / "run")
    monkeypatch.syspath_prepend(tmp_path)
    for module in ("linked_code", "linked_run.code", "run.code"):
        with pytest.raises(SettingsError, match=f"^{module!r} would be imported from .*--trusted$"):
            check_origin(module, tmp_path / "linked_run")
        check_origin(module, None)


@pytest.mark.parametrize("module", ["gymnasium.wrappers", "sys", "__main__", "no_such_module", "sb3_ddpg_ext"])
def test_other_modules_are_left_alone(module: str, tmp_path: Path) -> None:
    check_origin(module, tmp_path)
