"""An MLP and its target, forward and backward, by PyTorch's own kernels into buffers that are made once."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch as th
from torch import nn

aten = th.ops.aten

ACTIVATION_PARAMETERS = {nn.ELU: "alpha", nn.GELU: "approximate", nn.LeakyReLU: "negative_slope"}
"""The activations that have a parameter, and its attribute."""


@dataclass(frozen=True)
class Activation:
    """
    An elementwise function f by PyTorch's own kernels.

    :param forward: ``(z, out)``: out = f(z)
    :param backward: ``(grad, kept)``: grad <- grad f'(z), in place
    :param keeps_input: Whether ``kept`` is z; otherwise it is f(z), which then overwrites z
    """

    forward: Callable[[th.Tensor, th.Tensor], Any]
    backward: Callable[[th.Tensor, th.Tensor], Any]
    keeps_input: bool


def _activation(module: nn.Module) -> Activation | None:
    """:return: How to compute a module with the parameters it has at that time, None where it is not known here"""
    if type(module) is nn.ReLU:
        return Activation(
            lambda z, _: z.relu_(),
            lambda grad, h: aten.threshold_backward.grad_input(grad, h, 0, grad_input=grad),
            keeps_input=False,
        )
    if type(module) is nn.Tanh:
        return Activation(
            lambda z, _: z.tanh_(),
            lambda grad, h: aten.tanh_backward.grad_input(grad, h, grad_input=grad),
            keeps_input=False,
        )
    if type(module) is nn.ELU:
        return Activation(
            lambda z, out: aten.elu.out(z, module.alpha, out=out),
            lambda grad, z: aten.elu_backward.grad_input(grad, module.alpha, 1, 1, False, z, grad_input=grad),
            keeps_input=True,
        )
    if type(module) is nn.GELU:
        return Activation(
            lambda z, out: aten.gelu.out(z, approximate=module.approximate, out=out),
            lambda grad, z: aten.gelu_backward.grad_input(grad, z, approximate=module.approximate, grad_input=grad),
            keeps_input=True,
        )
    if type(module) is nn.SiLU:
        return Activation(
            lambda z, out: aten.silu.out(z, out=out),
            lambda grad, z: aten.silu_backward.grad_input(grad, z, grad_input=grad),
            keeps_input=True,
        )
    if type(module) is nn.LeakyReLU:
        return Activation(
            lambda z, out: aten.leaky_relu.out(z, module.negative_slope, out=out),
            lambda grad, z: aten.leaky_relu_backward.grad_input(grad, z, module.negative_slope, False, grad_input=grad),
            keeps_input=True,
        )
    return None


def activations(net: nn.Module) -> list[Activation | None] | None:
    """:return: What follows each linear layer of an MLP, None for nothing; None for anything else than an MLP"""
    if type(net) is not nn.Sequential:
        return None
    after_each: list[Activation | None] = []
    for module in net:
        if type(module) is nn.Linear and module.bias is not None:
            after_each.append(None)
        elif after_each and after_each[-1] is None and (activation := _activation(module)) is not None:
            after_each[-1] = activation
        else:
            return None
    return after_each or None


class _Backward(NamedTuple):
    """
    One layer on the way from the loss down to the inputs; batches are ``[batch, n]``.

    :param delta: dL / dz of this layer, once the activation's derivative is in it
    :param delta_t: Its transpose
    :param kept: What the activation's derivative is computed from, see :class:`Activation`
    :param activation: What follows the layer, None for the identity
    :param weight_grad: ``[n_out, n_in]``
    :param bias_grad: ``[1, n_out]``
    :param delta_below: dL / d inputs, which is the delta of the layer below; None for the first layer
    :param inputs: What the layer below gave; None for the first layer
    :param weight: ``[n_out, n_in]``
    """

    delta: th.Tensor
    delta_t: th.Tensor
    kept: th.Tensor
    activation: Activation | None
    weight_grad: th.Tensor
    bias_grad: th.Tensor
    delta_below: th.Tensor | None
    inputs: th.Tensor | None
    weight: th.Tensor


class Mlp:
    """
    An MLP and its target with the buffers of a batch.

    :param weights: For each layer ``[2, n_out, n_in]``: the network's and its target's
    :param biases: For each layer ``[2, n_out]``
    :param weight_grads: For each layer ``[n_out, n_in]``
    :param bias_grads: For each layer ``[n_out]``
    :param activations: For each layer; None for the identity
    :param batch_size: Transitions in a minibatch
    """

    def __init__(
        self,
        weights: list[th.Tensor],
        biases: list[th.Tensor],
        weight_grads: list[th.Tensor],
        bias_grads: list[th.Tensor],
        activations: list[Activation | None],
        batch_size: int,
    ) -> None:
        z = [weight.new_empty(2, batch_size, weight.shape[1]) for weight in weights]
        h = [
            th.empty_like(buffer) if activation is not None and activation.keeps_input else buffer
            for buffer, activation in zip(z, activations, strict=True)
        ]
        deltas = [th.empty_like(buffer[0]) for buffer in z]
        transposed = [weight.transpose(1, 2) for weight in weights]
        self._both = list(zip([b.unsqueeze(1) for b in biases], transposed, z, h, activations, strict=True))
        self._online = [(b[0], w[0], z[0], h[0], f) for b, w, z, h, f in self._both]
        self._backward = [
            _Backward(
                delta=deltas[i],
                delta_t=deltas[i].t(),
                kept=z[i][0],
                activation=activations[i],
                weight_grad=weight_grads[i],
                bias_grad=bias_grads[i].unsqueeze(0),
                delta_below=deltas[i - 1] if i else None,
                inputs=h[i - 1][0] if i else None,
                weight=weights[i][0],
            )
            for i in reversed(range(len(weights)))
        ]
        self.ones = weights[0].new_ones(1, batch_size)
        """``[1, batch]``: times something it is its sum over the batch"""
        self.online_output, self.target_output = h[-1]
        """``[batch, n_out]``"""
        self.delta = deltas[-1]
        """``[batch, n_out]``: dL / d output, to be filled before :meth:`backward`"""

    def forward_both(self, inputs: th.Tensor) -> None:
        """
        The network and its target in one batched product for each layer.

        :param inputs: ``[2, batch, n_in]``: row 0 for the network, row 1 for its target
        """
        for bias, weight, z, h, activation in self._both:
            th.baddbmm(bias, inputs, weight, out=z)
            if activation is not None:
                activation.forward(z, h)
            inputs = h

    def forward(self, inputs: th.Tensor) -> None:
        """
        The network alone.

        :param inputs: ``[batch, n_in]``
        """
        for bias, weight, z, h, activation in self._online:
            th.addmm(bias, inputs, weight, out=z)
            if activation is not None:
                activation.forward(z, h)
            inputs = h

    def backward(self, inputs: th.Tensor | None) -> th.Tensor:
        """
        The chain rule from :attr:`delta` down through the network.

        :param inputs: What it was given, for the gradients of its weights; None to pass these over
        :return: dL / dz of the first layer, ``[batch, n_out]``
        """
        for (
            delta,
            delta_t,
            kept,
            activation,
            weight_grad,
            bias_grad,
            delta_below,
            inputs_above,
            weight,
        ) in self._backward:
            if activation is not None:
                activation.backward(delta, kept)
            if inputs is not None:
                th.mm(delta_t, inputs if inputs_above is None else inputs_above, out=weight_grad)
                th.mm(self.ones, delta, out=bias_grad)
            if delta_below is not None:
                th.mm(delta, weight, out=delta_below)
        return self._backward[-1].delta
