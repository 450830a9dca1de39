from pathlib import Path

import pytest

from sb3_ddpg_ext.files import atomic, lock


def test_half_written_files_do_not_replace_whole_ones(tmp_path: Path) -> None:
    file = tmp_path / "file.txt"
    file.write_text("whole")

    def write_half() -> None:
        with atomic(file) as partial:
            partial.write_text("ha")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert file.read_text() == "whole"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def test_whole_files_appear(tmp_path: Path) -> None:
    with atomic(tmp_path / "file.txt") as partial:
        partial.write_text("whole")
        assert not (tmp_path / "file.txt").exists()
    assert (tmp_path / "file.txt").read_text() == "whole"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def test_a_directory_is_had_by_one_at_a_time(tmp_path: Path) -> None:
    with lock(tmp_path, wait=False) as first:
        assert first
        with lock(tmp_path, wait=False) as second:
            assert not second
    with lock(tmp_path, wait=True) as third:
        assert third
