"""``python scripts/draw_results.py docs/results.png``: the README's picture, from the runs in docs/compare."""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from sb3_ddpg_ext.results.records import Evaluations
from sb3_ddpg_ext.results.result_file import read_runs
from sb3_ddpg_ext.results.statistics import bootstrap, iqm

LOG_DIR = Path(__file__).parent.parent / "docs" / "compare"
# Label of the runs -> name, colour (Okabe and Ito's, which colour-blind readers can tell apart) and line style
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
    "HalfCheetah-v5": ("50,000 steps", 1.0),
}
RESAMPLES, POINTS = 2_000, 200


def draw(axes: Axes, runs: Sequence[Evaluations], name: str, colour: str, style: object) -> None:
    # All runs have been evaluated after the slowest one's first evaluation, and before the fastest one's end
    start, end = max(run.cpu_seconds[0] for run in runs), min(run.cpu_seconds[-1] for run in runs)
    grid = np.geomspace(start, end, POINTS)
    curves = np.stack([np.interp(grid, run.cpu_seconds, run.means) for run in runs], axis=-1)  # [points, runs]
    low, high = bootstrap(iqm, [curves], np.random.default_rng(0), RESAMPLES)
    axes.fill_between(grid, low, high, color=colour, alpha=0.12, linewidth=0)
    axes.plot(grid, iqm([curves]), color=colour, linestyle=style, linewidth=2.2, label=name)


def main(path: Path) -> None:
    runs = read_runs(LOG_DIR)
    figure = Figure(figsize=(11, 4.7), dpi=150, layout="constrained")
    panels = figure.subplots(1, len(ENVIRONMENTS))
    for axes, (env, (steps, first_second)) in zip(panels, ENVIRONMENTS.items(), strict=True):
        for label, (name, colour, style) in ALGORITHMS.items():
            evaluations = [run.evaluations for run in runs if (run.env, run.label) == (env, label) and run.evaluations]
            draw(axes, evaluations, name, colour, style)
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
