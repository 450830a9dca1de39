"""The gradient step in closed form, compiled: ``kernel.c``, its data and how it is called."""

import contextlib
import ctypes
import functools
import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from numpy.random.mtrand import get_bit_generator
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import nn

from sb3_ddpg_ext.equations import smoothing_noise
from sb3_ddpg_ext.fused.adam import FlatAdam
from sb3_ddpg_ext.fused.hyperparameters import Hyperparameters
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
        ("penalty", ctypes.c_double),
        ("pre_activations", ctypes.c_void_p),
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
        *((name, ctypes.c_void_p) for name in ("inputs", "next_inputs", "rewards", "bootstrap", "td_errors", "losses")),
        *((name, ctypes.c_double) for name in ("tau", "huber_delta", "max_grad_norm")),
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
        pointer, integer, real = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double
        transitions, returns = (pointer, integer, integer, pointer, integer, pointer), (integer, real, integer)
        self._steps.argtypes = (pointer, integer, *transitions, *returns, *3 * [pointer], integer)
        self._act.argtypes = (pointer, integer, *5 * [pointer], integer, pointer, pointer)
        self._steps.restype = self._act.restype = None
        self._memory, self._optimizers = memory, optimizers
        self._networks = actor, *critics = list(map(_network, memory.networks))
        actor_layers = actor.layers[: actor.n_layers]
        self._update = update = _Update(
            actor,
            (_Network * len(critics))(*critics),
            *(_adam(memory, adam) for adam in optimizers),
            n_critics=len(critics),
            n_observations=actor_layers[0].n_in,
            n_actions=actor_layers[-1].n_out,
            losses=losses.data_ptr(),
        )
        self._scratch = np.zeros((2, max(layer.n_out for layer in actor_layers)), dtype=np.float32)
        self._address = ctypes.addressof(update)
        self._of_optimizers: list[tuple[float, ...]] = []
        self._hyperparameters: Hyperparameters | None = None
        self.batch_size = 0
        # Addresses are kept, since `ndarray.ctypes` takes almost a microsecond
        self._last_rows: Callable[[], np.ndarray | None] = lambda: None
        self._rows_address = 0

    def bind(self, low: np.ndarray, high: np.ndarray) -> None:
        """
        Read what users can change: the action space, and the options of modules.

        :param low: Lower bounds of actions, ``[*action_shape]``
        :param high: Upper bounds, ``[*action_shape]``
        """
        self._bounds = tuple(np.ascontiguousarray(bound, np.float32) for bound in (low, high))  # mostly no copies
        self._observations = np.empty((0, 0), dtype=np.float32)  # `explore` gets new memory
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
        self.batch_size, self._hyperparameters = batch_size, None
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
        update.rewards, update.bootstrap, update.td_errors = new(batch_size), new(batch_size), new(batch_size)
        self.td_errors = memory[-1][:, None]
        """Absolute TD errors of the last step, ``[batch, 1]``, averaged over the critics"""
        self._buffers = memory
        n_numbers = 2 * update.n_observations + update.n_actions + 3
        rows = th.zeros(batch_size, n_numbers, dtype=th.float32)
        self._rows, self.rows = rows, rows.numpy()
        """Memory for :meth:`step_on_rows`"""
        self._no_timeouts = th.zeros(batch_size, 1)
        self._all_of_them, self._drawn = np.arange(batch_size), np.empty((2, batch_size), dtype=np.int64)
        self._all_of_them_address, self._drawn_address = _addresses(self._all_of_them, self._drawn)

    @th.no_grad()
    def step(self, batch: ReplayBufferSamples, hyperparameters: Hyperparameters) -> None:
        """
        Take one gradient step.

        :param batch: A minibatch
        :param hyperparameters: Gamma is for a minibatch without discounts of its own
        """
        columns = batch.observations.flatten(1), batch.actions, batch.next_observations.flatten(1), batch.rewards
        th.cat((*columns, batch.dones, self._no_timeouts), 1, out=self._rows)
        discounts, weights = (
            None if column is None else np.ascontiguousarray(column.detach().numpy())
            for column in (batch.discounts, getattr(batch, "weights", None))
        )
        self.step_on_rows(self.rows, discounts, hyperparameters, weights)

    def step_on_rows(
        self,
        rows: np.ndarray,
        discounts: np.ndarray | None,
        hyperparameters: Hyperparameters,
        weights: np.ndarray | None = None,
    ) -> None:
        """
        Take one gradient step on a minibatch in rows.

        :param rows: ``[batch, n]``, as a replay buffer has them
        :param discounts: ``[batch, 1]``, or None for gamma
        :param hyperparameters: Of the step
        :param weights: ``[batch, 1]``, of the squared TD errors, or None for 1
        """
        per_row = (None if column is None else column.ctypes.data for column in (discounts, weights))
        all_of_them = rows.ctypes.data, len(rows), 1, None, 0, self._all_of_them_address
        self._take_steps(1, hyperparameters, *all_of_them, 1, hyperparameters.gamma, 0, *per_row)

    def draw_and_step(
        self,
        rows: np.ndarray,
        n_positions: int,
        returns: tuple[int, float, int] | None,
        n_steps: int,
        hyperparameters: Hyperparameters,
    ) -> None:
        """
        Take gradient steps on minibatches that are drawn from a replay buffer, with NumPy's global generator: the same
        ones that Stable-Baselines3 draws.

        :param rows: ``[buffer_size, n_envs, n]``, float32, contiguous: observation, action, next observation, reward,
            done and timeout of each transition
        :param n_positions: Number of positions that have been filled, 1 or more
        :param returns: For n-step returns: n, gamma, and the newest position, with which returns end
        :param n_steps: Number of gradient steps
        :param hyperparameters: Of the steps; gamma is for one-step returns
        """
        if rows is not self._last_rows():
            self._last_rows, self._rows_address = weakref.ref(rows), rows.ctypes.data
        bits = get_bit_generator()
        size, n_envs, _ = rows.shape
        drawn = self._rows_address, size, n_envs, bits.ctypes.bit_generator, n_positions, self._drawn_address
        n_returns, gamma, newest = returns or (1, hyperparameters.gamma, 0)
        with bits.lock:
            self._take_steps(n_steps, hyperparameters, *drawn, n_returns, gamma, newest, None, None)

    def _take_steps(self, n_steps: int, hyperparameters: Hyperparameters, *minibatches: Any) -> None:
        of_optimizers = [(adam.learning_rate, *adam.constants) for adam in self._optimizers]
        if of_optimizers != self._of_optimizers:
            self._of_optimizers = of_optimizers
            for adam, numbers in zip((self._update.actor_adam, self._update.critic_adam), of_optimizers, strict=True):
                adam.learning_rate, adam.beta1, adam.beta2, adam.eps, adam.weight_decay, adam.decoupled = numbers
        if hyperparameters != self._hyperparameters:
            self._set(hyperparameters)
        noise = self._smoothing_noise(n_steps, hyperparameters) if hyperparameters.target_policy_noise > 0 else None
        address = None if noise is None else noise.data_ptr()
        self._steps(self._address, n_steps, *minibatches, address, th.get_num_threads())

    def _set(self, hyperparameters: Hyperparameters) -> None:
        update, last = self._update, self._networks[0].layers[self._networks[0].n_layers - 1]
        _, update.tau, huber_delta, max_grad_norm, coef, *_ = self._hyperparameters = hyperparameters
        update.huber_delta = math.inf if huber_delta is None else huber_delta
        update.max_grad_norm = math.inf if max_grad_norm is None else max_grad_norm
        # The penalty coef mean z^2, whose derivative is proportional to z
        last.penalty = 2 * coef / (self.batch_size * update.n_actions)
        self._pre_activations = th.zeros(self.batch_size, last.stride) if coef > 0 else None
        last.pre_activations = None if self._pre_activations is None else self._pre_activations.data_ptr()

    def _smoothing_noise(self, n_steps: int, hyperparameters: Hyperparameters) -> th.Tensor:
        """:return: ``[n_steps, batch, n_actions]``: drawn for each step, as autograd's way draws it"""
        noise = th.empty(n_steps, self.batch_size, self._update.n_actions, dtype=th.float32)
        for of_one_step in noise:
            of_one_step.copy_(smoothing_noise(of_one_step, *hyperparameters[-2:]))
        return noise

    def act(self, observations: np.ndarray) -> np.ndarray:
        """
        :param observations: ``[n, n_observations]``
        :return: ``[n, *action_shape]``: the actor's outputs; a new array
        """
        return self.explore(observations, None)[1]

    def explore(self, observations: np.ndarray, noise: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """
        :param observations: ``[n, n_observations]``
        :param noise: ``[n, *action_shape]``, float32: is added to the actor's outputs, which are then clipped; or None
        :return: The actions, between the bounds of the action space and scaled to [-1, 1], both ``[n, *action_shape]``;
            new arrays
        """
        if len(observations) != len(self._observations):
            self._allocate_for_acting(len(observations))
        self._observations[:] = observations
        if noise is None:
            self._act(*self._without_noise)
        else:
            self._noise[:] = noise
            self._act(*self._with_noise)
        return self._actions.copy(), self._scaled_actions.copy()

    def _allocate_for_acting(self, n: int) -> None:
        shape = (n, *self._bounds[0].shape)
        self._observations = np.empty((n, self._update.n_observations), dtype=np.float32)
        self._noise, self._actions, self._scaled_actions = (np.empty(shape, dtype=np.float32) for _ in range(3))
        inputs = _addresses(self._observations, self._noise)
        bounds, scratch, outputs = (
            _addresses(*arrays) for arrays in (self._bounds, [self._scratch], [self._scaled_actions, self._actions])
        )
        actor, rest = ctypes.addressof(self._update.actor), (*bounds, *scratch, self._scratch.shape[1], *outputs)
        self._with_noise, self._without_noise = (actor, n, *inputs, *rest), (actor, n, inputs[0], None, *rest)


def _addresses(*arrays: np.ndarray) -> list[int]:
    return [array.ctypes.data for array in arrays]


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
