"""
What a model's file may say: the types and ranges of its fields, and the size of its networks, which is checked while
they are built.
"""

import math
import numbers
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import TrainFreq
from torch.utils._python_dispatch import TorchDispatchMode

Check = tuple[Callable[[Any], bool], str]
_FREE_NUMBERS = 2**20  # that a policy may allocate beyond its parameters


def _number(low: float, high: float) -> Check:
    def check(value: Any) -> bool:
        return isinstance(value, numbers.Real) and not isinstance(value, bool) and low <= float(value) <= high

    return check, f"a number from {low:g} to {high:g}"


def _integer(low: int, high: int = 2**62) -> Check:
    def check(value: Any) -> bool:
        return isinstance(value, numbers.Integral) and not isinstance(value, bool) and low <= int(value) <= high

    return check, f"an integer of {low} or more" if high == 2**62 else f"an integer from {low} to {high}"


def _of(*types: type, what: str) -> Check:
    return lambda value: isinstance(value, types), what


def _class_of(base: type, what: str) -> Check:
    return lambda value: isinstance(value, type) and issubclass(value, base), what


def _or(*checks: Check) -> Check:
    return lambda value: any(check(value) for check, _ in checks), " or ".join(what for _, what in checks)


def _is_observation(value: Any) -> bool:
    arrays = value.values() if isinstance(value, dict) else [value]
    return all(isinstance(array, np.ndarray) for array in arrays)


_NONE: Check = (lambda value: value is None, "None")
_BOOL = _of(bool, what="True or False")
_SCHEDULE: Check = (callable, "a schedule")
_OBSERVATION = _or(_NONE, (_is_observation, "an array, or a dict of arrays"))
_EPISODES = _or(_NONE, _of(deque, what="a deque"))
FIELDS: Mapping[str, Check] = {
    "policy_class": _class_of(BasePolicy, "a policy class"),
    "policy_kwargs": _of(dict, what="a dict"),
    "observation_space": _of(spaces.Space, what="a space"),
    "action_space": _of(spaces.Box, what="a Box"),
    "n_envs": _integer(1, 2**20),
    "seed": _or(_NONE, _integer(0, 2**32 - 1)),
    "verbose": _integer(-10, 100),
    "tensorboard_log": _or(_NONE, _of(str, what="a folder")),
    "learning_rate": _or(_number(0, 1e3), _SCHEDULE),
    "critic_learning_rate": _or(_NONE, _number(0, 1e3), _SCHEDULE),
    "max_grad_norm": _or(_NONE, _number(0, 1e9)),
    "huber_delta": _or(_NONE, _number(0, 1e9)),
    "pre_activation_coef": _number(0, 1e9),
    "gamma": _number(0, 1),
    "tau": _number(0, 1),
    "batch_size": _integer(1, 2**31),
    "buffer_size": _integer(1, 2**40),
    "learning_starts": _number(0, 2**62),
    "gradient_steps": _integer(-1),
    "n_steps": _integer(1, 2**20),
    "train_freq": _of(TrainFreq, what="a TrainFreq"),
    "optimize_memory_usage": _BOOL,
    "replay_buffer_class": _or(_NONE, _class_of(ReplayBuffer, "a replay buffer class")),
    "replay_buffer_kwargs": _of(dict, what="a dict"),
    "action_noise": _or(_NONE, _of(ActionNoise, what="an ActionNoise")),
    "fused": (lambda value: value in (True, False, "auto"), "True, False or 'auto'"),
    "num_timesteps": _integer(0),
    "_total_timesteps": _integer(0),
    "_num_timesteps_at_start": _integer(0),
    "_episode_num": _integer(0),
    "_n_updates": _integer(0),
    "_n_actions": _integer(0),
    "_n_saturated": _integer(0),
    "_current_progress_remaining": _number(-1e9, 1e9),
    "_stats_window_size": _integer(1, 2**31),
    "start_time": _number(0, 2**62),
    "_last_obs": _OBSERVATION,
    "_last_original_obs": _OBSERVATION,
    "_last_episode_starts": _OBSERVATION,
    "ep_info_buffer": _EPISODES,
    "ep_success_buffer": _EPISODES,
    "use_sde": _BOOL,
    "use_sde_at_warmup": _BOOL,
    "sde_sample_freq": _integer(-1),
    # TD3, SAC and their kin
    "policy_delay": _integer(1),
    "target_policy_noise": _number(0, 1e6),
    "target_noise_clip": _number(0, 1e6),
    "target_update_interval": _integer(1),
    "ent_coef": _or(_number(0, 1e6), _of(str, what="auto")),
    "target_entropy": _or(_number(-1e6, 1e6), _of(str, what="auto")),
    "top_quantiles_to_drop_per_net": _integer(0, 10**6),
}


def check_field(name: str, value: Any, cls: type) -> None:
    """
    Check a field of a model.

    :param name: Its name
    :param value: Its value, as read from a file
    :param cls: The class of the model
    :raises ValueError: If the model cannot have it
    """
    own = getattr(cls, name, None)
    if not name.isidentifier() or name.startswith("__") or callable(own) or isinstance(own, (property, dict)):
        raise ValueError("a file cannot set it")
    if name in FIELDS:
        check, expected = FIELDS[name]
        if not check(value):
            raise ValueError(f"expected {expected}, got {str(value)[:100]!r}")


def check_network_arguments(arguments: Any, n_tensors: int) -> None:
    """
    Check what a policy is built with. Layers are lists, or numbers such as ``n_critics``; each has tensors.

    :param arguments: ``policy_kwargs``
    :param n_tensors: The number of tensors in the file
    :raises ValueError: If networks of these sizes cannot be those in the file
    """
    if isinstance(arguments, dict):
        if arguments.get("n_critics", 0) not in range(n_tensors + 1):
            raise ValueError(
                f"n_critics={str(arguments['n_critics'])[:100]} does not fit the file's {n_tensors} weights"
            )
        arguments = [*arguments.values()]
    elif isinstance(arguments, (list, tuple)) and len(arguments) > n_tensors:
        raise ValueError(f"{len(arguments)} layers do not fit the file's {n_tensors} weights")
    if isinstance(arguments, (list, tuple)):
        for item in arguments:
            check_network_arguments(item, n_tensors)


class AllocationLimit(TorchDispatchMode):
    """
    Used as a context manager: networks that are built in it cannot be larger than allowed. The numbers are the same.

    :param n_numbers: How many numbers the tensors may have
    """

    def __init__(self, n_numbers: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.left = n_numbers + _FREE_NUMBERS

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is th.ops.aten.empty.memory_format:
            self.left -= math.prod(args[0])
            if self.left < 0:
                raise ValueError("its networks would be larger than the weights in the file")
        return func(*args, **(kwargs or {}))


def check_optimizer(state: Any, optimizer: th.optim.Optimizer) -> None:
    """
    Check an optimizer's state. PyTorch itself takes everything, and fails at the next step.

    :param state: The state, as read from a file
    :param optimizer: The optimizer that is to have it
    :raises ValueError: If it is another optimizer's
    """
    if not isinstance(state, dict) or set(state) != {"state", "param_groups"}:
        raise ValueError("an optimizer has the keys state and param_groups")
    groups, own_groups = state["param_groups"], optimizer.state_dict()["param_groups"]
    if len(groups) != len(own_groups) or not isinstance(state["state"], dict):
        raise ValueError("it is not the state of such an optimizer")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for group, own in zip(groups, own_groups, strict=True):
        if group["params"] != own["params"]:
            raise ValueError("it is the state of an optimizer with other parameters")
        for name, value in group.items():
            if name in own and not _fits(value, own[name]):
                raise ValueError(f"{name} cannot be {str(value)[:100]!r}")
    for number, entry in state["state"].items():
        if type(number) is not int or not 0 <= number < len(parameters):
            raise ValueError(f"it has no parameter {str(number)[:100]}")
        for name, value in entry.items():
            if isinstance(value, th.Tensor) and value.dim() and value.shape != parameters[number].shape:
                raise ValueError(f"{name} of parameter {number} has another shape than the parameter")


def _fits(value: Any, own: Any) -> bool:
    if isinstance(own, bool) or own is None:
        return value is None or isinstance(value, bool)
    if isinstance(own, (int, float)):
        number = isinstance(value, (int, float)) or (isinstance(value, th.Tensor) and value.numel() == 1)
        return number and not isinstance(value, bool) and 0 <= float(value) <= 1e6
    if isinstance(own, tuple):
        return isinstance(value, (tuple, list)) and len(value) == len(own) and all(map(_fits, value, own))
    return True
