import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from processes import forked

from sb3_ddpg_ext import CustomDDPG
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


# --- A full disk, which is a real one of a few pages ---


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Make a file system of a size such as 200k."""
    directory = tmp_path / "small"
    directory.mkdir()

    def make(size: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(directory)]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode != 0:
            pytest.skip("needs the right to mount a file system")
        return directory

    yield make
    subprocess.run(["umount", "-l", str(directory)], capture_output=True)


TINY = ["--eval-freq", "100", "--quiet"]
NETWORK = ["learning_starts=50", "batch_size=8", "buffer_size=500", "train_freq=1", "gradient_steps=1"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}


def train_in(directory: Path, width: int) -> subprocess.CompletedProcess[str]:
    params = [f"policy_kwargs={{net_arch: [{width}]}}", *NETWORK]
    command = ["train", "--env", "Pendulum-v1", "--steps", "300", "--eval-episodes", "1", *TINY]
    command += [argument for param in params for argument in ("-p", param)]
    return forked([*command, "--log-dir", str(directory / "runs")], directory.parent, ENVIRONMENT, timeout=120)


def test_a_model_that_does_not_fit_is_named_and_what_was_there_stays_whole(small_disk: Any) -> None:
    directory = small_disk("200k")
    result = train_in(directory, 700)
    assert result.returncode == 2
    run = directory / "runs/custom_ddpg/Pendulum-v1_1"
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: [Errno 28] No space left on device: '{run}/Pendulum-v1.zip'")
    best = CustomDDPG.load(run / "best_model.zip")  # the first one, whole
    assert best.num_timesteps == 100
    assert not list(run.glob(".partial*"))


def test_a_finished_run_whose_picture_does_not_fit_is_finished(small_disk: Any) -> None:
    directory = small_disk("100k")
    result = train_in(directory, 16)
    run = directory / "runs/custom_ddpg/Pendulum-v1_1"
    assert result.returncode == 0, result.stderr
    missing = f"The learning curve is missing: [Errno 28] No space left on device: '{run}/learning_curve.png'"
    assert result.stderr.splitlines() == [missing]
    assert result.stdout.splitlines()[-1] == f"Saved in {run}"
    assert json.loads((run / "result.json").read_text())["status"] == "finished"


def test_a_report_that_does_not_fit_leaves_the_runs_finished(small_disk: Any) -> None:
    directory = small_disk("130k")
    algorithm = ",".join(["custom_ddpg:policy_kwargs={net_arch: [8]}", *NETWORK])
    command = ["compare", "--algos", algorithm, "--envs", "Pendulum-v1", "--seeds", "1", "--steps", "300", *TINY]
    command += ["--eval-episodes", "10", "--workers", "0", "--log-dir", str(directory / "out")]
    result = forked(command, directory.parent, ENVIRONMENT, timeout=120)
    assert result.returncode == 2
    last = result.stderr.splitlines()[-1]
    assert last.startswith(f"error: [Errno 28] No space left on device: '{directory}/out/")
    (record,) = directory.glob("out/*/*/result.json")
    assert json.loads(record.read_text())["status"] == "finished"
