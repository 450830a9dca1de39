"""Commands as processes of their own, to which something is to happen."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from sb3_ddpg_ext.__main__ import main

ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)]),
    "COLUMNS": "200",
    "OMP_NUM_THREADS": "1",
}

# A process that has imported what commands import, which takes them seconds, and forks
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["sb3_ddpg_ext.terminal", "sb3_contrib", "distributed", "torch._dynamo"])


@contextlib.contextmanager
def started(
    arguments: Sequence[str | Path], cwd: Path | None = None, output: int = subprocess.PIPE
) -> Iterator[subprocess.Popen[str]]:
    """Run Python with these arguments, and leave no process behind."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=cwd,
        env=ENVIRONMENT,
        stdout=output,
        stderr=output,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def forked(
    arguments: Sequence[str], cwd: Path, environment: Mapping[str, str], timeout: float
) -> subprocess.CompletedProcess[str]:
    """``python -m sb3_ddpg_ext`` with these arguments, as from `subprocess.run`, but without starting Python anew."""
    with tempfile.TemporaryDirectory() as directory:
        output, errors = (Path(directory) / name for name in ("stdout", "stderr"))
        output.touch()
        errors.touch()
        process = FORKS.Process(target=_sb3_ddpg, args=(arguments, cwd, environment, output, errors))
        process.start()
        process.join(timeout)
        process.kill()
        process.join()
        status = process.exitcode
        assert status is not None
        return subprocess.CompletedProcess(arguments, status, output.read_text(), errors.read_text())


def _sb3_ddpg(arguments: Sequence[str], cwd: Path, environment: Mapping[str, str], output: Path, errors: Path) -> None:
    os.environ.update(environment)
    os.chdir(cwd)
    for stream, path in ((1, output), (2, errors)):
        os.dup2(os.open(path, os.O_WRONLY), stream)
    sys.path.insert(0, str(cwd))
    sys.argv = ["sb3-ddpg", *arguments]
    sys.exit(main())
