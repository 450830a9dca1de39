"""
Speed, side by side: CustomDDPG, SB3's DDPG and TD3 and, where it is installed, SBX's DDPG, in one run.

Each contestant is a process of its own (see :mod:`sb3_ddpg_ext.contestant`) with the same number of cores, and they
take turns, round after round, so that a machine that gets slower gets slower for all. What is compared are medians over
the rounds.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any, Literal

from matplotlib.figure import Figure
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

from sb3_ddpg_ext import contestant, noise_cost
from sb3_ddpg_ext.errors import SettingsError, require
from sb3_ddpg_ext.files import atomic
from sb3_ddpg_ext.results import provenance

_CASES: dict[str, dict[str, Any]] = {
    "small": {"env": "Pendulum-v1", "net_arch": [64, 64], "batch_size": 64},
    "mujoco": {"env": "HalfCheetah-v5", "net_arch": [256, 256], "batch_size": 256},
    "default": {"env": "Pendulum-v1", "net_arch": [400, 300], "batch_size": 256},
}
_OURS, _BASELINE, _SBX = "CustomDDPG", "SB3 DDPG", "SBX DDPG"
_ALGORITHMS = {
    _BASELINE: "stable_baselines3:DDPG",
    "SB3 TD3": "stable_baselines3:TD3",
    _SBX: "sbx:DDPG",
    _OURS: "sb3_ddpg_ext:CustomDDPG",
}
_COLORS = {_BASELINE: "tab:gray", "SB3 TD3": "silver", _SBX: "tab:orange", _OURS: "tab:blue"}
_RANGE = "{:.2f} ({:.2f} to {:.2f})"  # of a ratio
_MEASURES = ("learn", "update", "collect")


@dataclass(frozen=True)
class BenchmarkArgs:
    """Measure CustomDDPG's speed against SB3's DDPG and TD3, and SBX's DDPG where it is installed."""

    cases: tuple[Literal["small", "mujoco", "default", "noise"], ...] = ("small", "mujoco", "default", "noise")
    """small: Pendulum-v1, [64, 64], batches of 64; mujoco: HalfCheetah-v5, [256, 256], 256; default: Pendulum-v1,
    [400, 300], 256; noise: calls of action noise alone"""
    threads: tuple[int, ...] = (1, 2)
    """threads and cores of each contestant"""
    n_envs: tuple[int, ...] = (1, 8)
    """environments; there is one gradient step for each transition"""
    rounds: int = 5
    """measurements of each contestant; an odd number has a median that was measured"""
    seconds: float = 1.0
    """length of one measurement"""
    sbx_python: Path | None = None
    """Python of a virtual environment with sbx-rl, if not this one"""
    log_dir: Path = Path("runs/benchmark")
    """where benchmark.json, .md and .png are written"""


class _Contestant:
    """A process that measures on demand."""

    def __init__(self, python: str, spec: dict[str, Any]) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed with the process)
        self._process = subprocess.Popen(
            [python, str(Path(contestant.__file__)), json.dumps(spec)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self._spec = spec
        self.peak_memory = 0
        self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._errors.seek(0)
            last = (self._errors.read().strip().splitlines() or [f"exit status {self._process.returncode}"])[-1]
            self.__exit__()
            raise SettingsError(f"{self._spec['algorithm']} on {self._spec['env']} could not be measured: {last}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def measure(self, name: str, seconds: float) -> float:
        """:return: Seconds of one environment step or update"""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"measure": name, "seconds": seconds}) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        self.peak_memory = answer["peak_memory"]
        return float(answer["seconds"])

    def __enter__(self) -> "_Contestant":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


def benchmark(args: BenchmarkArgs) -> dict[str, Any]:
    """
    Measure everything, and write it after each configuration.

    :param args: What, and for how long
    :return: The record, as written to ``benchmark.json``
    :raises SettingsError: If something is missing, or a contestant fails
    """
    pythons, versions = _pythons(args)
    try:
        args.log_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"cannot write to {args.log_dir}: {error.strerror}; choose another --log-dir") from error
    configurations = [
        {**_CASES[case], "threads": threads, "n_envs": n_envs}
        for threads, n_envs, case in product(args.threads, args.n_envs, args.cases)
        if case in _CASES
    ]
    record: dict[str, Any] = {
        "rounds": args.rounds,
        "seconds": args.seconds,
        "load": os.getloadavg()[0],  # what else the machine does
        "versions": provenance.versions() | versions,
        "machine": provenance.machine(),
        "results": [],
    }
    if "noise" in args.cases:
        record["noise"] = noise_cost.measure(args.rounds)
        _write(record, args.log_dir)
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        task = progress.add_task("", total=len(configurations) * args.rounds)
        for configuration in configurations:
            progress.update(task, description=describe(configuration))
            done = []
            for each in _rounds(configuration, pythons, args):
                done.append(each)
                progress.advance(task)
            record["results"].append({**configuration, **_collect(done)})
            _write(record, args.log_dir)
    return record


def _pythons(args: BenchmarkArgs) -> tuple[dict[str, str], dict[str, str]]:
    """Each contestant's Python, and the versions of SBX and what it runs on."""
    if args.rounds < 1 or args.seconds <= 0 or min(*args.threads, *args.n_envs, 1) < 1:
        raise SettingsError("--rounds, --threads and --n-envs must be 1 or more, --seconds above 0")
    if "mujoco" in args.cases:
        require("mujoco", "envs")
    pythons = dict.fromkeys(_ALGORITHMS, sys.executable)
    if args.sbx_python is None and find_spec("sbx") is None:
        del pythons[_SBX]
        return pythons, {}
    pythons[_SBX] = str(args.sbx_python or sys.executable)
    code = "import sbx; from importlib.metadata import version; print(version('sbx-rl'), version('jax'))"
    try:
        answer = subprocess.run([pythons[_SBX], "-c", code], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SettingsError(f"--sbx-python {pythons[_SBX]}: no SBX there; pip install sbx-rl") from error
    return pythons, dict(zip(("sbx", "jax"), answer.stdout.split(), strict=True))


def _rounds(configuration: dict[str, Any], pythons: dict[str, str], args: BenchmarkArgs) -> Iterator[dict[str, Any]]:
    """Each round's measurements: ``{contestant: {measure: seconds}}``, and the floor's seconds under ``"gemm"``."""
    with contextlib.ExitStack() as stack:
        contestants = {
            name: stack.enter_context(_Contestant(python, {**configuration, "algorithm": _ALGORITHMS[name]}))
            for name, python in pythons.items()
        }
        for _ in range(args.rounds):
            seconds: dict[str, Any] = {
                name: {measure: each.measure(measure, args.seconds) for measure in _MEASURES}
                for name, each in contestants.items()
            }
            gemm = contestants[_OURS].measure("gemm", args.seconds / 2)
            yield {
                "seconds": seconds,
                "gemm": gemm,
                "peak_memory": {name: each.peak_memory for name, each in contestants.items()},
            }


def _collect(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Rounds -> ``{"gemm": [seconds], "contestants": {name: {measure: [seconds], "peak_memory": bytes}}}``."""
    return {
        "gemm": [each["gemm"] for each in rounds],
        "contestants": {
            name: {
                **{measure: [each["seconds"][name][measure] for each in rounds] for measure in _MEASURES},
                "peak_memory": peak_memory,
            }
            for name, peak_memory in rounds[-1]["peak_memory"].items()
        },
    }


def _write(record: dict[str, Any], directory: Path) -> None:
    with contextlib.ExitStack() as files:
        files.enter_context(atomic(directory / "benchmark.json")).write_text(json.dumps(record, indent=1))
        files.enter_context(atomic(directory / "benchmark.md")).write_text(table(record))
        if record["results"]:  # of noise there is a table only
            picture(record).savefig(files.enter_context(atomic(directory / "benchmark.png")))


def describe(configuration: dict[str, Any]) -> str:
    """:return: The configuration in a few words"""
    return (
        f"{configuration['env']}, {configuration['net_arch']}, batch {configuration['batch_size']}, "
        f"{_count(configuration['threads'], 'thread')}, {_count(configuration['n_envs'], 'environment')}"
    )


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _ratio(numerators: Sequence[float], denominators: Sequence[float]) -> tuple[float, float, float]:
    """Of the medians, and the smallest and largest of the rounds' own ratios."""
    ratios = [a / b for a, b in zip(numerators, denominators, strict=True)]
    return median(numerators) / median(denominators), min(ratios), max(ratios)


def table(record: dict[str, Any]) -> str:
    """
    The record as Markdown.

    :param record: What :func:`benchmark` returned
    :return: A table for each configuration, and what it was measured on
    """
    machine, versions = record["machine"], record["versions"]
    lines = [
        f"{machine['processor']}, {_count(machine['cores'], 'core')} (load at the start {record['load']:.1f}), "
        f"{machine['system']}; " + ", ".join(f"{name} {number}" for name, number in versions.items()),
        "",
        f"Medians of {_count(record['rounds'], 'round')}, in which the contestants took turns; in brackets the range "
        f"over the rounds. Algorithms: measurements of {record['seconds']:g} s, one gradient step for each transition.",
    ]
    for result in record["results"]:
        contestants = result["contestants"]
        baseline = contestants[_BASELINE]
        lines += [
            "",
            f"**{describe(result)}** (matrix products of an update: {1e3 * median(result['gemm']):.2f} ms)",
            "",
            "| | steps/s of `learn()` | times SB3 DDPG | ms per update | times its matrix products "
            "| us per collected step | of SB3 DDPG's | peak memory, MB |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for name, each in contestants.items():
            cells = [
                f"{1 / median(each['learn']):.0f}",
                _RANGE.format(*_ratio(baseline["learn"], each["learn"])),
                f"{1e3 * median(each['update']):.2f}",
                _RANGE.format(*_ratio(each["update"], result["gemm"])),
                f"{1e6 * median(each['collect']):.0f}",
                _RANGE.format(*_ratio(each["collect"], baseline["collect"])),
                f"{each['peak_memory'] / 1e6:.0f}",
            ]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    if "noise" in record:
        lines += ["", "**Noise**", "", *noise_cost.table(record["noise"])]
    return "\n".join(lines) + "\n"


def picture(record: dict[str, Any]) -> Figure:
    """
    The speed of ``learn()`` as multiples of SB3's DDPG: bars of the medians' ratios, with the range over the rounds.

    :param record: What :func:`benchmark` returned
    :return: A panel for each number of threads and environments
    """
    results = record["results"]
    panels = list(dict.fromkeys((r["threads"], r["n_envs"]) for r in results))
    figure = Figure(figsize=(4.2 * min(len(panels), 2), 3.4 * -(-len(panels) // 2)), dpi=120, layout="constrained")
    all_axes = figure.subplots(-(-len(panels) // 2), min(len(panels), 2), squeeze=False, sharey=True).flat
    for (threads, n_envs), axes in zip(panels, all_axes, strict=False):
        shown = [r for r in results if (r["threads"], r["n_envs"]) == (threads, n_envs)]
        names = list(shown[0]["contestants"])
        for i, name in enumerate(names):
            for x, result in enumerate(shown):
                contestants = result["contestants"]
                height, low, high = _ratio(contestants[_BASELINE]["learn"], contestants[name]["learn"])
                place = x + (i - (len(names) - 1) / 2) * 0.8 / len(names)
                label = name if x == 0 else None
                axes.bar(place, height, 0.8 / len(names), color=_COLORS[name], label=label)
                axes.plot([place, place], [low, high], color="black", linewidth=1)
                axes.text(place, high, f"{height:.1f}", ha="center", va="bottom", fontsize=8)
        axes.set_xticks(
            range(len(shown)), [f"{r['env']}\n{r['net_arch']}, batch {r['batch_size']}" for r in shown], fontsize=8
        )
        axes.set_title(f"{_count(threads, 'thread')}, {_count(n_envs, 'environment')}", fontsize=10)
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
    for axes in list(all_axes)[len(panels) :]:
        axes.remove()
    figure.supylabel("learn(): steps per second, times SB3's DDPG", fontsize=9)
    figure.axes[0].legend(fontsize=8)
    return figure
