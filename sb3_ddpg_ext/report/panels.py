"""What all pictures are drawn with: a palette, panels, short numbers. It needs matplotlib only."""

import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

# The palette of Okabe and Ito, which colour-blind readers can tell apart, with grey instead of yellow, which is hard to
# see on white
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C8C8C")


def panels(number: int, height: float = 3.3) -> tuple[Figure, list[Axes]]:
    """:return: A figure with panels of a height in inches, at most three in a row"""
    columns = 2 if number == 4 else min(number, 3)
    rows = math.ceil(number / columns)
    figure = Figure(
        figsize=(max(4.4 * columns, 7.5), height * rows + 0.2), dpi=120, layout=ConstrainedLayoutEngine(h_pad=0.1)
    )
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for unused in axes[number:]:
        unused.set_axis_off()
    for used in axes[:number]:
        used.grid(alpha=0.3)
        used.spines[["top", "right"]].set_visible(False)
    return figure, axes[:number]


def short_number(value: float, _: float = 0) -> str:
    """:return: A tick's label, such as 20k for 20,000"""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def is_in_first_column(axes: Axes) -> bool:
    """:return: Whether a panel is the first in its row"""
    place = axes.get_subplotspec()
    return place is not None and place.is_first_col()
