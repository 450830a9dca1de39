"""
What a checkpoint costs beside ``save_replay_buffer``, with 1,000,000 transitions of HalfCheetah-v5 in the replay
buffer, and what resuming takes: ``python scripts/checkpoint_cost.py [DIRECTORY]``, on Linux, with 2 GB of memory.
"""

import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch as th
from stable_baselines3 import DDPG

from sb3_ddpg_ext import CustomDDPG

ROWS, NEW, ROUNDS = 1_000_000, 5000, 15
ENV = "HalfCheetah-v5"


def save_buffer(model: Any, path: Path) -> tuple[float, float]:
    """:return: Seconds to write a replay buffer into a new file, and until it is on the disk as a checkpoint is"""
    path.unlink(missing_ok=True)
    os.sync()
    start = time.perf_counter()
    model.save_replay_buffer(path)
    wrote = time.perf_counter()
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return wrote - start, time.perf_counter() - start


def save_checkpoint(model: Any, directory: Path) -> tuple[float, int]:
    """:return: Seconds to write a checkpoint, and bytes of it and its rows"""
    before = set(directory.rglob("*"))
    os.sync()
    start = time.perf_counter()
    model.save_checkpoint(directory)
    took = time.perf_counter() - start
    return took, sum(path.stat().st_size for path in directory.rglob("*") if path.is_file() and path not in before)


def resume(directory: Path) -> tuple[float, float]:
    """:return: Seconds to resume, and by how many times the replay buffer's bytes the memory has grown"""

    def peak() -> int:
        (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024

    CustomDDPG("MlpPolicy", ENV, buffer_size=1)  # loads the libraries
    before, start = peak(), time.perf_counter()
    buffer: Any = CustomDDPG.resume(directory, ENV).replay_buffer
    return time.perf_counter() - start, (peak() - before) / buffer._rows.nbytes


def main(directory: Path) -> None:
    """Measure alternately, and write medians and the worst of them."""
    th.set_num_threads(1)
    rng = np.random.default_rng(0)
    models: dict[str, Any] = {}
    for name, algorithm in {"CustomDDPG": CustomDDPG, "SB3's DDPG": DDPG}.items():
        model: Any = algorithm("MlpPolicy", ENV, buffer_size=ROWS, learning_starts=10**9, seed=0)  # no gradient steps
        buffer = model.learn(NEW).replay_buffer
        for array in (buffer.observations, buffer.next_observations, buffer.actions, buffer.rewards):
            array[:] = rng.standard_normal(array.shape, dtype=np.float32)
        buffer.full, models[name] = True, model
    ours, checkpoints = models["CustomDDPG"], directory / "checkpoints"
    ours.save_checkpoint(checkpoints)
    saved: list[tuple[float, int]] = []
    buffers: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
    for _ in range(ROUNDS):
        ours.learn(NEW, reset_num_timesteps=False)
        saved.append(save_checkpoint(ours, checkpoints))
        for name, model in models.items():
            buffers[name].append(save_buffer(model, directory / f"{name}.pkl"))
    seconds, sizes = zip(*saved, strict=True)
    lines = [f"checkpoint: {median(seconds):.3f} s, {median(sizes) / 1e6:.1f} MB (at most {max(sizes) / 1e6:.1f})"]
    for name, times in buffers.items():
        n_bytes = (directory / f"{name}.pkl").stat().st_size
        wrote, durable = (median(a / b[i] for a, b in zip(seconds, times, strict=True)) for i in (0, 1))
        lines.append(f"save_replay_buffer of {name}: {median(t[0] for t in times):.3f} s, {n_bytes / 1e6:.0f} MB")
        lines.append(
            f"  {median(t[1] for t in times):.3f} s until it is on the disk. A checkpoint takes {wrote:.1%} of"
        )
        lines.append(f"  the first time, {durable:.1%} of the second, {median(sizes) / n_bytes:.1%} of the bytes")
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        took, memory = pool.submit(resume, checkpoints).result()
    n_files = len(list((checkpoints / "rows").iterdir()))
    lines.append(
        f"resuming from {n_files} files of rows: {took:.2f} s, {memory:.2f} times the replay buffer's memory\n"
    )
    sys.stdout.write("\n".join(lines))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        main(Path(folder))
