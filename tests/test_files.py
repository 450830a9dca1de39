import errno
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from processes import forked

from sb3_ddpg_ext import CustomDDPG, report
from sb3_ddpg_ext.files import atomic, lock
from sb3_ddpg_ext.log_file import LogFile


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


def test_a_file_is_on_the_disk_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a power cut there is the old file or the new one, not a new name with nothing behind it."""
    file, fsync = tmp_path / "file.txt", os.fsync
    forced: list[tuple[str, bool]] = []

    def observed(descriptor: int) -> None:
        fsync(descriptor)
        status = os.fstat(descriptor)
        what = "directory" if os.path.samestat(status, tmp_path.stat()) else f"{status.st_size} bytes"
        forced.append((what, file.exists()))

    monkeypatch.setattr(os, "fsync", observed)
    with atomic(file) as partial:
        partial.write_text("whole")
    assert forced == [("5 bytes", False), ("directory", True)]


def test_a_directory_is_had_by_one_at_a_time(tmp_path: Path) -> None:
    with lock(tmp_path, wait=False) as first:
        assert first
        with lock(tmp_path, wait=False) as second:
            assert not second
    with lock(tmp_path, wait=True) as third:
        assert third


def test_one_waits_for_the_other(tmp_path: Path) -> None:
    """Each adds a line by replacing the file: none is lost."""
    file = tmp_path / "file.txt"
    file.write_text("")

    def add(line: int) -> None:
        with lock(tmp_path, wait=True):
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
PATHS = os.pathsep.join([str(Path(__file__).parent / "helpers"), *filter(None, [os.environ.get("PYTHONPATH")])])
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120", "PYTHONPATH": PATHS}


def train_in(directory: Path, width: int) -> subprocess.CompletedProcess[str]:
    params = [f"policy_kwargs={{net_arch: [{width}]}}", *NETWORK]
    command = ["train", "--env", "Pendulum-v1", "--steps", "300", "--eval-episodes", "1", *TINY]
    command += ["--checkpoint-freq", "0"]
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


@pytest.mark.parametrize("vec_env", ["dummy", pytest.param("subproc", marks=pytest.mark.slow)])
def test_episodes_that_cannot_be_logged(vec_env: str, small_disk: Any) -> None:
    directory = small_disk("28k")
    command = [
        "train",
        "--env",
        "comparison_envs:Quick-v0",
        "--steps",
        "100000",
        "--quiet",
        "--eval-freq",
        "0",
        "--vec-env",
        vec_env,
    ]
    command += ["-p", "policy_kwargs={net_arch: [8]}", "-p", "learning_starts=200000", "--checkpoint-freq", "0"]
    result = forked([*command, "--log-dir", str(directory)], directory.parent, ENVIRONMENT, timeout=120)
    assert result.returncode == 2
    run = directory / "custom_ddpg/Quick-v0_1"
    (line,) = result.stderr.splitlines()
    first = "0.monitor.csv", "progress.csv"  # which of the two needs the last block depends on the length of their rows
    assert any(line.startswith(f"error: [Errno 28] No space left on device: '{run}/{name}'") for name in first)
    report.learning_curve(run)  # whose last episode is perhaps there in part


def test_a_log_that_does_not_fit_is_named_and_its_whole_rows_stay(small_disk: Any) -> None:
    directory = small_disk("28k")
    model = CustomDDPG("MlpPolicy", "Pendulum-v1", buffer_size=10)
    log_file = LogFile(directory)

    def log() -> None:
        with closing(log_file):
            model.learn(1, callback=log_file)
            for i in range(10_000):
                model.logger.record("i", i)
                model.logger.dump()

    with pytest.raises(OSError, match=f"No space left on device: '{directory}/progress.csv'"):
        log()
    lines = (directory / "progress.csv").read_text().splitlines()
    assert lines[:-1] == ["i", *map(str, range(len(lines) - 2))]  # the last row is perhaps there in part


def test_a_full_disk_does_not_hide_what_ended_training(small_disk: Any) -> None:
    directory = small_disk("28k")
    command = ["train", "--env", "faulty_envs:Faulty-v0", "--steps", "100", "--quiet", "--eval-freq", "0"]
    command += ["-p", "env_kwargs={fault: raises}", "-p", "policy_kwargs={net_arch: [700]}"]
    result = forked([*command, "--log-dir", str(directory)], directory.parent, ENVIRONMENT, timeout=120)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: environment 'faulty_envs:Faulty-v0' (index 0), step 30")
    assert not list(directory.rglob("*.zip"))


@pytest.mark.slow
def test_a_study_whose_database_cannot_grow(small_disk: Any) -> None:
    directory = small_disk("144k")
    command = ["tune", "--env", "comparison_envs:Quick-v0", "--trials", "60", "--steps", "30", "--eval-freq", "30"]
    command += ["--eval-episodes", "1", "--seeds", "1", "--workers", "0", "--no-write", "--quiet"]
    for fixed in ("policy_kwargs={net_arch: [8]}", "learning_starts=1000", "buffer_size=200"):
        command += ["--fix", fixed]
    result = forked([*command, "--log-dir", str(directory)], directory.parent, ENVIRONMENT, timeout=120)
    assert result.returncode == 2, result.stderr
    line = "study.db has no space left on its disk; what is finished is kept, and the same command goes on with it"
    assert result.stderr.splitlines()[-1].endswith(line)
    assert "Traceback" not in result.stderr


def test_of_two_files_the_one_that_does_not_fit_is_named(tmp_path: Path) -> None:
    """A model, say, and its statistics, which are renamed together."""

    def write() -> None:
        with atomic(tmp_path / "model"), atomic(tmp_path / "statistics"):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="statistics") as caught:
        write()
    assert caught.value.filename == str(tmp_path / "statistics")


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
