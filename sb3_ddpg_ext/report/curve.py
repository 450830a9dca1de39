"""The learning curve of one run directory. It needs matplotlib only, so that training can draw it."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure


def learning_curve(directory: Path) -> Figure:
    """
    Draw the returns of a run's training episodes, and its evaluations.

    :param directory: A run directory with ``*.monitor.csv`` files and, if there were evaluations, ``evaluations.npz``
    :return: The figure
    """
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    steps, returns = training_episodes(directory)
    axes.plot(steps, returns, ".", markersize=4, alpha=0.4, color="tab:gray", label="training episodes")
    evaluations = directory / "evaluations.npz"
    if evaluations.exists():
        with np.load(evaluations) as file:
            timesteps, results = file["timesteps"], file["results"]
        n_episodes = results.shape[1]
        episodes = f"mean of {n_episodes} episodes" if n_episodes > 1 else "one episode"
        axes.plot(timesteps, results.mean(axis=1), color="tab:blue", label=f"evaluation: {episodes}")
        if n_episodes > 1:
            # Percentile bootstrap of the mean over the episodes of each evaluation
            rng = np.random.default_rng(0)
            means = [rng.choice(returns, size=(2_000, n_episodes)).mean(axis=1) for returns in results]
            low, high = np.percentile(means, [2.5, 97.5], axis=1)
            axes.fill_between(timesteps, low, high, alpha=0.25, color="tab:blue", label="its 95% interval")
    axes.set(xlabel="environment steps", ylabel="return", title=" ".join(directory.resolve().parts[-2:]))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    return figure


def training_episodes(directory: Path) -> tuple[np.ndarray, np.ndarray]:
    """
    :param directory: A run directory
    :return: For each episode, in the order in which they ended: environment steps until then, and its return
    """
    # A file of SB3's Monitor: a comment, the column names, then return, length and seconds of each episode. A last line
    # without a line break is incomplete: the disk was full
    rows = [file.read_text().split("\n")[2:-1] for file in sorted(directory.glob("*.monitor.csv"))]
    files = [np.loadtxt(lines, delimiter=",", usecols=(0, 1, 2), ndmin=2) for lines in rows if lines]
    if not files:
        return np.empty(0), np.empty(0)
    episodes = np.concatenate(files)
    episodes = episodes[np.argsort(episodes[:, 2], kind="stable")]
    return np.cumsum(episodes[:, 1]), episodes[:, 0]
