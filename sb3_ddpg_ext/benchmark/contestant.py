"""
One contestant of the benchmark: a script that builds an algorithm and then answers each request on its standard input
with the time that a step took.

It imports nothing from this package, so that it also runs in another virtual environment's Python: SBX needs JAX, which
is best kept out of an environment with PyTorch.
"""

import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm


def make_model(
    algorithm: str, env: str, net_arch: list[int], batch_size: int, n_envs: int
) -> tuple[OffPolicyAlgorithm, int]:
    """
    Build an algorithm and train it for a moment. All contestants get the same arguments, with one gradient step for
    each transition.

    :param algorithm: Import path of its class, ``module:Class``
    :param env: Id of the environment
    :param net_arch: Hidden layers of actor and critic
    :param batch_size: Transitions in a minibatch
    :param n_envs: Number of environments
    :return: The model, and the length of an action
    """
    module, name = algorithm.split(":")
    vec_env = make_vec_env(env, n_envs, seed=0)
    (n_actions,) = vec_env.action_space.shape or ()
    model: OffPolicyAlgorithm = getattr(importlib.import_module(module), name)(
        "MlpPolicy",
        vec_env,
        learning_rate=1e-3,
        buffer_size=100_000,
        learning_starts=0,
        batch_size=batch_size,
        train_freq=1,
        gradient_steps=-1,
        action_noise=NormalActionNoise(np.zeros(n_actions), 0.1 * np.ones(n_actions)),
        policy_kwargs={"net_arch": net_arch},
        seed=0,
        device="cpu",
    )
    model.learn(200)
    return model, n_actions


def make_matrix_products(
    n_observations: int, n_actions: int, net_arch: list[int], batch_size: int
) -> Callable[[], None]:
    """
    The matrix products that every DDPG update needs: a lower bound for its time.

    Forward: mu(s), mu'(s'), Q(s, a), Q'(s', mu'(s')), Q(s, mu(s)). Backward: the gradients of the critic's weights and
    activations, those of the action through the critic, and those of the actor's weights and activations.

    :param n_observations: Length of an observation
    :param n_actions: Length of an action
    :param net_arch: Hidden layers of actor and critic
    :param batch_size: Transitions in a minibatch
    :return: A function that computes them once
    """
    actor = [n_observations, *net_arch, n_actions]
    critic = [n_observations + n_actions, *net_arch, 1]
    shapes: list[tuple[int, int, int]] = []  # (m, k, n) for a product of [m, k] and [k, n]

    def forward(widths: list[int]) -> None:
        shapes.extend((batch_size, n_in, n_out) for n_in, n_out in pairwise(widths))

    def weight_gradients(widths: list[int]) -> None:
        shapes.extend((n_out, batch_size, n_in) for n_in, n_out in pairwise(widths))

    def activation_gradients(widths: list[int]) -> None:
        shapes.extend((batch_size, n_out, n_in) for n_in, n_out in pairwise(widths[1:]))

    for widths in (actor, actor, critic, critic, critic):
        forward(widths)
    for widths in (critic, actor):
        weight_gradients(widths)
        activation_gradients(widths)
    activation_gradients(critic)  # again, in the actor's step
    shapes.append((batch_size, net_arch[0], n_actions))
    triples = [(th.randn(m, k), th.randn(k, n), th.empty(m, n)) for m, k, n in shapes]

    def compute() -> None:
        for a, b, out in triples:
            th.mm(a, b, out=out)

    return compute


def make_measures(spec: dict[str, Any]) -> dict[str, Callable[[int], None]]:
    """
    Build the contestant and the functions to time.

    :param spec: ``algorithm``, ``env``, ``net_arch``, ``batch_size``, ``n_envs``
    :return: ``{name: function}``. The argument of ``learn`` and ``collect`` is a number of environment steps, that of
        ``update`` and ``gemm`` a number of repetitions
    """
    n_envs, batch_size, net_arch = spec["n_envs"], spec["batch_size"], spec["net_arch"]
    model, n_actions = make_model(spec["algorithm"], spec["env"], net_arch, batch_size, n_envs)
    (n_observations,) = model.observation_space.shape or ()
    matrix_products = make_matrix_products(n_observations, n_actions, net_arch, batch_size)

    def learn(n: int) -> None:
        model.learn(n, reset_num_timesteps=False)

    def update(n: int) -> None:
        for _ in range(n):
            model.train(1, batch_size)

    def collect(n: int) -> None:
        model.gradient_steps = 0
        model.learn(n, reset_num_timesteps=False)
        model.gradient_steps = -1

    def gemm(n: int) -> None:
        for _ in range(n):
            matrix_products()

    return {"learn": learn, "update": update, "collect": collect, "gemm": gemm}


def main() -> None:
    """Answer each line ``{"measure": ..., "seconds": ...}`` with the seconds of one step and the peak memory so far."""
    answers, sys.stdout = sys.stdout, sys.stderr  # keeps everything else that is printed out of the answers
    spec = json.loads(sys.argv[1])
    if hasattr(os, "sched_setaffinity"):  # the only limit that JAX obeys
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: spec["threads"]])
    th.set_num_threads(spec["threads"])
    functions = make_measures(spec)
    seconds_per_step: dict[str, float] = {}

    def measure(name: str, seconds: float) -> float:
        n = spec["n_envs"] * max(round(seconds / seconds_per_step[name] / spec["n_envs"]), 1)
        start = time.perf_counter()
        functions[name](n)
        seconds_per_step[name] = (time.perf_counter() - start) / n
        return seconds_per_step[name]

    for name in functions:  # the first call compiles; the second gives an estimate for `measure`
        for _ in range(2):
            seconds_per_step[name] = 0.01
            measure(name, 0.3)
    print("{}", file=answers, flush=True)  # ready
    for line in sys.stdin:
        request = json.loads(line)
        answer = {"seconds": measure(request["measure"], request["seconds"])}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        print(json.dumps({**answer, "peak_memory": peak}), file=answers, flush=True)


if __name__ == "__main__":
    main()
