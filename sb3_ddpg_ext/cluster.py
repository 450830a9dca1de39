"""
Calls a function for many items: in this process, in worker processes on this machine, or on any Dask cluster. It does
not depend on what the function does.
"""

import asyncio
import contextlib
import logging
import signal
import threading
import uuid
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import CancelledError
from functools import partial
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, Any, TypeVar

from sb3_ddpg_ext.errors import SettingsError, require

if TYPE_CHECKING:
    from distributed import Client, Future

Item = TypeVar("Item")
Result = TypeVar("Result")

CONNECT_SECONDS = 10

# Calls at the same time in one process would share its random generators, its threads and its CPU time. The workers
# started here have a single thread, but those of a user's cluster may have several.
_ONE_CALL_AT_A_TIME = threading.Lock()


class WorkersDiedError(RuntimeError):
    """An item was given up, because several worker processes died while they were working on it."""


def run_all(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    workers: int,
    scheduler: str | None = None,
    on_start: Callable[[Item], object] = lambda _: None,
) -> Generator[tuple[Item, Result | Exception], None, None]:
    """
    Call a function for each item, one call at a time in each process. If a worker dies, another one repeats its call,
    so the function may be called more than once for an item. A caller that does not iterate to the end has to close
    the generator (``contextlib.closing``), which ends the worker processes.

    :param function: Takes an item. It is pickled by name, so it has to be defined at the top level of a module
    :param items: The items, which are pickled, too
    :param workers: Number of worker processes to start on this machine (at most one per item); 0 calls the function in
        this process, without Dask
    :param scheduler: Address of a Dask scheduler whose workers are used instead, such as tcp://host:8786
    :param on_start: Called with an item when a worker starts with it; more than once if a worker dies
    :return: Each item with its result or the exception that was raised, in the order in which they finish. The
        exception is a :class:`WorkersDiedError` if several workers died while working on the item
    :raises SettingsError: If Dask is not installed, the scheduler cannot be reached, or the connection to it is lost
    """
    if not items:
        return
    if scheduler is None and workers == 0:
        for item in items:
            on_start(item)
            try:
                result: Result | Exception = function(item)
            except Exception as error:
                result = error
            yield item, result
        return
    require("distributed", "compare")
    from distributed import as_completed

    with _local_client(min(workers, len(items))) if scheduler is None else _client(scheduler) as client:
        topic = f"started-{uuid.uuid4()}"
        client.subscribe_topic(topic, lambda event: on_start(items[event[1]]))
        futures = client.map(partial(_call, function, topic), items, range(len(items)), pure=False, key="call")
        items_by_key = {future.key: item for future, item in zip(futures, items, strict=True)}
        for future in as_completed(futures, loop=client.loop):
            yield items_by_key[future.key], _outcome(future)


def _call(function: Callable[[Item], Result], topic: str, item: Item, index: int) -> Result:
    from distributed import get_worker

    with _ONE_CALL_AT_A_TIME:
        get_worker().log_event(topic, index)
        return function(item)


def _outcome(future: "Future[Any]") -> Any:
    from distributed import KilledWorker

    try:
        return future.result()
    except CancelledError:
        raise SettingsError(
            "the connection to the Dask scheduler is lost; what is finished is kept, the same command does the rest"
        ) from None
    except KilledWorker:
        return WorkersDiedError("the worker processes that tried it died, one after the other; out of memory?")
    except Exception as error:
        return error


@contextlib.contextmanager
def _local_client(workers: int) -> "Iterator[Client]":
    import dask
    from distributed import Client, LocalCluster

    config = {
        "distributed.worker.profile.enabled": False,  # it samples the stack a hundred times a second
        "distributed.scheduler.worker-saturation": 1.0,  # give no item to a busy worker while another one is idle
        # By default, a worker that is silent for minutes counts as dead, and its call is repeated. But with Ctrl-Z the
        # scheduler and its workers are suspended together. Dead workers are noticed all the same: they lose connection.
        "distributed.scheduler.worker-ttl": None,
        # By default, Dask makes free() return memory to the system at once. Code that allocates memory in each step, as
        # PyTorch does, then takes up to three times as long, and its speed is measured here.
        "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": None,
    }
    resource_tracker.ensure_running()  # it resets the signal mask when it starts, so it must not start further below
    with dask.config.set(config), contextlib.ExitStack() as resources:
        # A terminal sends Ctrl-C to all processes, but only this one is to handle it. All threads and processes that
        # are started with the signal blocked inherit the mask, and so do their own children.
        previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            cluster = LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                memory_limit=None,
                # No dashboard, and any free port: None would mean port 8787, with a warning if that is taken
                dashboard_address="127.0.0.1:0",
                scheduler_kwargs={"dashboard": False},
                silence_logs=logging.CRITICAL + 1,  # closing a busy cluster logs errors of connections that close
            )
            client = resources.enter_context(Client(resources.enter_context(cluster), set_as_default=False))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, previous)
        yield client


@contextlib.contextmanager
def _client(scheduler: str) -> "Iterator[Client]":
    from distributed import Client
    from distributed.comm.core import connect
    from distributed.security import Security

    async def try_connection() -> None:
        certificates = Security().get_connection_args("client")
        (await connect(scheduler, timeout=CONNECT_SECONDS, **certificates)).abort()

    try:
        asyncio.run(try_connection())  # because a client without a scheduler logs errors when the process ends
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"no Dask scheduler answers at {scheduler!r}; expected an address such as tcp://host:8786, where "
            "`dask scheduler` runs"
        ) from error
    except TypeError as error:  # tls:// without certificates
        raise SettingsError(f"cannot connect to the Dask scheduler at {scheduler!r}: {error}") from error
    with Client(scheduler, timeout=CONNECT_SECONDS, set_as_default=False) as client:
        if not client.scheduler_info()["workers"]:
            warnings.warn(
                f"the Dask scheduler at {scheduler} has no workers yet, so nothing begins; to start one: "
                f"dask worker {scheduler} --nthreads 1 --no-nanny",
                stacklevel=2,
            )
        yield client
