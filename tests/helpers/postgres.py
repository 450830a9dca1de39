"""A PostgreSQL server of one's own, on a free port of this machine, as a user without rights."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest


class Server:
    """
    :param programs: Where its programs are
    :param data: Where its data are
    :param port: Where it listens, on 127.0.0.1
    """

    def __init__(self, programs: Path, data: Path, port: int) -> None:
        self.programs, self.data, self.port = programs, data, port
        self.run("initdb", "--no-sync", "--auth=trust", "--username=optuna", "--encoding=UTF8", "--locale=C")
        self.options = f"-c listen_addresses=127.0.0.1 -p {port} -k {data.parent} -c fsync=off"

    def run(self, program: str, *arguments: str) -> None:
        # It refuses to run as root
        user = {"user": "nobody"} if os.getuid() == 0 else {}
        command = [self.programs / program, "-D", self.data, *arguments]
        result = subprocess.run(command, **user, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)  # type: ignore[call-overload]
        assert result.returncode == 0, result.stderr

    def start(self) -> None:
        self.run("pg_ctl", "start", "--wait", "--silent", "-l", str(self.data.parent / "log"), "-o", self.options)

    def stop(self) -> None:
        self.run("pg_ctl", "stop", "--wait", "--silent", "-m", "fast")

    def database(self, name: str) -> str:
        """:return: The URL of a new database"""
        with psycopg.connect(host="127.0.0.1", port=self.port, user="optuna", dbname="postgres", autocommit=True) as c:
            c.execute(f'CREATE DATABASE "{name}"')
        return f"postgresql+psycopg://optuna@127.0.0.1:{self.port}/{name}"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    found = shutil.which("initdb") or next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))), None)
    if found is None:
        if os.environ.get("CI_POSTGRES"):
            pytest.fail("CI has to tune with PostgreSQL, and there is none")
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    # Not pytest's directory, which is its user's alone
    with tempfile.TemporaryDirectory(prefix="postgres") as directory, contextlib.ExitStack() as running:
        data = Path(directory) / "data"
        data.mkdir()
        if os.getuid() == 0:
            for path in (directory, data):
                shutil.chown(path, "nobody")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        server = Server(Path(found).resolve().parent, data, port)
        server.start()
        running.callback(server.stop)
        yield server
