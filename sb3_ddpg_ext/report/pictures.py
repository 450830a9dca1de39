"""The pictures of the report."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from sb3_ddpg_ext.report.analysis import ALL_ENVIRONMENTS, Comparison
from sb3_ddpg_ext.report.drawing import (
    add_legend,
    draw_intervals,
    height_of,
    panel_rows,
    put_labels,
    style,
    wrapped,
)
from sb3_ddpg_ext.report.groups import Group, common_range
from sb3_ddpg_ext.report.panels import is_in_first_column, panels, short_number
from sb3_ddpg_ext.results import statistics
from sb3_ddpg_ext.results.records import Array, Evaluations

BAND_RESAMPLES = 2_000
"""Fewer than for numbers: nobody can read a band so exactly."""


@dataclass(frozen=True)
class Picture:
    """
    One picture of the report.

    :param name: Name of its file, without ``.png``
    :param caption: What it shows, and how that was computed
    :param draw: From the comparison to the figure; None if there is nothing to show
    """

    name: str
    caption: str
    draw: Callable[[Comparison], Figure | None]


# --- Learning curves ---


def _learning_curves(
    comparison: Comparison, x: Callable[[Evaluations], Array], xlabel: str, *, log: bool = False
) -> Figure | None:
    curves = {key: curve for key, group in comparison.groups.items() if (curve := _curve(group, x, comparison.seed))}
    envs = [env for env in comparison.envs if any(env == curve_env for curve_env, _ in curves)]
    if not envs:
        return None
    figure, all_axes = panels(len(envs))
    alpha = min(0.2, 0.8 / len(comparison.labels))
    for env, axes in zip(envs, all_axes, strict=True):
        for (curve_env, label), (grid, middle, low, high) in curves.items():
            if curve_env == env:
                colour, dashes = style(comparison, label)
                axes.plot(grid, middle, dashes, color=colour, linewidth=1.8)
                axes.fill_between(grid, low, high, color=colour, alpha=alpha, linewidth=0)
        threshold = comparison.scale_of(env).threshold
        if threshold is not None and axes.get_ylim()[0] < threshold < axes.get_ylim()[1]:
            axes.axhline(threshold, color="gray", linewidth=0.8, linestyle=(0, (6, 4)), zorder=0)
        axes.set(title=env, xlabel=xlabel)
        if log:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=[1, 2, 5]))
            axes.xaxis.set_minor_formatter(NullFormatter())  # the default has labels such as 3 x 10^1
        else:
            axes.set_xlim(0, None)
        axes.xaxis.set_major_formatter(short_number)
        if is_in_first_column(axes):
            axes.set_ylabel("return: IQM over runs, 95% interval")
    add_legend(figure, comparison, [label for label in comparison.labels if any(label == name for _, name in curves)])
    return figure


def _curve(group: Group, x: Callable[[Evaluations], Array], seed: int) -> tuple[Array, Array, Array, Array] | None:
    """Points, and the IQM with its interval at each, over the range that all runs cover; None if that is empty."""
    start, end = common_range(group.curves, x)
    if not start < end:
        return None
    grid = np.unique(np.concatenate([x(e) for e in group.curves]))
    grid = grid[(grid >= start) & (grid <= end)]
    if len(grid) > 200:
        grid = np.linspace(start, end, 200)
    returns = np.stack([np.interp(grid, x(e), e.means) for e in group.curves], axis=-1)  # [points, runs]
    low, high = statistics.bootstrap(statistics.iqm, [returns], np.random.default_rng(seed), BAND_RESAMPLES)
    return grid, statistics.iqm([returns]), low, high


# --- Scores ---


def _scores(comparison: Comparison, score: str) -> Figure | None:
    rows = comparison.score_rows[score]
    if not rows:
        return None
    envs = list(dict.fromkeys(row.env for row in rows))
    labels = [[row.label for row in rows if row.env == env] for env in envs]
    titles = [f"{ALL_ENVIRONMENTS}, normalised" if env is None else env for env in envs]
    figure, axes_rows = panel_rows(titles, len(statistics.METRICS), labels)
    for env, env_labels, axes_row in zip(envs, labels, axes_rows, strict=True):
        for metric, axes in zip(statistics.METRICS, axes_row, strict=True):
            estimates = {r.label: r.estimates[metric] for r in rows if r.env == env and metric in r.estimates}
            if estimates:
                draw_intervals(axes, comparison, env_labels, estimates)
                axes.set_title(f"{metric} (lower is better)" if metric == "optimality gap" else metric, fontsize=9)
            else:
                axes.set_axis_off()
    return figure


def _improvement(comparison: Comparison) -> Figure | None:
    rows = comparison.improvement_rows
    scores = [score for score in rows if rows[score]]
    if not scores:
        return None
    envs = list(dict.fromkeys(row.env for score in scores for row in rows[score]))
    labels = [
        [label for label in comparison.labels if any((env, label) == (r.env, r.label) for s in scores for r in rows[s])]
        for env in envs
    ]
    figure, axes_rows = panel_rows([env or ALL_ENVIRONMENTS for env in envs], len(scores), labels)
    for env, env_labels, axes_row in zip(envs, labels, axes_rows, strict=True):
        for score, axes in zip(scores, axes_row, strict=True):
            estimates = {row.label: row.probability for row in rows[score] if row.env == env}
            draw_intervals(axes, comparison, env_labels, estimates)
            axes.axvline(0.5, color="gray", linewidth=1)
            axes.set_xlim(-0.03, 1.03)
            axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
            axes.set_title(comparison.scores[score], fontsize=9)
    figure.supxlabel(f"P(better than {wrapped(comparison.baseline, 60)})", fontsize=10)
    return figure


def _profiles(comparison: Comparison) -> Figure | None:
    normalised = {
        score: {label: s for label in comparison.labels if (s := comparison.normalised(score, label))}
        for score in comparison.scores
    }
    scores = [score for score in normalised if normalised[score]]
    if not scores:
        return None
    figure, all_axes = panels(len(scores))
    for score, axes in zip(scores, all_axes, strict=True):
        pooled = np.concatenate([s for strata in normalised[score].values() for s in strata])
        margin = 0.05 * max(float(np.ptp(pooled)), 0.1)
        taus = np.linspace(pooled.min() - margin, pooled.max() + margin, 201)
        for label, strata in normalised[score].items():
            colour, dashes = style(comparison, label)

            def profile(s: Sequence[Array], taus: Array = taus) -> Array:
                return statistics.performance_profile(s, taus)

            low, high = statistics.bootstrap(profile, strata, np.random.default_rng(comparison.seed), BAND_RESAMPLES)
            axes.step(taus, profile(strata), dashes, where="post", color=colour, linewidth=1.8)
            axes.fill_between(taus, low, high, step="post", color=colour, alpha=0.15, linewidth=0)
        axes.set(title=comparison.scores[score], xlabel="normalised score τ", ylim=(-0.02, 1.02))
        axes.title.set_fontsize(10)
    all_axes[0].set_ylabel("fraction of runs above τ")
    add_legend(figure, comparison, [name for name in comparison.labels if any(name in normalised[s] for s in scores)])
    return figure


# --- Thresholds and speed ---


def _thresholds(comparison: Comparison) -> Figure | None:
    rows = comparison.threshold_rows
    thresholds = {row.env: row.threshold for row in rows if row.reached}
    if not thresholds:
        return None
    groups = [{row.label: comparison.groups[env, row.label] for row in rows if row.env == env} for env in thresholds]
    titles = [f"{env}: first evaluation at or above {threshold:g}" for env, threshold in thresholds.items()]
    figure, axes_rows = panel_rows(titles, 2, [list(by_label) for by_label in groups])
    for by_label, (over_steps, over_seconds) in zip(groups, axes_rows, strict=True):
        _draw_times(over_steps, comparison, {label: group.steps_to_threshold for label, group in by_label.items()})
        _draw_times(over_seconds, comparison, {label: group.seconds_to_threshold for label, group in by_label.items()})
        over_steps.set_xlabel("environment steps")
        over_seconds.set_xlabel("CPU seconds of training")
    return figure


def _draw_times(axes: Axes, comparison: Comparison, times: Mapping[str, Array]) -> None:
    """A dot for each run and a line at the median; to the right of a dotted line, a cross for each infinite time."""
    pooled = np.concatenate(list(times.values()))
    end = 1.05 * float(pooled[np.isfinite(pooled)].max())
    for position, (label, unsorted) in enumerate(times.items()):
        t, (colour, _) = np.sort(unsorted), style(comparison, label)
        reached = np.isfinite(t)
        y = position + 0.2 * np.linspace(-1, 1, len(t)) * (len(t) > 1)
        axes.plot(t[reached], y[reached], "o", color=colour, markersize=5, alpha=0.6)
        axes.plot(np.full((~reached).sum(), 1.05 * end), y[~reached], "x", color=colour, markersize=5)
        if np.isfinite(np.median(t)):
            axes.vlines(float(np.median(t)), position - 0.36, position + 0.36, color=colour, linewidth=3)
        axes.text(1.12 * end, position, f"{reached.sum()} of {len(t)}", va="center", fontsize=9)
    axes.axvline(end, color="gray", linewidth=1, linestyle=":")
    axes.set_xlim(0, 1.3 * end)
    axes.set_xticks([tick for tick in MaxNLocator(5).tick_values(0, end) if 0 <= tick <= end])
    axes.xaxis.set_major_formatter(short_number)


def _speed(comparison: Comparison) -> Figure | None:
    rows = comparison.speed_rows
    envs = list(dict.fromkeys(row.env for row in rows if row.env is not None))
    if not envs:
        return None
    labels = [label for label in comparison.labels if any(label == row.label for row in rows)]
    figure, all_axes = panels(len(envs), height=1.0 + height_of(labels))
    for env, axes in zip(envs, all_axes, strict=True):
        put_labels(axes, labels, names=is_in_first_column(axes))
        by_label = {row.label: row for row in rows if row.env == env}
        ends = {label: np.nanmax([row.speed.value, row.speed.high]) for label, row in by_label.items()}
        for position, label in enumerate(labels):
            if label in by_label:
                speed, speedup = by_label[label].speed, by_label[label].speedup.value
                axes.barh(position, speed.value, height=0.6, color=style(comparison, label)[0], alpha=0.75)
                axes.hlines(position, speed.low, speed.high, color="black", linewidth=1.5)
                ratio = "" if math.isnan(speedup) else f" ({speedup:.2f}x)"
                axes.text(ends[label], position, f" {speed.value:,.0f}{ratio}", va="center", fontsize=9)
        axes.set_xlim(0, 1.5 * max(ends.values()))
        axes.set(title=env, xlabel="steps per CPU second of training")
        axes.xaxis.set_major_formatter(short_number)
    return figure


# --- The table of pictures ---

_BARS = "Lines: estimates. Bars: 95% intervals (stratified bootstrap over runs); a single run has none."

CURVES = (
    Picture(
        "learning_curves_steps",
        "Learning curves over environment steps: mean return of the evaluations, IQM over runs, with 95% bootstrap "
        "bands. A curve ends with the shortest of its runs. Dashed line: the threshold, if it is in range.",
        lambda comparison: _learning_curves(comparison, lambda e: e.steps, "environment steps"),
    ),
    Picture(
        "learning_curves_seconds",
        "The same over CPU seconds of training, without the time of evaluations. Runs are interpolated linearly "
        "between their evaluations.",
        lambda comparison: _learning_curves(comparison, lambda e: e.cpu_seconds, "CPU seconds of training", log=True),
    ),
)
INTERVALS = {
    "final": Picture("scores_final", f"Final scores. {_BARS}", lambda comparison: _scores(comparison, "final")),
    "at_equal_seconds": Picture(
        "scores_at_equal_seconds",
        f"Scores at equal seconds. {_BARS}",
        lambda comparison: _scores(comparison, "at_equal_seconds"),
    ),
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
    "Performance profiles: the fraction of runs with a normalised score above τ, averaged over environments, with "
    "pointwise 95% bootstrap bands. Higher is better.",
    _profiles,
)
THRESHOLDS = Picture(
    "thresholds",
    "Dots: runs. Lines: medians. Crosses to the right of the dotted line: runs that did not reach the threshold. "
    "Environments where no run reached it are not shown.",
    _thresholds,
)
SPEED = Picture(
    "speed",
    "Speed of training: IQM over runs with its 95% interval. In brackets: the ratio to the baseline's speed.",
    _speed,
)
