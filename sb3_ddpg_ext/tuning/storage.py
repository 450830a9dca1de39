"""The database of a study: where it is, and how it is opened. It may be away for minutes, and have many users."""

import contextlib
import functools
import os
import sqlite3
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback

from sb3_ddpg_ext.errors import SettingsError, one_line

HEARTBEAT_SECONDS, GRACE_SECONDS = 60, 300
PATIENCE_SECONDS = 600
"""How long a worker waits for a database that does not answer, which may be restarting."""
MAX_RETRIES = 3
"""How often a trial is run again whose worker has died."""


@dataclass(frozen=True)
class Job:
    """
    What a worker needs to know to work on a study. Plain data that can be sent to another machine.

    :param url: URL of the database
    :param name: Name of the study
    :param trials: How many trials the study shall have
    :param runs: Where the runs of a trial are until it is over; None if a trial whose worker has died is not to go on
        from their last checkpoint
    :param command: Id of the command that the worker belongs to
    :param heartbeat: Seconds between two heartbeats of a running trial
    :param grace: Seconds without a heartbeat after which the worker of a trial counts as dead
    """

    url: str
    name: str
    trials: int
    runs: Path | None = None
    command: str = field(default_factory=lambda: str(uuid.uuid4()))
    heartbeat: int = field(default_factory=lambda: HEARTBEAT_SECONDS)
    grace: int = field(default_factory=lambda: GRACE_SECONDS)

    @property
    def file(self) -> Path | None:
        """The file of the database if it is SQLite's, otherwise None"""
        try:
            url = sqlalchemy.make_url(self.url)
        except sqlalchemy.exc.ArgumentError:
            return None
        in_memory = url.database in (None, "", ":memory:")
        return None if url.get_backend_name() != "sqlite" or in_memory else Path(str(url.database))

    @property
    def shown_url(self) -> str:
        """The URL without its password"""
        try:
            return sqlalchemy.make_url(self.url).render_as_string(hide_password=True)
        except sqlalchemy.exc.ArgumentError:
            return self.url


class Storage(RDBStorage):
    """
    Optuna's storage with a new connection for each transaction. A thousand idle workers hold no connection, and a
    restart of the server breaks none. Connecting waits for a server that does not answer.

    :param job: Where the study is stored
    """

    def __init__(self, job: Job) -> None:
        is_sqlite = job.url.startswith("sqlite")
        connect_args = {"timeout": PATIENCE_SECONDS} if is_sqlite else {}
        super().__init__(
            job.url,
            {"poolclass": sqlalchemy.NullPool, "connect_args": connect_args},
            heartbeat_interval=job.heartbeat,
            grace_period=job.grace,
            heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(MAX_RETRIES),
        )
        # Only from here on: a wrong URL has to fail at once
        sqlalchemy.event.listen(self.engine, "do_connect", _connect_patiently)
        if is_sqlite:
            # SQLite cannot lock rows (SELECT ... FOR UPDATE), so two workers could start the same waiting trial. A
            # transaction that locks the database from its beginning prevents that.
            sqlalchemy.event.listen(self.engine, "connect", lambda dbapi, _: setattr(dbapi, "isolation_level", None))
            sqlalchemy.event.listen(self.engine, "begin", lambda c: c.exec_driver_sql("BEGIN IMMEDIATE"))

    def record_heartbeat(self, trial_id: int) -> None:
        """Record a heartbeat, if the database answers."""
        with contextlib.suppress(StorageInternalError):  # one heartbeat can be missed
            super().record_heartbeat(trial_id)

    def record_first_heartbeat(self, study: str, number: int) -> None:
        """
        Record a heartbeat now. Optuna does so in a thread, which a worker that dies early may not have got to.

        :param study: Name of the study
        :param number: Number of the trial
        :raises StorageInternalError: If the database does not answer
        """
        trial_id = self.get_trial_id_from_study_id_trial_number(self.get_study_id_from_name(study), number)
        super().record_heartbeat(trial_id)


@functools.lru_cache(maxsize=1)  # a process runs many trials of one study
def storage_of(job: Job) -> Storage:
    """
    :param job: Where a study is stored that was prepared
    :return: Its storage
    """
    return Storage(job)


def _connect_patiently(dialect: Any, _: Any, args: Any, kwargs: Any) -> Any:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return dialect.connect(*args, **kwargs)
        except dialect.loaded_dbapi.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def open_storage(job: Job) -> Storage:
    """
    Open the database of a study for the first time, and create its tables if it is new.

    :param job: Where the study is stored
    :return: The storage
    :raises SettingsError: If the database cannot be used
    """
    if job.file is not None and os.path.lexists(job.file):
        _check_sqlite_file(job.file)
    # Creating the tables fails if another process does so at the same time: try again
    for is_last_try in (False, False, True):
        try:
            return Storage(job)
        except Exception as error:  # each driver has its own exceptions
            if is_last_try:
                raise SettingsError(
                    f"--storage {job.shown_url}: {reason_of(error)}; expected a URL of SQLAlchemy "
                    "such as postgresql+psycopg://user@host/optuna, of a database that is there and can be written to"
                ) from error
            time.sleep(0.5)
    raise AssertionError


def reason_of(error: BaseException) -> str:
    """:return: What the database driver said, without the messages of SQLAlchemy and Optuna around it"""
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(error)


def _check_sqlite_file(file: Path) -> None:
    """SQLite would take an empty file for a new database, and notice a damaged page only when it reads that page."""
    try:
        file.open("r+b").close()  # this error has a reason, SQLite's has none
        deadline = time.monotonic() + 1
        while (is_empty := file.stat().st_size == 0) and time.monotonic() < deadline:
            time.sleep(0.1)  # another process may be creating it
        uri = f"{file.absolute().as_uri()}?mode=rw"
        with contextlib.closing(sqlite3.connect(uri, PATIENCE_SECONDS, uri=True)) as connection:
            (result,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        problem = "it is empty" if is_empty else " ".join(result.split())
    except OSError as error:
        raise SettingsError(f"{file}: {error.strerror}; expected a file that can be written to, or nothing") from error
    except sqlite3.OperationalError as error:  # the file is locked, for example: it is not damaged
        raise SettingsError(f"{file}: {one_line(error)}") from error
    except sqlite3.DatabaseError as error:
        problem = one_line(error)
    if problem != "ok":
        raise SettingsError(
            f"{file} is not the database of a study: {problem}; restore it from a backup, or remove it to begin anew"
        )
