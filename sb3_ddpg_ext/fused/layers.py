"""An MLP and its target, forward and backward, with PyTorch's kernels and buffers that are allocated once."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch as th
from torch import nn

aten = th.ops.aten

ACTIVATION_PARAMETERS = {nn.ELU: "alpha", nn.GELU: "approximate", nn.LeakyReLU: "negative_slope"}
"""Activations that have a parameter, and the name of its attribute."""


@dataclass(frozen=True)
class Activation:
    """
    An elementwise function f, computed with PyTorch's kernels.

    :param module: The module that stands for it
    :param forward: ``(z, out)``: out = f(z)
    :param backward: ``(grad, kept)``: grad <- grad f'(z), in place
    :param keeps_input: True if ``kept`` is z. False if it is f(z): then ``forward`` overwrites z and ignores ``out``
    """

    module: nn.Module
    forward: Callable[[th.Tensor, th.Tensor], Any]
    backward: Callable[[th.Tensor, th.Tensor], Any]
    keeps_input: bool


def _activation(module: nn.Module) -> Activation | None:
    """:return: How to compute a module (its parameters are read each time), or None for an unsupported one"""
    if type(module) is nn.ReLU:
        return Activation(
            module,
            lambda z, _: z.relu_(),
            lambda grad, h: aten.threshold_backward.grad_input(grad, h, 0, grad_input=grad),
            keeps_input=False,
        )
    if type(module) is nn.Tanh:
        return Activation(
            module,
            lambda z, _: z.tanh_(),
            lambda grad, h: aten.tanh_backward.grad_input(grad, h, grad_input=grad),
            keeps_input=False,
        )
    if type(module) is nn.ELU:
        return Activation(
            module,
            lambda z, out: aten.elu.out(z, module.alpha, out=out),
            lambda grad, z: aten.elu_backward.grad_input(grad, module.alpha, 1, 1, False, z, grad_input=grad),
            keeps_input=True,
        )
    if type(module) is nn.GELU:
        return Activation(
            module,
            lambda z, out: aten.gelu.out(z, approximate=module.approximate, out=out),
            lambda grad, z: aten.gelu_backward.grad_input(grad, z, approximate=module.approximate, grad_input=grad),
            keeps_input=True,
        )
    if type(module) is nn.SiLU:
        return Activation(
            module,
            lambda z, out: aten.silu.out(z, out=out),
            lambda grad, z: aten.silu_backward.grad_input(grad, z, grad_input=grad),
            keeps_input=True,
        )
    if type(module) is nn.LeakyReLU:
        return Activation(
            module,
            lambda z, out: aten.leaky_relu.out(z, module.negative_slope, out=out),
            lambda grad, z: aten.leaky_relu_backward.grad_input(grad, z, module.negative_slope, False, grad_input=grad),
            keeps_input=True,
        )
    return None


def activations(net: nn.Module) -> list[Activation | None] | None:
    """:return: The activation after each linear layer (None if there is none), or None if this is not a plain MLP"""
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


class _LayerBackward(NamedTuple):
    """
    The tensors of one layer's backward pass.

    :param delta: ``[batch, n_out]``: dL / dh of the activation's output, then dL / dz of its input, in place
    :param delta_t: ``delta`` transposed
    :param kept: ``[batch, n_out]``: what the activation's derivative is computed from, see :class:`Activation`
    :param activation: The activation after the layer, or None
    :param weight_grad: ``[n_out, n_in]``
    :param bias_grad: ``[1, n_out]``
    :param inputs: ``[batch, n_in]``: the output of the previous layer; None for the first layer
    :param inputs_delta: ``[batch, n_in]``: dL / d inputs, which is ``delta`` of the previous layer; None for the first
    :param weight: ``[n_out, n_in]``
    """

    delta: th.Tensor
    delta_t: th.Tensor
    kept: th.Tensor
    activation: Activation | None
    weight_grad: th.Tensor
    bias_grad: th.Tensor
    inputs: th.Tensor | None
    inputs_delta: th.Tensor | None
    weight: th.Tensor


class Mlp:
    """
    An MLP and its target, with buffers for one batch size.

    :param weights: For each layer ``[2, n_out, n_in]``: the network's weights and its target's
    :param biases: For each layer ``[2, n_out]``
    :param weight_grads: For each layer ``[n_out, n_in]``
    :param bias_grads: For each layer ``[n_out]``
    :param activations: For each layer its activation, or None
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
        self._backward_layers = [
            _LayerBackward(
                delta=deltas[i],
                delta_t=deltas[i].t(),
                kept=z[i][0],
                activation=activations[i],
                weight_grad=weight_grads[i],
                bias_grad=bias_grads[i].unsqueeze(0),
                inputs=h[i - 1][0] if i else None,
                inputs_delta=deltas[i - 1] if i else None,
                weight=weights[i][0],
            )
            for i in reversed(range(len(weights)))
        ]
        self.ones = weights[0].new_ones(1, batch_size)
        """``[1, batch]``: a product with it is a sum over the batch"""
        self.online_output, self.target_output = h[-1]
        """``[batch, n_out]`` each"""
        self.delta = deltas[-1]
        """``[batch, n_out]``: dL / d output, to be set before :meth:`backward`"""
        self.delta_t = self.delta.t()

    def forward_both(self, inputs: th.Tensor) -> None:
        """
        Compute the network and its target, with one batched product for each layer.

        :param inputs: ``[2, batch, n_in]``: row 0 for the network, row 1 for its target
        """
        for bias, weight, z, h, activation in self._both:
            th.baddbmm(bias, inputs, weight, out=z)
            if activation is not None:
                activation.forward(z, h)
            inputs = h

    def forward(self, inputs: th.Tensor) -> None:
        """
        Compute the network alone.

        :param inputs: ``[batch, n_in]``
        """
        for bias, weight, z, h, activation in self._online:
            th.addmm(bias, inputs, weight, out=z)
            if activation is not None:
                activation.forward(z, h)
            inputs = h

    def backward(self, inputs: th.Tensor | None) -> th.Tensor:
        """
        Compute gradients by the chain rule, from :attr:`delta` at the output to the first layer.

        :param inputs: The inputs of the forward pass, ``[batch, n_in]``; None to skip the gradients of the weights
        :return: dL / dz of the first layer, ``[batch, n_out]``
        """
        for layer in self._backward_layers:
            if layer.activation is not None:
                layer.activation.backward(layer.delta, layer.kept)
            if inputs is not None:
                th.mm(layer.delta_t, inputs if layer.inputs is None else layer.inputs, out=layer.weight_grad)
                th.mm(self.ones, layer.delta, out=layer.bias_grad)
            if layer.inputs_delta is not None:
                th.mm(layer.delta, layer.weight, out=layer.inputs_delta)
        return self._backward_layers[-1].delta
