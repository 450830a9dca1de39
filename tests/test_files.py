from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sb3_ddpg_ext.files import alone, atomic, lock


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


def test_one_at_a_time_also_where_the_file_is_replaced(tmp_path: Path) -> None:
    """Each adds a line by replacing the file: none is lost."""
    file = tmp_path / "file.txt"
    file.write_text("")

    def add(line: int) -> None:
        with alone(file):
            text = file.read_text()
            new = tmp_path / f"{line}.txt"
            new.write_text(f"{text}{line}\n")
            new.replace(file)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(80)))
    assert sorted(map(int, file.read_text().split())) == list(range(80))
