"""The benchmark's record as a Markdown table and as a picture."""

from collections.abc import Sequence
from statistics import median
from typing import Any

from matplotlib.figure import Figure

from sb3_ddpg_ext.benchmark import noise_cost
from sb3_ddpg_ext.benchmark.process import BASELINE, OURS, SBX

_COLORS = {BASELINE: "tab:gray", "SB3 TD3": "silver", SBX: "tab:orange", OURS: "tab:blue"}
_RATIO_WITH_RANGE = "{:.2f} ({:.2f} to {:.2f})"


def describe(configuration: dict[str, Any]) -> str:
    """:return: The configuration in a few words"""
    return (
        f"{configuration['env']}, {configuration['net_arch']}, batch {configuration['batch_size']}, "
        f"{_count(configuration['threads'], 'thread')}, {_count(configuration['n_envs'], 'environment')}"
    )


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _ratio(numerators: Sequence[float], denominators: Sequence[float]) -> tuple[float, float, float]:
    """:return: The ratio of the medians, and the smallest and the largest ratio of a single round"""
    ratios = [a / b for a, b in zip(numerators, denominators, strict=True)]
    return median(numerators) / median(denominators), min(ratios), max(ratios)


def table(record: dict[str, Any]) -> str:
    """
    The record as Markdown.

    :param record: What :func:`benchmark` returned
    :return: A line about the machine and the versions, and a table for each configuration
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
        baseline = contestants[BASELINE]
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
                _RATIO_WITH_RANGE.format(*_ratio(baseline["learn"], each["learn"])),
                f"{1e3 * median(each['update']):.2f}",
                _RATIO_WITH_RANGE.format(*_ratio(each["update"], result["gemm"])),
                f"{1e6 * median(each['collect']):.0f}",
                _RATIO_WITH_RANGE.format(*_ratio(each["collect"], baseline["collect"])),
                f"{each['peak_memory'] / 1e6:.0f}",
            ]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    if "noise" in record:
        lines += ["", "**Noise**", "", *noise_cost.table(record["noise"])]
    return "\n".join(lines) + "\n"


def picture(record: dict[str, Any]) -> Figure:
    """
    The speed of ``learn()`` relative to SB3's DDPG: bars for the ratios of the medians, lines for the range over the
    rounds.

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
                height, low, high = _ratio(contestants[BASELINE]["learn"], contestants[name]["learn"])
                center = x + (i - (len(names) - 1) / 2) * 0.8 / len(names)
                label = name if x == 0 else None
                axes.bar(center, height, 0.8 / len(names), color=_COLORS[name], label=label)
                axes.plot([center, center], [low, high], color="black", linewidth=1)
                axes.text(center, high, f"{height:.1f}", ha="center", va="bottom", fontsize=8)
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
