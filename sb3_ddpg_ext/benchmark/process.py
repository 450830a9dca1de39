"""The algorithms to compare, and the process in which one of them is measured."""

import contextlib
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from sb3_ddpg_ext.errors import SettingsError

OURS, BASELINE, SBX = "CustomDDPG", "SB3 DDPG", "SBX DDPG"
ALGORITHMS = {
    BASELINE: "stable_baselines3:DDPG",
    "SB3 TD3": "stable_baselines3:TD3",
    SBX: "sbx:DDPG",
    OURS: "sb3_ddpg_ext:CustomDDPG",
}
"""The contestants' names, and the import path of each one's class"""

_SCRIPT = Path(__file__).with_name("contestant.py")


class ContestantProcess:
    """
    A process that runs ``contestant.py`` and measures on request.

    :param python: The Python interpreter to run it with
    :param spec: Algorithm, environment, network and number of threads, see
        :func:`sb3_ddpg_ext.benchmark.contestant.make_measures`
    :raises SettingsError: If the process ends before it is ready to measure
    """

    def __init__(self, python: str, spec: dict[str, Any]) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed with the process)
        self._process = subprocess.Popen(
            [python, str(_SCRIPT), json.dumps(spec)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self._spec = spec
        self.peak_memory = 0
        self._read_answer()  # an empty one: ready

    def _read_answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._errors.seek(0)
            error_lines = self._errors.read().strip().splitlines()
            reason = error_lines[-1] if error_lines else f"exit status {self._process.returncode}"
            self.__exit__()
            raise SettingsError(f"{self._spec['algorithm']} on {self._spec['env']} could not be measured: {reason}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def measure(self, name: str, seconds: float) -> float:
        """
        :param name: What to measure: ``learn``, ``update``, ``collect`` or ``gemm``
        :param seconds: About how long
        :return: Seconds of one environment step (``learn``, ``collect``) or update
        :raises SettingsError: If the process has died
        """
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"measure": name, "seconds": seconds}) + "\n")
        self._process.stdin.flush()
        answer = self._read_answer()
        self.peak_memory = answer["peak_memory"]
        return float(answer["seconds"])

    def __enter__(self) -> "ContestantProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
