"""The gradient step in closed form, compiled: ``kernel.c``, its data and how it is called."""

import contextlib
import ctypes
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import nn

from sb3_ddpg_ext.fused.adam import FlatAdam
from sb3_ddpg_ext.fused.layers import LayerMemory, Weight
from sb3_ddpg_ext.fused.memory import NetworkMemory, PolicyMemory

LEVELS = {"x86-64-v4": ("AVX512",), "x86-64-v3": ("AVX512", "AVX2")}
"""The processors that the kernel is compiled for, the fastest first, and PyTorch's names for those that can run it"""
_LANES = 16  # numbers in the longest vector


def file_of(level: str) -> Path:
    """:return: Where the kernel is that was compiled for a processor"""
    return Path(__file__).parent / "compiled" / f"kernel-{level}.so"  # beside us it would be taken for a module


def runs_here(level: str) -> bool:
    """:return: Whether this machine's processor, as PyTorch sees it, can run what was compiled for a level"""
    return th.backends.cpu.get_cpu_capability() in LEVELS[level]


@functools.cache
def library() -> ctypes.CDLL | None:
    """:return: The kernel for this machine's processor; None if there is none, or it was not compiled"""
    for level in filter(runs_here, LEVELS):
        with contextlib.suppress(OSError):
            return ctypes.CDLL(str(file_of(level)))
    return None


class _Layer(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("n_in", "n_out", "stride", "activation")),
        ("parameter", ctypes.c_double),
        ("weight", ctypes.c_void_p * 2),
        ("bias", ctypes.c_void_p * 2),
        *((name, ctypes.c_void_p) for name in ("weight_grad", "bias_grad", "transposed", "kept", "output", "delta")),
        ("norm_eps", ctypes.c_double),
        ("norm_weight", ctypes.c_void_p * 2),
        ("norm_bias", ctypes.c_void_p * 2),
        *((name, ctypes.c_void_p) for name in ("norm_weight_grad", "norm_bias_grad", "normalized", "scales")),
    ]


class _Network(ctypes.Structure):
    _fields_ = [("n_layers", ctypes.c_int64), ("layers", ctypes.POINTER(_Layer))]


class _Adam(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("n_params", "n_step_counts")),
        *((name, ctypes.c_void_p) for name in ("params", "targets", "grads", "means", "squares", "step_counts")),
        *((name, ctypes.c_double) for name in ("learning_rate", "beta1", "beta2", "eps", "weight_decay")),
        ("decoupled", ctypes.c_int64),
    ]


class _Update(ctypes.Structure):
    _fields_ = [
        ("actor", _Network),
        ("critics", ctypes.POINTER(_Network)),
        ("actor_adam", _Adam),
        ("critic_adam", _Adam),
        *((name, ctypes.c_int64) for name in ("n_critics", "batch", "n_observations", "n_actions", "stride")),
        *((name, ctypes.c_void_p) for name in ("inputs", "next_inputs", "rewards", "bootstrap", "losses")),
    ]


_NUMBERS = {nn.ReLU: 1, nn.Tanh: 2, nn.ELU: 3, nn.GELU: 4, nn.SiLU: 6, nn.LeakyReLU: 7}  # as in kernel.c


def _number_and_parameter(module: nn.Module | None) -> tuple[int, float]:
    if module is None:
        return 0, 0.0
    if isinstance(module, nn.GELU):
        return _NUMBERS[nn.GELU] + (module.approximate == "tanh"), 0.0
    parameter = getattr(module, "alpha", getattr(module, "negative_slope", 0.0))
    return _NUMBERS[type(module)], float(parameter)


class Kernel:
    """
    The compiled step, on the CPU.

    :param compiled: See :func:`library`
    :param memory: The parameters and their gradients
    :param optimizers: Adam for the actor and for the critic
    :param losses: ``[2]``: the losses of actor and critic are added to them
    """

    def __init__(
        self, compiled: ctypes.CDLL, memory: PolicyMemory, optimizers: Sequence[FlatAdam], losses: th.Tensor
    ) -> None:
        self.name, self._steps, self._act = Path(compiled._name).stem, compiled.steps, compiled.act
        pointer, integer, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double
        self._steps.argtypes = pointer, integer, pointer, pointer, pointer, number, number, integer
        self._act.argtypes = pointer, integer, pointer, pointer, integer, pointer
        self._steps.restype = self._act.restype = None
        self._memory, self._optimizers = memory, optimizers
        self._networks = actor, *critics = list(map(_network, memory.networks))
        actor_layers = actor.layers[: actor.n_layers]
        self._n_actions = actor_layers[-1].n_out
        self._update = update = _Update(
            actor,
            (_Network * len(critics))(*critics),
            *(_adam(memory, adam) for adam in optimizers),
            n_critics=len(critics),
            n_observations=actor_layers[0].n_in,
            n_actions=self._n_actions,
            losses=losses.data_ptr(),
        )
        width = max(layer.n_out for layer in actor_layers)
        self._scratch = np.zeros((2, width), dtype=np.float32)
        self._address = ctypes.addressof(update)
        self._hyperparameters: list[tuple[float, ...]] = []
        self._act_arguments = ctypes.addressof(update.actor), self._scratch.ctypes.data, width
        self.batch_size = 0

    def bind(self) -> None:
        """Read the options of modules, which users can change."""
        for layer, content in self._layers():
            module = None if content.activation is None else content.activation.module
            layer.activation, layer.parameter = _number_and_parameter(module)
            if content.norm is not None:
                layer.norm_eps = content.norm.module.eps

    def _layers(self) -> Iterator[tuple[_Layer, LayerMemory]]:
        for network, memory in zip(self._networks, self._memory.networks, strict=True):
            yield from zip(network.layers[: network.n_layers], memory.layers, strict=True)

    def allocate(self, batch_size: int) -> None:
        """
        Get memory for minibatches of one size.

        :param batch_size: Transitions in a minibatch
        """
        self.batch_size = batch_size
        update, memory = self._update, list[th.Tensor]()

        def new(*shape: int) -> int:
            memory.append(th.zeros(shape, dtype=th.float32))
            return memory[-1].data_ptr()

        for layer, content in self._layers():
            layer.transposed = new(layer.n_in, layer.stride)
            layer.kept, layer.delta = new(batch_size, layer.stride), new(batch_size, layer.stride)
            keeps_input = content.activation is not None and content.activation.keeps_input
            layer.output = new(batch_size, layer.stride) if keeps_input else layer.kept
            if content.norm is not None:
                layer.normalized, layer.scales = new(batch_size, layer.stride), new(batch_size)
        update.batch, update.stride = batch_size, _stride(update.n_observations + update.n_actions)
        update.inputs, update.next_inputs = new(batch_size, update.stride), new(batch_size, update.stride)
        update.rewards, update.bootstrap = new(batch_size), new(batch_size)
        self._buffers = memory
        n_numbers = 2 * update.n_observations + update.n_actions + 3
        rows = th.zeros(batch_size, n_numbers, dtype=th.float32)
        self._rows, self.rows = rows, rows.numpy()
        """Memory for :meth:`step_on_rows`"""
        self._no_timeouts = th.zeros(batch_size, 1)
        self._all_of_them = np.arange(batch_size)[None]

    @th.no_grad()
    def step(self, batch: ReplayBufferSamples, gamma: float, tau: float) -> None:
        """
        Take one gradient step.

        :param batch: A minibatch
        :param gamma: The discount, for a minibatch without discounts of its own
        :param tau: The soft update coefficient
        """
        columns = batch.observations.flatten(1), batch.actions, batch.next_observations.flatten(1), batch.rewards
        th.cat((*columns, batch.dones, self._no_timeouts), 1, out=self._rows)
        discounts = None if batch.discounts is None else np.ascontiguousarray(batch.discounts.detach().numpy())
        self.step_on_rows(self.rows, discounts, gamma, tau)

    def step_on_rows(self, rows: np.ndarray, discounts: np.ndarray | None, gamma: float, tau: float) -> None:
        """
        Take one gradient step on a minibatch in rows.

        :param rows: ``[batch, n]``, as a replay buffer has them
        :param discounts: ``[batch, 1]``, or None for ``gamma``
        :param gamma: The discount
        :param tau: The soft update coefficient
        """
        self.steps(rows, self._all_of_them, discounts, gamma, tau)

    def steps(
        self, rows: np.ndarray, indices: np.ndarray, discounts: np.ndarray | None, gamma: float, tau: float
    ) -> None:
        """
        Take gradient steps, one after the other.

        :param rows: ``[n_rows, n]``, float32, contiguous: observation, action, next observation, reward, done and
            timeout of each transition
        :param indices: ``[n_steps, batch]``, int64, contiguous: the rows of each minibatch
        :param discounts: ``[n_steps, batch]``, float32, contiguous, or None for ``gamma``
        :param gamma: The discount
        :param tau: The soft update coefficient
        """
        hyperparameters = [(adam.learning_rate, *adam.constants) for adam in self._optimizers]
        if hyperparameters != self._hyperparameters:
            self._hyperparameters = hyperparameters
            for adam, numbers in zip((self._update.actor_adam, self._update.critic_adam), hyperparameters, strict=True):
                adam.learning_rate, adam.beta1, adam.beta2, adam.eps, adam.weight_decay, adam.decoupled = numbers
        address = None if discounts is None else discounts.ctypes.data
        self._steps(
            self._address,
            len(indices),
            rows.ctypes.data,
            indices.ctypes.data,
            address,
            gamma,
            tau,
            th.get_num_threads(),
        )

    def act(self, observations: np.ndarray) -> np.ndarray:
        """
        :param observations: ``[n, n_observations]``, float32
        :return: ``[n, n_actions]``: the actor's outputs; a new array
        """
        actor, scratch, width = self._act_arguments
        actions = np.empty((len(observations), self._n_actions), dtype=np.float32)
        observations = np.ascontiguousarray(observations)
        self._act(actor, len(observations), observations.ctypes.data, scratch, width, actions.ctypes.data)
        return actions


def _network(network: NetworkMemory) -> _Network:
    layers = (_Layer * len(network.layers))()
    for layer, (weight, bias, norm, _) in zip(layers, network.layers, strict=True):
        layer.n_out, layer.n_in = weight.grad.shape
        layer.stride = _stride(layer.n_out)
        layer.weight, layer.weight_grad = _pointers(weight)
        layer.bias, layer.bias_grad = _pointers(bias)
        if norm is not None:
            layer.norm_weight, layer.norm_weight_grad = _pointers(norm.weight)
            layer.norm_bias, layer.norm_bias_grad = _pointers(norm.bias)
    return _Network(len(layers), layers)


def _pointers(weight: Weight) -> tuple[Any, int]:
    online, target = weight.both
    return (ctypes.c_void_p * 2)(online.data_ptr(), target.data_ptr()), weight.grad.data_ptr()


def _adam(memory: PolicyMemory, adam: FlatAdam) -> _Adam:
    return _Adam(
        n_params=len(adam.means),
        n_step_counts=len(adam.step_counts),
        params=memory.online[adam.range].data_ptr(),
        targets=memory.target[adam.range].data_ptr(),
        grads=memory.grads[adam.range].data_ptr(),
        means=adam.means.data_ptr(),
        squares=adam.squares.data_ptr(),
        step_counts=adam.step_counts.data_ptr(),
    )


def _stride(n: int) -> int:
    """:return: Numbers in a row of memory for n: whole vectors, and an odd number of them, which suits the cache"""
    return (-(-n // _LANES) | 1) * _LANES
