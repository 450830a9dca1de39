"""A command in a terminal of 80 columns."""

import os
import pty
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


def screen(
    command: Sequence[str | Path],
    cwd: Path,
    environment: Mapping[str, str],
    interrupt_when: Callable[[], bool] | None = None,
) -> tuple[int, list[str]]:
    """
    Run a command and look at what its terminal shows in the end: lines that were erased are not there.

    :param command: The command
    :param cwd: Where it is run
    :param environment: Its environment variables
    :param interrupt_when: Says when to press Ctrl-C
    :return: Its exit status and the lines that are not empty
    """
    master, terminal = pty.openpty()
    environment = {**environment, "COLUMNS": "80", "LINES": "30", "TERM": "xterm"}
    with subprocess.Popen(command, cwd=cwd, env=environment, stdout=terminal, stderr=terminal) as process:
        os.close(terminal)
        if interrupt_when is not None:
            while process.poll() is None and not interrupt_when():
                time.sleep(0.1)
            process.send_signal(signal.SIGINT)
        written = b""
        try:
            while chunk := os.read(master, 4096):
                written += chunk
        except OSError:  # nobody has the terminal any more
            pass
    os.close(master)
    lines, at = [""], 0
    for code in re.findall(r"\x1b\[[?0-9;]*[A-Za-z]|[\r\n]|[^\x1b\r\n]+", written.decode()):
        if code == "\n":
            at += 1
            lines += [""] * (at == len(lines))
        elif code == "\x1b[1A":
            at -= 1
        elif code == "\x1b[2K":
            lines[at] = ""
        elif code != "\r" and not code.startswith("\x1b"):
            lines[at] += code
    return process.returncode, [line for line in lines if line.strip()]
