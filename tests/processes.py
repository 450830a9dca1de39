"""Commands as processes of their own, to which something is to happen."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)]),
    "COLUMNS": "200",
    "OMP_NUM_THREADS": "1",
}


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
