"""The time of one call of an action noise, compared with SB3's: for one environment, and for many."""

import time
from statistics import median
from typing import Any

import numpy as np
from stable_baselines3.common.noise import (
    ActionNoise,
    NormalActionNoise,
    OrnsteinUhlenbeckActionNoise,
    VectorizedActionNoise,
)

from sb3_ddpg_ext.noise import NOISES, ParameterNoise, setup_action_noise

MANY = 64  # environments
_N_ACTIONS = 6  # as in HalfCheetah-v5
_BASELINE = "SB3 NormalActionNoise"


def _contestants(n_envs: int) -> dict[str, ActionNoise]:
    mean, sigma = np.zeros(_N_ACTIONS), 0.1 * np.ones(_N_ACTIONS)
    contestants: dict[str, ActionNoise] = {
        _BASELINE: NormalActionNoise(mean, sigma),
        "SB3 OrnsteinUhlenbeckActionNoise": OrnsteinUhlenbeckActionNoise(mean, sigma),
    }
    if n_envs > 1:  # as SB3 does it
        contestants = {name: VectorizedActionNoise(noise, n_envs) for name, noise in contestants.items()}
    for name in NOISES:
        if NOISES[name] is ParameterNoise:  # is not called: it perturbs weights
            continue
        arguments: dict[str, Any] = {"type": name, **({"beta": 0.5} if name == "colored" else {})}
        for label, spec in ((f'"{name}"', arguments), (f'"{name}", scheduled', {**arguments, "schedule": "linear"})):
            noise = setup_action_noise(spec, n_envs, (_N_ACTIONS,), seed=0)
            assert noise is not None
            contestants[label] = noise
    return contestants


def measure(rounds: int, calls: int = 2_000) -> dict[str, dict[str, list[float]]]:
    """
    Time the calls of each noise, in turns.

    :param rounds: Measurements of each noise
    :param calls: Calls in one measurement; best a multiple of 1,000, since coloured noise is generated for 1,000 steps
        at a time
    :return: For each number of environments and noise the seconds of a call
    """
    seconds: dict[str, dict[str, list[float]]] = {}
    for n_envs in (1, MANY):
        contestants = _contestants(n_envs)
        times: dict[str, list[float]] = {name: [] for name in contestants}
        for _ in range(rounds):
            for name, call in contestants.items():
                start = time.perf_counter()
                for _ in range(calls):
                    call()
                times[name].append((time.perf_counter() - start) / calls)
        seconds[str(n_envs)] = times
    return seconds


def table(seconds: dict[str, dict[str, list[float]]]) -> list[str]:
    """
    The measurements as Markdown.

    :param seconds: What :func:`measure` returned
    :return: Lines of a table
    """
    one, many = ({name: 1e6 * median(times) for name, times in seconds[str(n)].items()} for n in (1, MANY))
    lines = [
        f"| action noise, {_N_ACTIONS} actions | us per call, 1 environment | more than {_BASELINE} "
        f"| us per call, {MANY} environments | SB3's over it |",
        "|---|---|---|---|---|",
    ]
    for name in one:
        lines.append(
            f"| {name} | {one[name]:.2f} | {one[name] - one[_BASELINE]:+.2f} | {many[name]:.1f} "
            f"| {many[_BASELINE] / many[name]:.1f} |"
        )
    return lines
