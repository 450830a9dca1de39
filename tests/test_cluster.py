"""The fan-out, with real processes: this one, those it starts, and a scheduler with workers started by hand."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from clusters import cluster_started_by_hand, dask, gone, wait_until
from dask import config as dask_config
from distributed import get_client
from processes import ENVIRONMENT, started

from sb3_ddpg_ext import cluster
from sb3_ddpg_ext.cluster import run_all
from sb3_ddpg_ext.errors import SettingsError

# --- Functions that the tests call; workers import them from this module ---


def reciprocal(x: int) -> float:
    return 1 / x


def where(_: int) -> tuple[int, str | None, str | None, set[signal.Signals]]:
    threads, trim = map(os.environ.get, ("OMP_NUM_THREADS", "MALLOC_TRIM_THRESHOLD_"))
    return os.getpid(), threads, trim, signal.pthread_sigmask(signal.SIG_BLOCK, [])  # type: ignore[return-value]


def log(file: Path, text: str) -> None:
    with file.open("a") as lines:
        lines.write(f"{text}\n")


def killed_once(folder: Path, x: int) -> int:
    log(folder / "begun", str(x))
    if x == 1 and not (folder / "killed").exists():
        (folder / "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    log(folder / "done", str(x))
    return x


def killed_each_time(x: int) -> int:
    if x == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


_inside = threading.Semaphore(1)


def alone(_: int) -> bool:
    free = _inside.acquire(blocking=False)
    time.sleep(0.02)
    if free:
        _inside.release()
    return free


def n_workers(_: int) -> int:
    return len(get_client().scheduler_info()["workers"])


def count(folder: Path, x: int) -> int:
    """Takes five seconds, and longer if it is suspended."""
    log(folder / "begun", str(x))
    for _ in range(50):
        time.sleep(0.1)
    return x


def sleep(folder: Path, x: int) -> int:
    log(folder / "begun", str(os.getpid()))
    time.sleep(1000 * x)
    return x


# ---


def test_two_clusters_at_once() -> None:
    with contextlib.closing(run_all(reciprocal, [1, 2], workers=1)) as one:
        assert next(one) == (1, 1.0)
        assert list(run_all(reciprocal, [4], workers=1)) == [(4, 0.25)]


def test_there_are_no_more_workers_than_items() -> None:
    assert [n for _, n in run_all(n_workers, [1], workers=3)] == [1]


@pytest.mark.parametrize("workers", [0, 2])
def test_results_and_exceptions_come_with_their_items(workers: int) -> None:
    started: list[int] = []
    results = dict(run_all(reciprocal, [4, 0, 2], workers=workers, on_start=started.append))
    assert (results[4], results[2]) == (0.25, 0.5)
    assert isinstance(results[0], ZeroDivisionError)
    assert sorted(started) == [0, 2, 4]


def test_in_this_process_items_come_in_their_order_and_one_after_the_other() -> None:
    events: list[Any] = []
    for item, result in run_all(reciprocal, [1, 2], workers=0, on_start=events.append):
        events.append((item, result))
    assert events == [1, (1, 1.0), 2, (2, 0.5)]


def test_nothing_to_do_starts_nothing() -> None:
    assert list(run_all(reciprocal, [], workers=2, scheduler="tcp://nowhere:1")) == []


def test_workers_are_processes_of_one_thread_that_do_not_hear_ctrl_c() -> None:
    results = [result for _, result in run_all(where, range(8), workers=2)]
    pids, threads, trim, masks = zip(*results, strict=True)  # type: ignore[arg-type]
    assert len({*pids} - {os.getpid()}) == 2
    assert {*threads} == {"1"}
    assert {*trim} == {os.environ.get("MALLOC_TRIM_THRESHOLD_")}  # memory as in this process, which is measured
    assert all(signal.SIGINT in mask for mask in masks)
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    wait_until(lambda: all(map(gone, pids)))


def test_workers_without_a_nanny_keep_their_memory_too() -> None:
    with cluster_started_by_hand("--nthreads 1 --no-nanny") as (address, _):
        ((_, (_, _, trim, _)),) = run_all(where, [0], workers=0, scheduler=address)  # type: ignore[misc]
    assert trim == os.environ.get("MALLOC_TRIM_THRESHOLD_")


def test_the_call_of_a_worker_that_died_is_repeated(tmp_path: Path) -> None:
    results = dict(run_all(partial(killed_once, tmp_path), range(4), workers=2))
    assert results == {x: x for x in range(4)}
    assert sorted((tmp_path / "begun").read_text().split()) == ["0", "1", "1", "2", "3"]
    assert sorted((tmp_path / "done").read_text().split()) == ["0", "1", "2", "3"]


@pytest.mark.slow
def test_an_item_that_kills_every_worker_is_given_up_and_the_others_are_done() -> None:
    results = dict(run_all(killed_each_time, range(3), workers=2))
    assert str(results.pop(1)).startswith("the worker processes that tried it died")
    assert results == {0: 0, 2: 2}


def test_closing_ends_the_processes(tmp_path: Path) -> None:
    with contextlib.closing(run_all(partial(sleep, tmp_path), [0, 1, 1], workers=2)) as results:
        assert next(results) == (0, 0)
        wait_until(lambda: len(set((tmp_path / "begun").read_text().split())) == 2)
        pids = list(map(int, (tmp_path / "begun").read_text().split()))
        assert not any(map(gone, pids))
    assert all(map(gone, pids))


@pytest.mark.slow
def test_suspended_workers_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dask would take workers for dead after so long without a sign of life, by default after five minutes."""
    monkeypatch.setitem(ENVIRONMENT, "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL", "5s")
    program = (
        "from functools import partial; from pathlib import Path; from test_cluster import count, run_all; "
        "print(sorted(run_all(partial(count, Path()), range(2), workers=2)))"
    )
    with started(["-c", program], tmp_path) as process:
        begun = tmp_path / "begun"
        wait_until(lambda: begun.exists() and len(begun.read_text().split()) == 2)
        os.killpg(process.pid, signal.SIGSTOP)
        time.sleep(8)
        os.killpg(process.pid, signal.SIGCONT)
        output, errors = process.communicate(timeout=120)
    assert output == "[(0, 0), (1, 1)]\n", errors
    assert sorted(begun.read_text().split()) == ["0", "1"]


def test_a_cluster_started_by_hand_is_used_one_call_at_a_time_in_each_process() -> None:
    with cluster_started_by_hand("--nthreads 4") as (address, _):
        assert all(result is True for _, result in run_all(alone, range(12), workers=0, scheduler=address))


def test_a_scheduler_without_workers_is_warned_about(monkeypatch: pytest.MonkeyPatch) -> None:
    with cluster_started_by_hand() as (address, _), contextlib.ExitStack() as processes:
        messages = []

        def start_one(message: Warning | str, *_: object) -> None:
            messages.append(str(message))
            processes.enter_context(dask(*str(message).partition(": dask ")[2].split(), "--no-dashboard"))

        monkeypatch.setattr(warnings, "showwarning", start_one)
        warnings.simplefilter("always")
        without_message = threading.Timer(60, start_one, [f": dask worker {address}"])
        without_message.start()
        assert list(run_all(reciprocal, [4], workers=0, scheduler=address)) == [(4, 0.25)]
        without_message.cancel()
        (message,) = messages
        assert message.startswith(f"the Dask scheduler at {address} has no workers yet, so nothing begins")


def test_a_scheduler_that_is_lost_is_named(tmp_path: Path) -> None:
    with cluster_started_by_hand("--nthreads 1") as (address, scheduler):
        results = run_all(partial(sleep, tmp_path), [0, 1], workers=0, scheduler=address)
        assert next(results) == (0, 0)
        scheduler.kill()
        with pytest.raises(SettingsError, match="connection to the Dask scheduler is lost; what is finished is kept"):
            next(results)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl, which makes the certificate, is not installed")
def test_a_scheduler_with_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    request = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
    subprocess.run(["openssl", *request, "-out", certificate, "-keyout", key], check=True, capture_output=True)
    settings = {"ca-file": certificate}
    for role in ("client", "scheduler", "worker"):
        settings |= {f"{role}.cert": certificate, f"{role}.key": key}
    settings = {f"distributed.comm.tls.{name}": str(file) for name, file in settings.items()}
    for name, file in settings.items():
        monkeypatch.setitem(ENVIRONMENT, f"DASK_{name.replace('.', '__').replace('-', '_').upper()}", file)
    with dask_config.set(settings), cluster_started_by_hand("--nthreads 1", protocol="tls") as (address, _):
        assert list(run_all(reciprocal, [4], workers=0, scheduler=address)) == [(4, 0.25)]


def test_a_scheduler_with_certificates_that_are_not_ours() -> None:
    with pytest.raises(SettingsError, match=r"^cannot connect to the Dask scheduler at 'tls://host:8786': TLS expects"):
        list(run_all(reciprocal, [1], workers=0, scheduler="tls://host:8786"))


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nowhere://here", "127.0.0.1:port", "no.such.host"])
def test_no_scheduler_at_the_address(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.2)
    with pytest.raises(SettingsError, match=f"^no Dask scheduler answers at '{address}'; expected an address such as"):
        list(run_all(reciprocal, [1], workers=0, scheduler=address))


def test_dask_is_needed_for_workers_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.split(".")[0] in ("dask", "distributed")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert list(run_all(reciprocal, [2], workers=0)) == [(2, 0.5)]
    with pytest.raises(SettingsError, match=r"^distributed is not installed: pip install 'sb3_ddpg_ext\[compare\]'$"):
        list(run_all(reciprocal, [2], workers=1))
    assert "dask" not in sys.modules
