"""
Runs that are interrupted and go on, also in another process:
``python resumed_runs.py NAME DIRECTORY STEPS EVERY DIGESTS.json``.

:func:`train` begins a run, or goes on with it if there is a checkpoint. :func:`digests` says what it has ended with.
"""

import hashlib
import json
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.noise import OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv, VecFrameStack, VecNormalize
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from sb3_ddpg_ext import CustomDDPG, PrioritizedReplayBuffer, ResumableCheckpointCallback
from sb3_ddpg_ext.checkpoint.codec import encode
from sb3_ddpg_ext.checkpoint.object_state import space_states, state_of
from sb3_ddpg_ext.checkpoint.segments import buffer_state, row_arrays


class InterruptedRunError(Exception):
    """Stands for whatever may end a process."""


class Interrupt(BaseCallback):
    """Raises :class:`InterruptedRunError` at a step."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def _on_step(self) -> bool:
        if self.num_timesteps >= self.step:
            raise InterruptedRunError
        return True


class Wandering(gym.Env[Any, Any]):
    """A random walk whose steps and spaces are random as well, and whose ends are known to nobody else."""

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(-10, 10, (2,), np.float64)
        self.action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """:return: A random position"""
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.position = self.np_random.normal(size=2) + 0.1 * self.observation_space.sample()
        self.left = int(self.np_random.integers(10, 30))
        return self.position.copy(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """:return: The next position, after a random number of steps the last one"""
        self.position[0] += action[0]
        self.position[:] = np.clip(self.position + 0.1 * self.np_random.normal(size=2), -9, 9)
        self.left -= 1
        return self.position.copy(), -float(abs(self.position).sum()), self.left == 0, False, {}


class Offering(Wandering):
    """Says what state it is in."""

    def get_state(self) -> dict[str, Any]:
        """:return: The state"""
        return {"position": self.position.copy(), "left": self.left}

    def set_state(self, state: dict[str, Any]) -> None:
        """Put a state back."""
        self.position, self.left = state["position"].copy(), state["left"]


class Forgetful(Wandering):
    """Cannot be put back: what it does depends on how often it has been reset."""

    n_resets = 0

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """:return: A random position, and further and further away"""
        self.n_resets += 1
        super().reset(**kwargs)
        self.position += 0.01 * self.n_resets
        return self.position.copy(), {}


def bits() -> gym.Env[Any, Any]:
    """:return: A goal environment with continuous actions"""
    return BitFlippingEnv(n_bits=4, continuous=True, max_steps=6)


class Dropping(BaseFeaturesExtractor):
    """Draws from PyTorch's generator when actions are chosen, too."""

    def __init__(self, observation_space: gym.spaces.Box) -> None:
        super().__init__(observation_space, features_dim=3)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """:return: The observations, a part of them as 0"""
        return th.nn.functional.dropout(observations, 0.1)


def rewards_normalized(env: VecEnv) -> VecEnv:
    """:return: Only rewards are normalised"""
    return VecNormalize(env, norm_obs=False)


def normalized(env: VecEnv) -> VecEnv:
    """:return: Frames stacked, and then normalised"""
    return VecNormalize(VecFrameStack(env, 2))


SMALL: dict[str, Any] = {
    "policy_kwargs": {"net_arch": [8]},
    "batch_size": 8,
    "learning_starts": 30,
    "buffer_size": 120,
}
HER: dict[str, Any] = {"policy": "MultiInputPolicy", "replay_buffer_class": HerReplayBuffer}
SB3_NOISE: dict[str, Any] = {"action_noise": OrnsteinUhlenbeckActionNoise(np.zeros(1), np.ones(1))}
FRUGAL: dict[str, Any] = {
    "optimize_memory_usage": True,
    "replay_buffer_kwargs": {"handle_timeout_termination": False},
}

# Environment, how many, subprocesses, what wraps them, arguments of the model
Run = tuple[Any, int, bool, Callable[[VecEnv], VecEnv] | None, dict[str, Any]]
RUNS: dict[str, Run] = {
    "pendulum": ("Pendulum-v1", 1, False, None, {}),
    "pendulum autograd": ("Pendulum-v1", 1, False, None, {"fused": False}),
    "pendulum dropout": (
        *("Pendulum-v1", 1, False, None),
        {"policy_kwargs": {"net_arch": [8], "features_extractor_class": Dropping}},
    ),
    "pendulum AdamW, two critics": (
        *("Pendulum-v1", 1, False, None),
        {"policy_kwargs": {"net_arch": [8], "n_critics": 2, "optimizer_class": th.optim.AdamW}},
    ),
    "pendulum target noise": (
        "Pendulum-v1",
        1,
        False,
        None,
        {"target_policy_noise": 0.2, "critic_learning_rate": 3e-3},
    ),
    "pendulum LayerNorm": (
        *("Pendulum-v1", 1, False, None),
        {
            "policy": "LayerNormPolicy",
            "policy_kwargs": {"net_arch": [8], "final_layer_init": 3e-3, "critic_optimizer_class": th.optim.AdamW},
        },
    ),
    "pendulum SimBa": ("Pendulum-v1", 2, False, None, {"policy": "SimbaPolicy"}),
    "pendulum pink": ("Pendulum-v1", 4, False, None, {"action_noise": {"type": "pink", "schedule": "linear"}}),
    "pendulum parameter noise": (
        *("Pendulum-v1", 3, False, None),
        {"action_noise": {"type": "parameter", "schedule": "exponential"}},
    ),
    "pendulum SB3's noise": ("Pendulum-v1", 1, False, None, {**SB3_NOISE}),
    "pendulum SB3's noise, 4": ("Pendulum-v1", 4, False, None, {**SB3_NOISE, "gradient_steps": 2}),
    "pendulum no seed": ("Pendulum-v1", 2, False, None, {"seed": None}),
    "pendulum per episode": ("Pendulum-v1", 1, False, None, {"train_freq": (1, "episode"), "gradient_steps": 5}),
    "pendulum frugal": ("Pendulum-v1", 2, False, None, {**FRUGAL}),
    "pendulum compact": ("Pendulum-v1", 2, False, None, {"optimize_memory_usage": True, "buffer_size": 150}),
    "pendulum prioritized": (
        *("Pendulum-v1", 2, False, VecNormalize),
        {"replay_buffer_class": PrioritizedReplayBuffer, "n_steps": 3, "buffer_size": 150},
    ),
    "mountain car": ("MountainCarContinuous-v0", 4, True, None, {"n_steps": 3}),
    "lander": ("LunarLanderContinuous-v3", 1, False, None, {"n_steps": 3, "fused": False}),
    "landers": ("LunarLanderContinuous-v3", 4, True, VecNormalize, {"train_freq": 3}),
    "cheetah": ("HalfCheetah-v5", 1, False, None, {"action_noise": "normal"}),
    "cheetahs": ("HalfCheetah-v5", 4, False, normalized, {}),
    "her": (bits, 1, False, None, {**HER}),
    "her 4": (bits, 4, True, rewards_normalized, {**HER, "fused": False}),
    "her infos": (bits, 1, False, None, {**HER, "replay_buffer_kwargs": {"copy_info_dict": True}}),
    "dict": (bits, 1, False, None, {"policy": "MultiInputPolicy"}),
    "dict n-step": (bits, 2, False, rewards_normalized, {"policy": "MultiInputPolicy", "n_steps": 3}),
    "wandering": (Wandering, 1, False, None, {}),
    "wandering 4": (Wandering, 4, True, normalized, {"n_steps": 2}),
    "offering": (Offering, 2, True, None, {}),
    "forgetful": (Forgetful, 1, False, None, {"n_steps": 3}),
}


def make_env(name: str, evaluation: bool = False) -> VecEnv:
    """:return: The environments of a run"""
    env_id, n_envs, subprocesses, wrap, arguments = RUNS[name]
    vec_env = SubprocVecEnv if subprocesses and not evaluation else None
    seed = None if arguments.get("seed", 0) is None else 100 * evaluation
    env: VecEnv = make_vec_env(env_id, 1 if evaluation else n_envs, seed=seed, vec_env_cls=vec_env)
    return env if wrap is None else wrap(env)


def train(
    name: str, directory: Path, steps: int, every: int = 0, interrupt: int | None = None
) -> tuple[CustomDDPG, EvalCallback]:
    """
    Begin a run, or go on with it where there is a checkpoint.

    :param name: Which run
    :param directory: Of checkpoints
    :param steps: Environment steps of the whole run
    :param every: Steps between two checkpoints, 0 for none
    :param interrupt: The step at which :class:`InterruptedRunError` is raised
    :return: The model, and the callback with its evaluations
    """
    warnings.filterwarnings("ignore", "Training and eval env are not of the same type")
    warnings.filterwarnings("ignore", "builtin type .* has no __module__")  # Box2D's, which crashes if it is an error
    arguments = {"policy": "MlpPolicy", "seed": 0, **SMALL, **RUNS[name][-1]}
    env = make_env(name)
    evaluation = EvalCallback(make_env(name, evaluation=True), n_eval_episodes=1, eval_freq=15, log_path=".", verbose=0)
    evaluation.log_path = str(directory.parent / "evaluations")
    callbacks: list[BaseCallback] = [evaluation]
    if every:
        callbacks.append(ResumableCheckpointCallback(directory, every))
    if interrupt is not None:
        callbacks.append(Interrupt(interrupt))
    resumes = directory.exists()
    if arguments["seed"] is None and not resumes:
        np.random.seed(0)  # noqa: NPY002
        th.manual_seed(0)
        for environment in (env, evaluation.eval_env):
            environment.action_space.seed(0)
            environment.seed(0)
    trust = {"trusted": True} if name == "pendulum dropout" else {}  # its extractor is a class of this file
    model = CustomDDPG.resume(directory, env, **trust) if resumes else CustomDDPG(env=env, **arguments)
    try:
        model.learn(steps - model.num_timesteps, callbacks, log_interval=1, reset_num_timesteps=not resumes)
    finally:
        env.close()
        evaluation.eval_env.close()
    return model, evaluation


def digest(value: Any) -> str:
    """:return: What is different for different data"""
    arrays: dict[str, np.ndarray] = {}
    tree = json.dumps(encode(value, arrays), sort_keys=True)
    data = [tree.encode(), *(f"{x.dtype}{x.shape}".encode() + x.tobytes() for x in arrays.values())]
    return hashlib.sha256(b"".join(data)).hexdigest()[:16]


def digests(model: CustomDDPG, evaluation: EvalCallback) -> dict[str, str]:
    """:return: Digests of everything that a run has ended with"""
    buffer = model.replay_buffer
    assert buffer is not None
    rows = {name: array[: buffer.size()] for name, array in row_arrays(buffer).items()}
    normalize = model.get_vec_normalize_env()
    infos = json.loads(re.sub('"t": [0-9.e-]+', '"t": 0', json.dumps(encode(buffer_state(buffer)["infos"], {}))))
    return {
        "weights": digest(dict(model.policy.state_dict())),
        "optimizers": digest([model.actor.optimizer.state_dict(), model.critic.optimizer.state_dict()]),
        "rows": digest(rows),
        "buffer": digest({**buffer_state(buffer), "infos": infos}),
        "noise": digest(state_of(model.action_noise)),
        "evaluations": digest([evaluation.evaluations_results, evaluation.evaluations_timesteps]),
        "best": digest(float(evaluation.best_mean_reward)),
        "n_calls": digest(evaluation.n_calls),
        "statistics": digest(
            None if normalize is None else [state_of(normalize.ret_rms), state_of(vars(normalize).get("obs_rms"))]
        ),
        "last": digest([model._last_obs, model.num_timesteps, model._n_updates, model._episode_num]),
        "episodes": digest([[info["r"], info["l"]] for info in model.ep_info_buffer or ()]),
        "numpy": digest(np.random.get_state(legacy=False)),  # noqa: NPY002
        "torch": digest(th.get_rng_state()),
        "space": digest(space_states([model.action_space])),
    }


if __name__ == "__main__":
    th.set_num_threads(1)
    _, run, folder, n_steps, frequency, result = sys.argv
    ended_with = digests(*train(run, Path(folder), int(n_steps), int(frequency)))
    Path(result).write_text(json.dumps(ended_with))
