"""Dask clusters that are started by hand, and waiting for what other processes do."""

import contextlib
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import psutil
from distributed import Client
from processes import started


def wait_until(condition: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def dask(*arguments: str, cwd: Path | None = None) -> AbstractContextManager[subprocess.Popen[str]]:
    return started(["-m", "dask", *arguments], cwd, subprocess.DEVNULL)


@contextlib.contextmanager
def cluster_started_by_hand(
    *workers: str, cwd: Path | None = None, protocol: str = "tcp"
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A scheduler, and a worker for each of `workers`, its further arguments."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"{protocol}://127.0.0.1:{free.getsockname()[1]}"
    with contextlib.ExitStack() as processes:
        port = address.rpartition(":")[2]
        listening = ("--host", "127.0.0.1", "--port", port, "--protocol", protocol)
        scheduler = processes.enter_context(dask("scheduler", *listening, "--no-dashboard", "--no-show"))
        for arguments in workers:
            processes.enter_context(dask("worker", address, "--no-dashboard", *arguments.split(), cwd=cwd))
        if workers:
            with Client(address, set_as_default=False) as client:
                client.wait_for_workers(len(workers))
        yield address, scheduler
