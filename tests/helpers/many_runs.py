"""Writes run directories as a comparison of many runs does, without any training."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sb3_ddpg_ext.results.scales import SCALES

N_EVALUATIONS, N_EPISODES = 20, 10


def write(log_dir: Path, labels: Sequence[str], envs: Sequence[str], seeds: int) -> Path:
    """
    Write records of finished runs. Their returns rise from those of random actions towards the reference, and their CPU
    seconds differ from run to run.

    :param log_dir: Directory of the comparison
    :param labels: The algorithms
    :param envs: Environments that have a scale
    :param seeds: Runs of each algorithm on each environment
    :return: ``log_dir``
    """
    rng = np.random.default_rng(0)
    steps = np.arange(1, N_EVALUATIONS + 1) * 1_000
    for label in labels:
        for env in envs:
            scale = SCALES[env]
            assert scale.random is not None
            assert scale.reference is not None
            for seed in range(seeds):
                learned = np.linspace(0, rng.uniform(0.6, 1.1), N_EVALUATIONS)[:, None]
                noise = rng.normal(0, 0.05, (N_EVALUATIONS + 1, N_EPISODES))
                returns = scale.random + (np.vstack([learned, learned[-1:]]) + noise) * (scale.reference - scale.random)
                seconds = steps / rng.uniform(900, 1_100)
                record = {
                    "label": label,
                    "algo": label,
                    "env": env,
                    "seed": seed,
                    "status": "finished",
                    "steps": int(steps[-1]),
                    "updates": int(steps[-1]),
                    "score": {"returns": returns[-1].tolist(), "episodes": N_EPISODES, "seed": 2_000_000},
                    "evaluations": {
                        "steps": steps.tolist(),
                        "seconds": seconds.tolist(),
                        "cpu_seconds": seconds.tolist(),
                        "returns": returns[:-1].tolist(),
                    },
                    "seconds": {"train": seconds[-1], "cpu": seconds[-1]},
                    "settings": {},
                    "device": "cpu",
                    "threads": 1,
                    "versions": {"python": "3.11.0"},
                    "machine": {"system": "Linux"},
                }
                directory = log_dir / label / f"{env}_{seed}"
                directory.mkdir(parents=True)
                (directory / "result.json").write_text(json.dumps(record))
    return log_dir
