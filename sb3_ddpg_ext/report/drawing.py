"""What the pictures of a comparison are drawn with: names of algorithms, panels with a row for each, bars, a legend."""

import itertools
import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from sb3_ddpg_ext.report.analysis import Comparison
from sb3_ddpg_ext.report.panels import COLOURS
from sb3_ddpg_ext.results.statistics import Estimate
from sb3_ddpg_ext.variants import pieces

_DASHES: tuple[Literal["-", "--", ":", "-."], ...] = ("-", "--", ":", "-.")


# --- Algorithms ---


def style(comparison: Comparison, label: str) -> tuple[str, Literal["-", "--", ":", "-."]]:
    """:return: Colour and dashes of an algorithm, the same in all pictures"""
    index = comparison.labels.index(label)
    return COLOURS[index % len(COLOURS)], _DASHES[index // len(COLOURS) % len(_DASHES)]


def wrapped(label: str, width: int = 26) -> str:
    """:return: A label in lines, broken after colons and commas where possible. Dollar signs do not start a formula"""
    lines = [""]
    for part in re.findall("[^:,]*[:,]?", label):
        if lines[-1] and len(lines[-1] + part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(short for line in lines for short in textwrap.wrap(line.strip(), width)).replace("$", r"\$")


def short_names(labels: Sequence[str], width: int = 26) -> list[str]:
    """
    :param labels: Labels
    :param width: Characters of a line
    :return: The labels in lines. If one is longer than a line, the beginning that all share is replaced by an ellipsis
    """
    columns = zip(*(pieces(label, ":,") for label in labels), strict=False)
    prefix = "".join(column[0] for column in itertools.takewhile(lambda column: len(set(column)) == 1, columns))
    if prefix == "" or len(labels) == 1 or max(map(len, labels)) <= width:
        return [wrapped(label, width) for label in labels]
    return [wrapped(f"…{label.removeprefix(prefix)}", width) for label in labels]


def add_legend(figure: Figure, comparison: Comparison, labels: Sequence[str]) -> None:
    """Add a legend below the panels, and make the figure higher by as much."""
    styles = [style(comparison, label) for label in labels]
    handles = [Line2D([], [], color=colour, linestyle=dashes, linewidth=2) for colour, dashes in styles]
    names = short_names(labels, 40)
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    for columns in range(min(len(labels), 4), 0, -1):  # as many columns as fit
        legend = figure.legend(handles, names, loc="outside lower center", ncols=columns, frameon=False)
        extent = legend.get_window_extent(renderer)
        if columns == 1 or extent.width <= figure.bbox.width:
            break
        legend.remove()
    figure.set_figheight(figure.get_figheight() + extent.height / figure.dpi)


# --- Panels with one row for each algorithm ---


def panel_rows(titles: Sequence[str], columns: int, labels: Sequence[Sequence[str]]) -> tuple[Figure, list[list[Axes]]]:
    """
    :param titles: Title of each row of panels
    :param columns: Panels in a row
    :param labels: The algorithms in each row of panels
    :return: A figure, and its panels by row. The n-th algorithm is at y = n
    """
    heights = [1.2 + height_of(row_labels) for row_labels in labels]
    figure = Figure(figsize=(10.5, sum(heights)), dpi=120, layout="constrained")
    subfigures = figure.subfigures(len(titles), 1, squeeze=False, height_ratios=heights)[:, 0]
    rows = []
    for title, row_labels, subfigure in zip(titles, labels, subfigures, strict=True):
        subfigure.suptitle(title, fontweight="bold", x=0.01, ha="left", fontsize=11)
        row = list(subfigure.subplots(1, columns, squeeze=False)[0])
        for axes in row:
            put_labels(axes, row_labels, names=axes is row[0])
        rows.append(row)
    return figure, rows


def height_of(labels: Sequence[str]) -> float:
    """:return: Inches that a panel with these algorithms needs: all get as much as the one whose name has most lines"""
    return len(labels) * max(0.36, max(0.17 * (name.count("\n") + 1) for name in short_names(labels)))


def put_labels(axes: Axes, labels: Sequence[str], *, names: bool) -> None:
    """
    Give a panel one row for each algorithm, from top to bottom.

    :param axes: The panel
    :param labels: The algorithms
    :param names: Whether to show their names
    """
    axes.set_yticks(range(len(labels)), short_names(labels) if names else [""] * len(labels))
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right", "left"]].set_visible(False)


def draw_intervals(
    axes: Axes, comparison: Comparison, labels: Sequence[str], estimates: Mapping[str, Estimate]
) -> None:
    """Draw a line at each algorithm's estimate, and a bar over its interval."""
    axes.use_sticky_edges = False
    axes.margins(x=0.06)
    for position, label in enumerate(labels):
        if label in estimates:
            estimate, (colour, _) = estimates[label], style(comparison, label)
            axes.vlines(estimate.value, position - 0.36, position + 0.36, color=colour, linewidth=3)
            if math.isfinite(estimate.low):
                axes.barh(position, estimate.high - estimate.low, 0.6, estimate.low, color=colour, alpha=0.45)
    axes.xaxis.set_major_locator(MaxNLocator(4))
