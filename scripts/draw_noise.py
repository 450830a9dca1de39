"""``python scripts/draw_noise.py docs/noise.png``: sample paths and spectra of the noise, all equally strong."""

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from sb3_ddpg_ext import ColoredNoise, GaussianNoise, OrnsteinUhlenbeckNoise, PinkNoise, UniformNoise

STD, HORIZON, SHOWN, RUNS = 0.3, 1000, 300, 500
PROCESSES = {
    "uniform (white)": (UniformNoise(STD), "#CC79A7"),
    "Gaussian (white)": (GaussianNoise(STD), "#0072B2"),
    "coloured, beta = 0.5": (ColoredNoise(0.5, STD, HORIZON), "#56B4E9"),
    "pink: coloured, beta = 1": (PinkNoise(STD, HORIZON), "#D55E00"),
    "Ornstein-Uhlenbeck, 6.7 steps (the paper's)": (OrnsteinUhlenbeckNoise(STD, 1 / 0.15), "#009E73"),
    "Ornstein-Uhlenbeck, 667 steps (SB3's)": (OrnsteinUhlenbeckNoise(STD, 1 / 0.0015), "#000000"),
}


def main(path: Path) -> None:
    figure = Figure(figsize=(11, 6.5), dpi=120, layout="constrained")
    paths, spectra = figure.subplots(1, 2, width_ratios=(1.25, 1))
    for row, (name, (process, colour)) in enumerate(PROCESSES.items()):
        process.bind(RUNS, (1,), seed=2)
        noise = np.stack([process.sample().copy() for _ in range(HORIZON)])[..., 0]  # step, run
        offset = -2.0 * row
        paths.axhline(offset, color="lightgrey", linewidth=0.8)
        paths.plot(offset + noise[:SHOWN, 0], color=colour, linewidth=0.9)
        paths.text(0, offset + 0.95, name, fontsize=9, color=colour)
        power = np.mean(np.abs(np.fft.rfft(noise, axis=0)) ** 2, axis=1)[1:-1] / HORIZON
        spectra.loglog(np.arange(1, len(power) + 1) / HORIZON, power, color=colour, linewidth=1.3)
    paths.set(title=f"Sample paths, all of standard deviation {STD}", xlabel="step", xlim=(0, SHOWN), yticks=[])
    paths.set_ylim(None, 1.4)
    spectra.set(
        title=f"Power spectra, {RUNS} episodes of {HORIZON} steps", xlabel="frequency, 1 / step", ylabel="power density"
    )
    for axes in (paths, spectra):
        axes.spines[["top", "right"]].set_visible(False)
    spectra.grid(alpha=0.3)
    figure.savefig(path)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} PICTURE.png")
    main(Path(sys.argv[1]))
