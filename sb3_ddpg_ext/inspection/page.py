"""A run and what was found in it -> one picture, and one self-contained page around it."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sb3_ddpg_ext.files import atomic
from sb3_ddpg_ext.inspection.findings import Finding
from sb3_ddpg_ext.inspection.reading import InspectedRun
from sb3_ddpg_ext.report.panels import COLOURS, panels, short_number
from sb3_ddpg_ext.report.rendering import environment


@dataclass(frozen=True)
class _Panel:
    """
    What a panel shows.

    :param title: Its title
    :param keys: SB3's keys of what was logged, by the names of the lines
    :param logarithmic: Whether its scale is logarithmic
    :param limits: Where its scale begins and ends; None for where the values do
    """

    title: str
    keys: Mapping[str, str]
    logarithmic: bool = False
    limits: tuple[float, float | None] | None = None


_SHARE = (-0.03, 1.03)
_PANELS = (
    _Panel(
        "Critic's values in the evaluations",
        {"Q(s, mu(s))": "eval/q_value", "discounted return": "eval/discounted_return"},
    ),
    _Panel("TD error, mean |Q - y|", {"TD error": "train/td_error"}, limits=(0, None)),
    _Panel("Critic's loss", {"critic loss": "train/critic_loss"}, logarithmic=True),
    _Panel("Actor's loss, -Q(s, mu(s))", {"actor loss": "train/actor_loss"}),
    _Panel(
        "Norm of the gradients",
        {"actor": "train/actor_grad_norm", "critic": "train/critic_grad_norm"},
        logarithmic=True,
    ),
    _Panel(
        "Share of actions at a bound",
        {"without noise": "train/actor_saturation", "with noise": "rollout/action_saturation"},
        limits=_SHARE,
    ),
    _Panel(
        "Share of dead units", {"actor": "train/actor_dead_units", "critic": "train/critic_dead_units"}, limits=_SHARE
    ),
    _Panel(
        "Standard deviation of actions",
        {"over states, without noise": "train/actor_spread", "of the noise": "rollout/noise_std"},
        limits=(0, None),
    ),
)


def write(run: InspectedRun, findings: Sequence[Finding], directory: Path) -> Path:
    """
    Write the picture and the page.

    :param run: The numbers of the run
    :param findings: What looks wrong
    :param directory: The directory to write to
    :return: Path of ``inspection.html``
    """
    buffer = io.BytesIO()
    draw(run).savefig(buffer, format="png", metadata={"Software": None})
    page = (
        environment("inspection")
        .get_template("inspection.html.j2")
        .render(run=run, findings=findings, picture=base64.b64encode(buffer.getvalue()).decode())
    )
    with atomic(directory / "inspection.png") as partial:
        partial.write_bytes(buffer.getvalue())
    with atomic(directory / "inspection.html") as partial:
        partial.write_text(page, encoding="utf-8")
    return directory / "inspection.html"


def draw(run: InspectedRun) -> Figure:
    """:return: A figure with a panel for everything that there is in a run"""
    # The critic's values are complete in the file of the evaluations
    log = {**run.log, "eval/q_value": run.q_values, "eval/discounted_return": run.discounted_returns}
    drawn = [
        (panel, lines)
        for panel in _PANELS
        if (lines := {name: log[key] for name, key in panel.keys.items() if key in log and len(log[key])})
    ]
    figure, (first, *others) = panels(1 + len(drawn), height=2.7)
    _draw_returns(first, run)
    for axes, (panel, lines) in zip(others, drawn, strict=True):
        for colour, (name, line) in zip(COLOURS, lines.items(), strict=False):
            axes.plot(line.steps, line.values, ".-", color=colour, label=name, markersize=3)
        axes.set_title(panel.title, fontsize=10)
        if panel.limits is not None:
            axes.set_ylim(*panel.limits)
        if panel.logarithmic and all((line.values > 0).any() for line in lines.values()):
            axes.set_yscale("log")
        if len(panel.keys) > 1:
            axes.legend(frameon=False, fontsize=8)
    for axes in (first, *others):
        axes.set_xlim(0, run.length)
        axes.xaxis.set_major_formatter(short_number)
        axes.set_xlabel("environment steps", fontsize=8)
        axes.tick_params(labelsize=8, which="both")
    return figure


def _draw_returns(axes: Axes, run: InspectedRun) -> None:
    axes.set_title("Return", fontsize=10)
    if len(run.episodes):
        axes.plot(run.episodes.steps, run.episodes.values, ".", color="#8C8C8C", markersize=3, label="training")
    if len(run.evaluations):
        returns = run.evaluations.values
        axes.plot(run.evaluations.steps, returns.mean(axis=1), color=COLOURS[0], label="evaluations")
        low, high = np.percentile(returns, [10, 90], axis=1)
        axes.fill_between(
            run.evaluations.steps, low, high, color=COLOURS[0], alpha=0.2, linewidth=0, label="80% of their episodes"
        )
    if len(run.episodes) or len(run.evaluations):
        axes.legend(frameon=False, fontsize=8)
