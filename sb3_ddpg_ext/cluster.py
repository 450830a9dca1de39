"""
A function called for many items: in this process, in processes of this machine, or on any Dask cluster. Knows nothing
of what it calls.
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

# Calls in one process would share its random generators, its threads and its CPU time. This is about workers that
# somebody else started, with several threads: ours have one.
_ONE_AT_A_TIME = threading.Lock()


class WorkersDiedError(RuntimeError):
    """Every worker process that tried an item died, one after the other."""


def run_all(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    workers: int,
    scheduler: str | None = None,
    on_start: Callable[[Item], object] = lambda _: None,
) -> Generator[tuple[Item, Result | Exception], None, None]:
    """
    Call a function for each item, one at a time in each process. What a worker was doing when it died is done again by
    another, so the function has to bear being called twice for one item. To be closed (``contextlib.closing``) if it
    is not iterated to its end: that ends the processes.

    :param function: Of one item; a function of a module, for it is pickled by name
    :param items: What to call it for; pickled, too
    :param workers: Processes to start on this machine, not more than there are items; 0 for this process alone,
        without Dask
    :param scheduler: Address of a Dask scheduler whose workers are used instead, such as tcp://host:8786
    :param on_start: Called with an item when a worker begins with it, now and then twice
    :return: Each item with its result, or with the exception that was raised (or :class:`WorkersDiedError`), as they
        come
    :raises SettingsError: If Dask is not installed, or there is no such scheduler, or no longer
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
        number = {future.key: i for i, future in enumerate(futures)}
        for future in as_completed(futures, loop=client.loop):
            yield items[number[future.key]], _outcome(future)


def _call(function: Callable[[Item], Result], topic: str, item: Item, number: int) -> Result:
    from distributed import get_worker

    with _ONE_AT_A_TIME:
        get_worker().log_event(topic, number)
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
        "distributed.scheduler.worker-saturation": 1.0,  # nothing queues behind a long call while others are idle
        # Ctrl-Z stops scheduler and workers: what was suspended for longer would be begun anew. Processes that die are
        # noticed by their connections.
        "distributed.scheduler.worker-ttl": None,
        # Dask has free() give memory back to the system at once, so that code which allocates in each step, as PyTorch
        # does, takes up to three times as long. What is measured here would be Dask's setting.
        "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": None,
    }
    resource_tracker.ensure_running()  # or it would be started below, and take the mask away
    with dask.config.set(config), contextlib.ExitStack() as resources:
        # A terminal sends Ctrl-C to all processes: this one decides. Threads and processes that are started here, and
        # by them later on, inherit the mask.
        previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            cluster = LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                memory_limit=None,
                # Its page off, and its port free: the one of None is 8787, and is missed aloud if it is taken
                dashboard_address="127.0.0.1:0",
                scheduler_kwargs={"dashboard": False},
                silence_logs=logging.CRITICAL,
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

    async def knock() -> None:
        certificates = Security().get_connection_args("client")
        (await connect(scheduler, timeout=CONNECT_SECONDS, **certificates)).abort()

    try:
        asyncio.run(knock())  # a client that finds nobody there makes noise when the process ends
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"no Dask scheduler answers at {scheduler!r}; expected an address such as tcp://host:8786, where "
            "`dask scheduler` runs"
        ) from error
    except TypeError as error:  # of tls:// without certificates
        raise SettingsError(f"cannot connect to the Dask scheduler at {scheduler!r}: {error}") from error
    with Client(scheduler, timeout=CONNECT_SECONDS, set_as_default=False) as client:
        if not client.scheduler_info()["workers"]:
            warnings.warn(
                f"the Dask scheduler at {scheduler} has no workers yet, so nothing begins; to start one: "
                f"dask worker {scheduler} --nthreads 1 --no-nanny",
                stacklevel=2,
            )
        yield client
