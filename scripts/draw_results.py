"""``python scripts/draw_results.py docs/results.png``: the README's picture, from docs/compare/evaluations.csv."""

import csv
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

EVALUATIONS = Path(__file__).parent.parent / "docs" / "compare" / "evaluations.csv"
# Label in the file -> name, colour (Okabe and Ito's, which colour-blind readers can tell apart) and line style
ALGORITHMS = {
    "custom_ddpg": ("CustomDDPG", "#D55E00", "-"),
    "ddpg": ("SB3 DDPG", "#000000", "-"),
    "td3": ("TD3", "#009E73", "--"),
    "sac": ("SAC", "#0072B2", "-."),
    "tqc": ("TQC", "#CC79A7", (0, (1, 1.2))),
}
# Environment -> how long the runs are, and from which second on there is something to see
ENVIRONMENTS = {
    "Pendulum-v1": ("20,000 steps", 0.15),
    "MountainCarContinuous-v0": ("50,000 steps", 1.5),
    "HalfCheetah-v5": ("50,000 steps", 6.0),
}
RESAMPLES, POINTS = 2_000, 200

Run = tuple[np.ndarray, np.ndarray]
"""CPU seconds of training at each evaluation, and its mean return."""


def read(path: Path) -> dict[tuple[str, str], list[Run]]:
    """:return: The runs of each environment and algorithm"""
    points: dict[tuple[str, str, str], list[tuple[float, float]]] = defaultdict(list)
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            points[row["env"], row["label"], row["seed"]].append((float(row["cpu_seconds"]), float(row["mean"])))
    runs: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for (env, label, _), evaluations in points.items():
        seconds, means = np.array(evaluations).T
        runs[env, label].append((seconds, means))
    return runs


def iqm(scores: np.ndarray) -> np.ndarray:
    """:return: The mean of the middle half of the runs, which are on the last axis: of five, of three of them"""
    cut = scores.shape[-1] // 4
    middle: np.ndarray = np.sort(scores)[..., cut : scores.shape[-1] - cut].mean(axis=-1)
    return middle


def draw(axes: Axes, runs: list[Run], name: str, colour: str, style: object) -> None:
    # All runs have been evaluated after the slowest one's first evaluation, and before the fastest one's end
    start, end = max(seconds[0] for seconds, _ in runs), min(seconds[-1] for seconds, _ in runs)
    grid = np.geomspace(start, end, POINTS)
    curves = np.stack([np.interp(grid, seconds, means) for seconds, means in runs], axis=-1)  # point, run
    chosen = np.random.default_rng(0).integers(len(runs), size=(RESAMPLES, len(runs)))
    low, high = np.quantile(iqm(curves[:, chosen]), (0.025, 0.975), axis=1)
    axes.fill_between(grid, low, high, color=colour, alpha=0.12, linewidth=0)
    axes.plot(grid, iqm(curves), color=colour, linestyle=style, linewidth=2.2, label=name)


def main(path: Path) -> None:
    runs = read(EVALUATIONS)
    figure = Figure(figsize=(11, 4.7), dpi=150, layout="constrained")
    panels = figure.subplots(1, len(ENVIRONMENTS))
    for axes, (env, (steps, first_second)) in zip(panels, ENVIRONMENTS.items(), strict=True):
        for label, (name, colour, style) in ALGORITHMS.items():
            draw(axes, runs[env, label], name, colour, style)
        axes.set_title(f"{env}\n{steps}", fontsize=14)
        axes.set_xscale("log")
        axes.set_xlim(left=first_second)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: f"{seconds:,g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.tick_params(labelsize=12.5)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("mean return (up is better)", fontsize=14)
    figure.supxlabel(
        "CPU seconds of training (each grid line is ten times the one before; left is faster)", fontsize=14
    )
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=len(names), fontsize=15, frameon=False)
    figure.savefig(path)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} PICTURE.png")
    main(Path(sys.argv[1]))
