"""A comparison -> pictures. An algorithm has the same colour and dashes in all of them."""

import itertools
import math
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from sb3_ddpg_ext.report.analysis import SCORES, Comparison, Group, common
from sb3_ddpg_ext.results import statistics
from sb3_ddpg_ext.results.records import Array, Evaluations
from sb3_ddpg_ext.results.scales import threshold_of
from sb3_ddpg_ext.results.statistics import Estimate
from sb3_ddpg_ext.variants import pieces

# Okabe and Ito's colours, which the colour-blind can tell apart, with grey for yellow, which nobody sees on white
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C8C8C")
_DASHES: tuple[Literal["-", "--", ":", "-."], ...] = ("-", "--", ":", "-.")
_RESAMPLES = 2_000  # for bands, where nobody reads a number
_ALL = "all environments"


@dataclass(frozen=True)
class Picture:
    """
    One picture of the report.

    :param name: Its file is ``<name>.png``
    :param caption: What it shows, and how that was made
    :param draw: From the comparison to the figure, None where there is nothing to be seen
    """

    name: str
    caption: str
    draw: Callable[[Comparison], Figure | None]


def _style(comparison: Comparison, label: str) -> tuple[str, Literal["-", "--", ":", "-."]]:
    index = comparison.labels.index(label)
    return _COLOURS[index % len(_COLOURS)], _DASHES[index // len(_COLOURS) % len(_DASHES)]


def _text(label: str, width: int = 26) -> str:
    """A label in lines, broken after colons and commas, and without what matplotlib would take for mathematics."""
    lines = [""]
    for part in re.findall("[^:,]*[:,]?", label):
        if lines[-1] and len(lines[-1] + part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(short for line in lines for short in textwrap.wrap(line.strip(), width)).replace("$", r"\$")


def _names(labels: Sequence[str], width: int = 26) -> list[str]:
    """Labels in lines. Where they are long, what all of them begin with is left out, in whole pieces."""
    columns = zip(*(pieces(label, ":,") for label in labels), strict=False)
    same = "".join(column[0] for column in itertools.takewhile(lambda column: len(set(column)) == 1, columns))
    if same == "" or len(labels) == 1 or max(map(len, labels)) <= width:
        return [_text(label, width) for label in labels]
    return [_text(f"…{label.removeprefix(same)}", width) for label in labels]


def _short(value: float, _: float = 0) -> str:
    """A tick's label: 20k for 20,000"""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def _legend(figure: Figure, comparison: Comparison, labels: Sequence[str]) -> None:
    styles = [_style(comparison, label) for label in labels]
    handles = [Line2D([], [], color=colour, linestyle=dashes, linewidth=2) for colour, dashes in styles]
    texts = _names(labels, 40)
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    for columns in range(min(len(labels), 4), 0, -1):  # as many as fit
        legend = figure.legend(handles, texts, loc="outside lower center", ncols=columns, frameon=False)
        extent = legend.get_window_extent(renderer)
        if columns == 1 or extent.width <= figure.bbox.width:
            break
        legend.remove()
    figure.set_figheight(figure.get_figheight() + extent.height / figure.dpi)


def _panels(number: int, height: float = 3.3) -> tuple[Figure, list[Axes]]:
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


def _in_first_column(axes: Axes) -> bool:
    place = axes.get_subplotspec()
    return place is not None and place.is_first_col()


def _curves(
    comparison: Comparison, x: Callable[[Evaluations], Array], xlabel: str, *, log: bool = False
) -> Figure | None:
    """Curves against ``x``, one panel for each environment."""
    drawn = {key: curve for key, group in comparison.groups.items() if (curve := _curve(group, x, comparison.seed))}
    envs = [env for env in comparison.envs if any(env == where for where, _ in drawn)]
    if not envs:
        return None
    figure, panels = _panels(len(envs))
    alpha = min(0.2, 0.8 / len(comparison.labels))
    for env, axes in zip(envs, panels, strict=True):
        for (where, label), (grid, middle, low, high) in drawn.items():
            if where == env:
                colour, dashes = _style(comparison, label)
                axes.plot(grid, middle, dashes, color=colour, linewidth=1.8)
                axes.fill_between(grid, low, high, color=colour, alpha=alpha, linewidth=0)
        threshold = threshold_of(env)
        if threshold is not None and axes.get_ylim()[0] < threshold < axes.get_ylim()[1]:
            axes.axhline(threshold, color="gray", linewidth=0.8, linestyle=(0, (6, 4)), zorder=0)
        axes.set(title=env, xlabel=xlabel, **({"xscale": "log"} if log else {"xlim": (0, None)}))
        axes.xaxis.set_major_formatter(_short)
        if _in_first_column(axes):
            axes.set_ylabel("return: IQM over runs, 95% interval")
    _legend(figure, comparison, [label for label in comparison.labels if any(label == name for _, name in drawn)])
    return figure


def _curve(group: Group, x: Callable[[Evaluations], Array], seed: int) -> tuple[Array, Array, Array, Array] | None:
    """Points, IQM and its interval, from where all runs are known to where the first of them ends."""
    start, end = common(group.curves, x)
    if not start < end:
        return None
    grid = np.unique(np.concatenate([x(e) for e in group.curves]))
    grid = grid[(grid >= start) & (grid <= end)]
    if len(grid) > 200:
        grid = np.linspace(start, end, 200)
    returns = np.stack([np.interp(grid, x(e), e.means) for e in group.curves], axis=-1)  # [points, runs]
    low, high = statistics.bootstrap(statistics.iqm, [returns], np.random.default_rng(seed), _RESAMPLES)
    return grid, statistics.iqm([returns]), low, high


def _height(labels: Sequence[str]) -> float:
    """Of one panel with a position for each label, in inches: enough for the one of most lines."""
    return len(labels) * max(0.36, max(0.17 * (name.count("\n") + 1) for name in _names(labels)))


def _label_axis(axes: Axes, labels: Sequence[str], names: bool) -> None:
    """One position for each label from the top, with its name in the first column of a row only."""
    axes.set_yticks(range(len(labels)), _names(labels) if names else [""] * len(labels))
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _intervals(axes: Axes, comparison: Comparison, labels: Sequence[str], estimates: Mapping[str, Estimate]) -> None:
    """One bar for each label: the interval, and a line at the estimate."""
    axes.use_sticky_edges = False
    axes.margins(x=0.06)
    for position, label in enumerate(labels):
        if label in estimates:
            estimate, (colour, _) = estimates[label], _style(comparison, label)
            axes.vlines(estimate.value, position - 0.36, position + 0.36, color=colour, linewidth=3)
            if math.isfinite(estimate.low):
                axes.barh(position, estimate.high - estimate.low, 0.6, estimate.low, color=colour, alpha=0.45)
    axes.xaxis.set_major_locator(MaxNLocator(4))


def _rows(titles: Sequence[str], columns: int, labels: Sequence[Sequence[str]]) -> tuple[Figure, list[list[Axes]]]:
    """A row of panels with a title for each environment, with a position for each of its labels in each panel."""
    heights = [1.2 + _height(those) for those in labels]
    figure = Figure(figsize=(10.5, sum(heights)), dpi=120, layout="constrained")
    parts = figure.subfigures(len(titles), 1, squeeze=False, height_ratios=heights)[:, 0]
    rows = []
    for title, those, part in zip(titles, labels, parts, strict=True):
        part.suptitle(title, fontweight="bold", x=0.01, ha="left", fontsize=11)
        panels = list(part.subplots(1, columns, squeeze=False)[0])
        for axes in panels:
            _label_axis(axes, those, names=axes is panels[0])
        rows.append(panels)
    return figure, rows


def _scores(comparison: Comparison, score: str) -> Figure | None:
    rows = comparison.score_rows[score]
    if not rows:
        return None
    envs = list(dict.fromkeys(row.env for row in rows))
    labels = [[row.label for row in rows if row.env == env] for env in envs]
    titles = [f"{_ALL}, normalised" if env is None else env for env in envs]
    figure, panels = _rows(titles, len(statistics.METRICS), labels)
    for env, those, row_panels in zip(envs, labels, panels, strict=True):
        for metric, axes in zip(statistics.METRICS, row_panels, strict=True):
            estimates = {r.label: r.estimates[metric] for r in rows if r.env == env and metric in r.estimates}
            if estimates:
                _intervals(axes, comparison, those, estimates)
                axes.set_title(f"{metric} (lower is better)" if metric == "optimality gap" else metric, fontsize=9)
            else:
                axes.set_axis_off()
    return figure


def _improvement(comparison: Comparison) -> Figure | None:
    rows = comparison.improvement_rows
    scores = [score for score in SCORES if rows[score]]
    if not scores:
        return None
    envs = list(dict.fromkeys(row.env for score in scores for row in rows[score]))
    labels = [
        [label for label in comparison.labels if any((env, label) == (r.env, r.label) for s in scores for r in rows[s])]
        for env in envs
    ]
    figure, panels = _rows([env or _ALL for env in envs], len(scores), labels)
    for env, those, row_panels in zip(envs, labels, panels, strict=True):
        for score, axes in zip(scores, row_panels, strict=True):
            estimates = {row.label: row.probability for row in rows[score] if row.env == env}
            _intervals(axes, comparison, those, estimates)
            axes.axvline(0.5, color="gray", linewidth=1)
            axes.set_xlim(-0.03, 1.03)
            axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
            axes.set_title(SCORES[score], fontsize=9)
    figure.supxlabel(f"P(better than {_text(comparison.baseline, 60)})", fontsize=10)
    return figure


def _profiles(comparison: Comparison) -> Figure | None:
    drawn = {
        score: {label: s for label in comparison.labels if (s := comparison.normalised(score, label))}
        for score in SCORES
    }
    scores = [score for score in SCORES if drawn[score]]
    if not scores:
        return None
    figure, panels = _panels(len(scores))
    for score, axes in zip(scores, panels, strict=True):
        everything = np.concatenate([s for strata in drawn[score].values() for s in strata])
        margin = 0.05 * max(float(np.ptp(everything)), 0.1)
        taus = np.linspace(everything.min() - margin, everything.max() + margin, 201)
        for label, strata in drawn[score].items():
            colour, dashes = _style(comparison, label)

            def profile(s: Sequence[Array], taus: Array = taus) -> Array:
                return statistics.performance_profile(s, taus)

            low, high = statistics.bootstrap(profile, strata, np.random.default_rng(comparison.seed), _RESAMPLES)
            axes.step(taus, profile(strata), dashes, where="post", color=colour, linewidth=1.8)
            axes.fill_between(taus, low, high, step="post", color=colour, alpha=0.15, linewidth=0)
        axes.set(title=SCORES[score], xlabel="normalised score τ", ylim=(-0.02, 1.02))
        axes.title.set_fontsize(10)
    panels[0].set_ylabel("fraction of runs above τ")
    _legend(figure, comparison, [label for label in comparison.labels if any(label in drawn[s] for s in scores)])
    return figure


def _thresholds(comparison: Comparison) -> Figure | None:
    rows = comparison.threshold_rows
    thresholds = {row.env: row.threshold for row in rows if row.reached}
    if not thresholds:
        return None
    groups = [{row.label: comparison.groups[env, row.label] for row in rows if row.env == env} for env in thresholds]
    titles = [f"{env}: first evaluation at or above {threshold:g}" for env, threshold in thresholds.items()]
    figure, panels = _rows(titles, 2, [list(there) for there in groups])
    for there, (over_steps, over_seconds) in zip(groups, panels, strict=True):
        _times(over_steps, comparison, {label: group.steps_to for label, group in there.items()})
        _times(over_seconds, comparison, {label: group.seconds_to for label, group in there.items()})
        over_steps.set_xlabel("environment steps")
        over_seconds.set_xlabel("CPU seconds of training")
    return figure


def _times(axes: Axes, comparison: Comparison, times: Mapping[str, Array]) -> None:
    """A dot for each run, a line at the median; beyond the dotted line, those that did not get there."""
    everything = np.concatenate(list(times.values()))
    end = 1.05 * float(everything[np.isfinite(everything)].max())
    for position, (label, unsorted) in enumerate(times.items()):
        t, (colour, _) = np.sort(unsorted), _style(comparison, label)
        there = np.isfinite(t)
        spread = position + 0.2 * np.linspace(-1, 1, len(t)) * (len(t) > 1)
        axes.plot(t[there], spread[there], "o", color=colour, markersize=5, alpha=0.6)
        axes.plot(np.full((~there).sum(), 1.05 * end), spread[~there], "x", color=colour, markersize=5)
        if np.isfinite(np.median(t)):
            axes.vlines(float(np.median(t)), position - 0.36, position + 0.36, color=colour, linewidth=3)
        axes.text(1.12 * end, position, f"{there.sum()} of {len(t)}", va="center", fontsize=9)
    axes.axvline(end, color="gray", linewidth=1, linestyle=":")
    axes.set_xlim(0, 1.3 * end)
    axes.set_xticks([tick for tick in MaxNLocator(5).tick_values(0, end) if 0 <= tick <= end])
    axes.xaxis.set_major_formatter(_short)


def _speed(comparison: Comparison) -> Figure | None:
    rows = comparison.pace_rows
    envs = list(dict.fromkeys(row.env for row in rows if row.env is not None))
    if not envs:
        return None
    labels = [label for label in comparison.labels if any(label == row.label for row in rows)]
    figure, panels = _panels(len(envs), height=1.0 + _height(labels))
    for env, axes in zip(envs, panels, strict=True):
        _label_axis(axes, labels, names=_in_first_column(axes))
        here = {row.label: row for row in rows if row.env == env}
        ends = {label: np.nanmax([row.pace.value, row.pace.high]) for label, row in here.items()}
        for position, label in enumerate(labels):
            if label in here:
                pace, speedup = here[label].pace, here[label].speedup.value
                axes.barh(position, pace.value, height=0.6, color=_style(comparison, label)[0], alpha=0.75)
                axes.hlines(position, pace.low, pace.high, color="black", linewidth=1.5)
                times = "" if math.isnan(speedup) else f" ({speedup:.2f}x)"
                axes.text(ends[label], position, f" {pace.value:,.0f}{times}", va="center", fontsize=9)
        axes.set_xlim(0, 1.5 * max(ends.values()))
        axes.set(title=env, xlabel="steps per CPU second of training")
    return figure


_BARS = "Lines: estimates. Bars: their 95% intervals (stratified bootstrap over runs), none where there is one run."

CURVES = (
    Picture(
        "learning_curves_steps",
        "Learning curves over environment steps: IQM over runs of the evaluations' mean returns, with 95% bootstrap "
        "bands. A curve ends where the first of its runs ends. Dashed, where in range: the threshold.",
        lambda comparison: _curves(comparison, lambda e: e.steps, "environment steps"),
    ),
    Picture(
        "learning_curves_seconds",
        "The same over CPU seconds of training (evaluations not counted), linear between the evaluations of each run.",
        lambda comparison: _curves(comparison, lambda e: e.cpu_seconds, "CPU seconds of training", log=True),
    ),
)
INTERVALS = {
    "final": Picture("scores_final", f"Final scores. {_BARS}", lambda comparison: _scores(comparison, "final")),
    "area_over_steps": Picture(
        "scores_steps", f"Areas over steps. {_BARS}", lambda comparison: _scores(comparison, "area_over_steps")
    ),
    "area_over_seconds": Picture(
        "scores_seconds", f"Areas over seconds. {_BARS}", lambda comparison: _scores(comparison, "area_over_seconds")
    ),
}
IMPROVEMENT = Picture("improvement", f"Probability of improvement over the baseline. {_BARS}", _improvement)
PROFILES = Picture(
    "profiles",
    "Performance profiles: the fraction of runs, averaged over the environments with a normalisation, that score above "
    "τ, with pointwise 95% bootstrap bands. Higher is better.",
    _profiles,
)
THRESHOLDS = Picture(
    "thresholds",
    "Dots: runs. Lines: medians. Crosses beyond the dotted line: runs that did not reach the threshold. Environments "
    "where no run did are not shown.",
    _thresholds,
)
SPEED = Picture(
    "speed", "Speed of training: IQM over runs and its 95% interval; in brackets, times the baseline's.", _speed
)
