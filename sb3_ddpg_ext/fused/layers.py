"""An MLP and its target, forward and backward, with PyTorch's kernels and buffers that are allocated once."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch as th
from torch import nn
from torch.nn import functional as F  # noqa: N812 (torch's own convention)

aten = th.ops.aten

OPTIONS = {nn.ELU: "alpha", nn.GELU: "approximate", nn.LeakyReLU: "negative_slope", nn.LayerNorm: "eps"}
"""Modules with an option that users can change, and the name of its attribute."""


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


class Layer(NamedTuple):
    """
    A linear layer of an MLP, and what follows it: h = f(norm(W x + b)).

    :param linear: W and b
    :param norm: LayerNorm, or None
    :param activation: f, or None
    """

    linear: nn.Linear
    norm: nn.LayerNorm | None = None
    activation: Activation | None = None


def layers(net: nn.Module) -> list[Layer] | None:
    """:return: The layers of a plain MLP, or None if this is something else"""
    if type(net) is not nn.Sequential:
        return None
    found: list[Layer] = []
    for module in net:
        last = found[-1] if found else None
        if type(module) is nn.Linear and module.bias is not None:
            found.append(Layer(module))
        elif last is None or last.activation is not None:
            return None
        elif type(module) is nn.LayerNorm and last.norm is None and None not in (module.weight, module.bias):
            found[-1] = last._replace(norm=module)
        elif (activation := _activation(module)) is not None:
            found[-1] = last._replace(activation=activation)
        else:
            return None
    return found or None


class Weight(NamedTuple):
    """
    Memory for a weight or a bias.

    :param both: ``[2, ...]``: of the network and of its target
    :param grad: ``[...]``: its gradient
    """

    both: th.Tensor
    grad: th.Tensor


class NormMemory(NamedTuple):
    """
    A LayerNorm and its memory.

    :param module: Has its eps, which is read each time
    :param weight: ``[2, n]``
    :param bias: ``[2, n]``
    """

    module: nn.LayerNorm
    weight: Weight
    bias: Weight


class LayerMemory(NamedTuple):
    """
    A :class:`Layer` and its memory.

    :param weight: ``[2, n_out, n_in]``
    :param bias: ``[2, n_out]``
    :param norm: LayerNorm, or None
    :param activation: The activation, or None
    """

    weight: Weight
    bias: Weight
    norm: NormMemory | None
    activation: Activation | None


class _Norm:
    """
    A LayerNorm and its target's, with PyTorch's kernels. These allocate memory.

    :param norm: Eps, weights and gradients
    :param z: ``[2, batch, n]``: the inputs
    :param out: ``[2, batch, n]``: the outputs
    """

    def __init__(self, norm: NormMemory, z: th.Tensor, out: th.Tensor) -> None:
        self._module, self._grads = norm.module, (norm.weight.grad, norm.bias.grad)
        self._inputs = [(z[i], z.shape[2:], norm.weight.both[i], norm.bias.both[i]) for i in range(2)]
        means, scales = z.new_empty(2, 2, z.shape[1], 1)  # of each row: the mean, 1 / the standard deviation
        self._outputs = [{"out0": out[i], "out1": means[i], "out2": scales[i]} for i in range(2)]

    def forward(self, n_networks: int) -> None:
        """:param n_networks: 2 for the network and its target, 1 for the network alone"""
        for inputs, outputs in zip(self._inputs[:n_networks], self._outputs[:n_networks], strict=True):
            aten.native_layer_norm.out(*inputs, self._module.eps, **outputs)

    def of(self, z: th.Tensor) -> th.Tensor:
        """:return: ``[batch, n]``, new: the network's output for other inputs"""
        _, shape, weight, bias = self._inputs[0]
        return F.layer_norm(z, shape, weight, bias, self._module.eps)

    def backward(self, delta: th.Tensor, to_train: bool) -> None:
        """
        :param delta: ``[batch, n]``: dL / d output, then dL / dz, in place
        :param to_train: Whether to compute the gradients of weight and bias
        """
        z, shape, weight, bias = self._inputs[0]
        mean, scale = self._outputs[0]["out1"], self._outputs[0]["out2"]
        mask = [True, to_train, to_train]
        dz, *grads = aten.native_layer_norm_backward(delta, z, shape, mean, scale, weight, bias, mask)
        delta.copy_(dz)
        if to_train:
            for to, grad in zip(self._grads, grads, strict=True):
                to.copy_(grad)


class _LayerBackward(NamedTuple):
    """
    The tensors of one layer's backward pass.

    :param delta: ``[batch, n_out]``: dL / dh of the activation's output, then dL / dz of W x + b, in place
    :param delta_t: ``delta`` transposed
    :param kept: ``[batch, n_out]``: what the activation's derivative is computed from, see :class:`Activation`
    :param activation: The activation after the layer, or None
    :param norm: LayerNorm before the activation, or None
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
    norm: _Norm | None
    weight_grad: th.Tensor
    bias_grad: th.Tensor
    inputs: th.Tensor | None
    inputs_delta: th.Tensor | None
    weight: th.Tensor


class Mlp:
    """
    An MLP and its target, with buffers for one batch size.

    :param layers: Its layers
    :param batch_size: Transitions in a minibatch
    """

    def __init__(self, layers: list[LayerMemory], batch_size: int) -> None:
        z = [layer.bias.both.new_empty(2, batch_size, layer.bias.both.shape[1]) for layer in layers]
        # What the activation gets, and what it returns
        kept = [
            buffer if layer.norm is None else th.empty_like(buffer) for buffer, layer in zip(z, layers, strict=True)
        ]
        h = [
            th.empty_like(buffer) if layer.activation is not None and layer.activation.keeps_input else buffer
            for buffer, layer in zip(kept, layers, strict=True)
        ]
        norms = [
            None if layer.norm is None else _Norm(layer.norm, *io) for layer, *io in zip(layers, z, kept, strict=True)
        ]
        deltas = [th.empty_like(buffer[0]) for buffer in z]
        weights = [layer.weight.both for layer in layers]
        self._both = [
            (
                layer.bias.both.unsqueeze(1),
                layer.weight.both.transpose(1, 2),
                z[i],
                norms[i],
                kept[i],
                h[i],
                layer.activation,
            )
            for i, layer in enumerate(layers)
        ]
        self._online = [(b[0], w[0], z[0], norm, kept[0], h[0], f) for b, w, z, norm, kept, h, f in self._both]
        self._backward_layers = [
            _LayerBackward(
                delta=deltas[i],
                delta_t=deltas[i].t(),
                kept=kept[i][0],
                activation=layers[i].activation,
                norm=norms[i],
                weight_grad=layers[i].weight.grad,
                bias_grad=layers[i].bias.grad.unsqueeze(0),
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
        for bias, weight, z, norm, kept, h, activation in self._both:
            th.baddbmm(bias, inputs, weight, out=z)
            if norm is not None:
                norm.forward(2)
            if activation is not None:
                activation.forward(kept, h)
            inputs = h

    def forward(self, inputs: th.Tensor) -> None:
        """
        Compute the network alone.

        :param inputs: ``[batch, n_in]``
        """
        for bias, weight, z, norm, kept, h, activation in self._online:
            th.addmm(bias, inputs, weight, out=z)
            if norm is not None:
                norm.forward(1)
            if activation is not None:
                activation.forward(kept, h)
            inputs = h

    def pre_activations(self, inputs: th.Tensor) -> th.Tensor:
        """
        Compute the last layer again, whose activation has overwritten its input.

        :param inputs: The inputs of the forward pass, ``[batch, n_in]``
        :return: ``[batch, n_out]``, new: what the network's last activation was given
        """
        bias, weight, _, norm, *_ = self._online[-1]
        z = th.addmm(bias, self._online[-2][5] if len(self._online) > 1 else inputs, weight)
        return z if norm is None else norm.of(z)

    def backward(self, inputs: th.Tensor | None, penalty: th.Tensor | None = None) -> th.Tensor:
        """
        Compute gradients by the chain rule, from :attr:`delta` at the output to the first layer.

        :param inputs: The inputs of the forward pass, ``[batch, n_in]``; None to skip the gradients of the weights
        :param penalty: ``[batch, n_out]``: is added to the gradient before the last activation; or None
        :return: dL / dz of the first layer, ``[batch, n_out]``
        """
        for i, layer in enumerate(self._backward_layers):
            if layer.activation is not None:
                layer.activation.backward(layer.delta, layer.kept)
            if i == 0 and penalty is not None:
                layer.delta.add_(penalty)
            if layer.norm is not None:
                layer.norm.backward(layer.delta, to_train=inputs is not None)
            if inputs is not None:
                th.mm(layer.delta_t, inputs if layer.inputs is None else layer.inputs, out=layer.weight_grad)
                th.mm(self.ones, layer.delta, out=layer.bias_grad)
            if layer.inputs_delta is not None:
                th.mm(layer.delta, layer.weight, out=layer.inputs_delta)
        return self._backward_layers[-1].delta
