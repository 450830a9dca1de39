"""
One gradient step of DDPG in closed form, without autograd and without allocation, for plain MLPs.

The gradients of :mod:`sb3_ddpg_ext.equations` are written out by the chain rule and computed into buffers that are made
once for a batch size. What else makes it fast:

- The parameters of the online and the target networks lie in one ``[2, n]`` tensor, and the modules' parameters are
  views of it: the soft update is one ``lerp_``, Adam one fused call on a flat vector, and the forward passes that do
  not depend on each other (mu(s) with mu'(s'), then Q(s, a) with Q'(s', mu'(s'))) are one batched product each.
- The critic's weights get no gradient in the actor's step.
- Nothing is read back: losses add up in a tensor.

On a CUDA device the step is recorded once as a CUDA graph and replayed from then on. That has not been run on a GPU
yet, let alone measured: there the closed form is taken only where the caller asks for it.

The modules, their ``state_dict`` and the optimizers stay what they were: this module only has views of them.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.td3.policies import Actor, TD3Policy
from torch import nn

aten = th.ops.aten
_ALIGNMENT = 16  # numbers: every parameter begins on a cache line
_NEGLIGIBLE = 1e-36  # of Adam's moments
_CHECK_EVERY = 32  # steps; from there to denormal numbers, below 1.2e-38, Adam's mean takes 42


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
    """:return: How to compute a module, None where it is not known here"""
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
        alpha = module.alpha
        return Activation(
            lambda z, out: aten.elu.out(z, alpha, out=out),
            lambda grad, z: aten.elu_backward.grad_input(grad, alpha, 1, 1, False, z, grad_input=grad),
            keeps_input=True,
        )
    if type(module) is nn.GELU:
        mode = module.approximate
        return Activation(
            lambda z, out: aten.gelu.out(z, approximate=mode, out=out),
            lambda grad, z: aten.gelu_backward.grad_input(grad, z, approximate=mode, grad_input=grad),
            keeps_input=True,
        )
    if type(module) is nn.SiLU:
        return Activation(
            lambda z, out: aten.silu.out(z, out=out),
            lambda grad, z: aten.silu_backward.grad_input(grad, z, grad_input=grad),
            keeps_input=True,
        )
    if type(module) is nn.LeakyReLU:
        slope = module.negative_slope
        return Activation(
            lambda z, out: aten.leaky_relu.out(z, slope, out=out),
            lambda grad, z: aten.leaky_relu_backward.grad_input(grad, z, slope, False, grad_input=grad),
            keeps_input=True,
        )
    return None


def _activations(net: nn.Module) -> list[Activation | None] | None:
    """:return: What follows each linear layer of an MLP, None for nothing; None for anything else than an MLP"""
    if not isinstance(net, nn.Sequential):
        return None
    found: list[Activation | None] = []
    for module in net:
        if type(module) is nn.Linear and module.bias is not None:
            found.append(None)
        elif found and found[-1] is None and (activation := _activation(module)) is not None:
            found[-1] = activation
        else:
            return None
    return found or None


def why_not(policy: TD3Policy) -> str | None:
    """
    Whether the closed form computes what autograd would.

    :param policy: Actor, critic, their targets and optimizers
    :return: None if it does, else the reason why not
    """
    space = policy.observation_space
    if not isinstance(space, spaces.Box) or is_image_space(space) or space.dtype not in ("float32", "float64"):
        return f"the observations are {space}, not a Box of floats"
    if any(getattr(type(policy), name) is not getattr(TD3Policy, name) for name in ("forward", "_predict", "predict")):
        return f"{type(policy).__name__} has a prediction of its own"
    networks = (policy.actor, policy.actor_target, policy.critic, policy.critic_target)
    if any(type(network) not in (Actor, ContinuousCritic) for network in networks):
        return "actor or critic is of a class of its own"
    for network in networks:
        if type(network.features_extractor) is not FlattenExtractor:
            return f"the features extractor is {type(network.features_extractor).__name__}, not FlattenExtractor"
    if policy.critic.n_critics != 1:
        return f"n_critics is {policy.critic.n_critics}, not 1"
    for net in (policy.actor.mu, policy.critic.q_networks[0]):
        activations = _activations(net)
        if activations is None:
            return f"not a plain MLP with known activations: {' '.join(str(net).split())}"
    if type(policy.actor.mu[-1]) is not nn.Tanh:
        return "the actor does not end in Tanh, so that its target's actions would have to be clipped"
    params = [param for network in networks for param in network.parameters()]
    if not all(param.requires_grad for param in params):
        return "some weights are frozen"
    if params[0].device.type not in ("cpu", "cuda"):
        return f"the device is {params[0].device}, not the CPU or a CUDA device"
    if any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in policy.modules()):
        return "modules have hooks"
    for optimizer in (policy.actor.optimizer, policy.critic.optimizer):
        if type(optimizer) is not th.optim.Adam or len(optimizer.param_groups) > 1:
            return f"the optimizer is {type(optimizer).__name__}, not Adam with one group of parameters"
        group = optimizer.param_groups[0]
        if any(group.get(option) for option in ("amsgrad", "maximize", "decoupled_weight_decay", "differentiable")):
            return "Adam with amsgrad, maximize, decoupled_weight_decay or differentiable"
        if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
            return "an optimizer has hooks"
    return None


class _Adam:
    """
    PyTorch's Adam on one flat vector, the optimizer's state being views of it.

    :param optimizer: Owner of the hyperparameters, and of the state that is saved
    :param flat: ``[n]``, the parameters
    :param grads: ``[n]``, their gradients
    :param moments: ``[2, n]``, zeros: for the running means of the gradients and of their squares
    :param steps: For each parameter the number of steps, which the caller counts
    :param places: Each parameter, and where it lies in such a vector
    """

    def __init__(
        self,
        optimizer: th.optim.Optimizer,
        flat: th.Tensor,
        grads: th.Tensor,
        moments: th.Tensor,
        steps: th.Tensor,
        places: list[tuple[nn.Parameter, slice]],
    ) -> None:
        self._group = optimizer.param_groups[0]
        self._optimizer, self._flat, self._grads = optimizer, [flat], [grads]
        means, squares = moments
        self._means, self._squares = [means], [squares]
        # A recording for a CUDA device keeps plain numbers as they were, so there it is a tensor
        self._lr: float | th.Tensor = th.zeros((), device=flat.device) if flat.is_cuda else 0.0
        self._step = [steps[0]]
        self._states: list[dict[str, th.Tensor]] = []
        for i, (param, place) in enumerate(places):
            state = {
                "step": steps[i],
                "exp_avg": means[place].view_as(param),
                "exp_avg_sq": squares[place].view_as(param),
            }
            for name, value in optimizer.state[param].items():
                state[name].copy_(value)
            optimizer.state[param] = state
            self._states.append(state)

    def is_current(self) -> bool:
        """:return: Whether the optimizer still has our state: loading one replaces it, and its hyperparameters"""
        states = self._optimizer.state.values()
        return (
            self._optimizer.param_groups[0] is self._group
            and len(states) == len(self._states)
            and all(map(operator.is_, states, self._states))
        )

    @property
    def constants(self) -> tuple[float, ...]:
        """Hyperparameters other than the learning rate: betas, weight decay, eps"""
        group = self._group
        return (*map(float, group["betas"]), float(group["weight_decay"]), float(group["eps"]))

    def update_learning_rate(self) -> None:
        """Take over the optimizer's learning rate, which schedules change."""
        lr = float(self._group["lr"])
        self._lr = self._lr.fill_(lr) if isinstance(self._lr, th.Tensor) else lr

    def step(self) -> None:
        """One step of Adam: everything is a tensor but :attr:`constants`."""
        beta1, beta2, weight_decay, eps = self.constants
        th._fused_adam_(
            self._flat,
            self._grads,
            self._means,
            self._squares,
            [],
            self._step,
            lr=self._lr,
            beta1=beta1,
            beta2=beta2,
            weight_decay=weight_decay,
            eps=eps,
            amsgrad=False,
            maximize=False,
        )


class _Mlp:
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
        # From the output down: dL/dz of the layer, its transpose, z or f(z), f, the gradients, dL/dz below, its weights
        below = [(None, None), *((delta, h[i][0]) for i, delta in enumerate(deltas[:-1]))]
        self._down = [
            (
                deltas[i],
                deltas[i].t(),
                z[i][0],
                activations[i],
                weight_grads[i],
                bias_grads[i].unsqueeze(0),
                *below[i],
                weights[i][0],
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
        for delta, delta_t, kept, activation, weight_grad, bias_grad, delta_below, h_below, weight in self._down:
            if activation is not None:
                activation.backward(delta, kept)
            if inputs is not None:
                th.mm(delta_t, inputs if h_below is None else h_below, out=weight_grad)
                th.mm(self.ones, delta, out=bias_grad)
            if delta_below is not None:
                th.mm(delta, weight, out=delta_below)
        return self._down[-1][0]


class FusedUpdate:
    """
    The closed-form gradient step of one policy. From here on its parameters, and the state of its optimizers, are views
    of the tensors in this object.

    :param policy: A policy for which :func:`why_not` knows no reason against it
    """

    def __init__(self, policy: TD3Policy) -> None:
        self.policy = policy
        pairs = (
            (policy.actor.mu, policy.actor_target.mu, policy.actor.optimizer),
            (policy.critic.q_networks[0], policy.critic_target.q_networks[0], policy.critic.optimizer),
        )
        first = next(policy.actor.mu.parameters())
        sizes = [[_aligned(param.numel()) for param in online.parameters()] for online, _, _ in pairs]
        n = sum(map(sum, sizes))
        self._stacked, grads = first.data.new_zeros(2, n), first.data.new_zeros(n)
        self._means, self._squares = moments = first.data.new_zeros(2, n)
        # The optimizers save a step for each parameter; they count up together
        self._steps = th.zeros(sum(map(len, sizes)), device=first.device)
        self._params: list[nn.Parameter] = []
        self._networks: list[tuple[list[th.Tensor], list[th.Tensor], list[Activation | None]]] = []
        self._adams: list[_Adam] = []
        start = 0
        all_steps = self._steps.split([len(network_sizes) for network_sizes in sizes])
        for (online, target, optimizer), network_sizes, steps in zip(pairs, sizes, all_steps, strict=True):
            end = start + sum(network_sizes)
            flat, flat_grads, flat_moments = self._stacked[:, start:end], grads[start:end], moments[:, start:end]
            starts = [sum(network_sizes[:i]) for i in range(len(network_sizes))]
            stacked, param_grads, places = [], [], []
            for begin, param, target_param in zip(starts, online.parameters(), target.parameters(), strict=True):
                place = slice(begin, begin + param.numel())
                both = flat[:, place].view(2, *param.shape)
                both[0].copy_(param.data)
                both[1].copy_(target_param.data)
                param.data, target_param.data = both[0], both[1]
                param.grad = flat_grads[place].view_as(param)
                stacked.append(both)
                param_grads.append(param.grad)
                places.append((param, place))
                self._params += [param, target_param]
            activations = _activations(online)
            assert activations is not None, "why_not(policy) knows a reason against it"
            self._networks.append((stacked, param_grads, activations))
            self._adams.append(_Adam(optimizer, flat[0], flat_grads, flat_moments, steps, places))
            start = end
        self._n_steps = int(self._steps[0])
        self._pointers = [param.data_ptr() for param in self._params]
        self._online, self._target = self._stacked
        stacked, _, activations = self._networks[0]
        self._policy_layers = [
            (bias[0], weight[0].t(), f)
            for weight, bias, f in zip(stacked[::2], stacked[1::2], activations, strict=True)
        ]
        self._batch_size = 0
        self._losses = first.data.new_zeros(2)
        self._actor_loss, self._critic_loss = self._losses.view(2, 1, 1)
        self._recorded: tuple[Any, Callable[[], None]] | None = None
        self._run = self._replay if first.is_cuda else self._compute

    def __reduce__(self) -> tuple[type["FusedUpdate"], tuple[TD3Policy]]:
        return FusedUpdate, (self.policy,)  # a copy of the policy gets views of its own

    def is_current(self) -> bool:
        """:return: Whether networks and optimizers still are views of ours: moving or loading them replaces them"""
        return [param.data_ptr() for param in self._params] == self._pointers and all(
            adam.is_current() for adam in self._adams
        )

    @th.inference_mode()
    def act(self, observations: np.ndarray) -> np.ndarray:
        """
        What the actor does.

        :param observations: ``[n, n_observations]``
        :return: ``[n, n_actions]``, in [-1, 1]; a new array
        """
        x = th.as_tensor(observations, dtype=self._stacked.dtype, device=self._stacked.device)
        for bias, weight, activation in self._policy_layers:
            z = th.addmm(bias, x, weight)
            x = th.empty_like(z) if activation is not None and activation.keeps_input else z
            if activation is not None:
                activation.forward(z, x)
        actions: np.ndarray = x.cpu().numpy()
        return actions

    def finish(self) -> tuple[float, float]:
        """
        To be called after some steps.

        :return: The sums of the actor's and the critic's losses since the last call
        """
        actor_loss, critic_loss = self._losses.tolist()
        self._losses.zero_()
        return actor_loss, critic_loss

    def _allocate(self, batch_size: int) -> None:
        self._batch_size = batch_size
        # Parameters alternate: weight, bias, weight, bias
        self._actor, self._critic = (
            _Mlp(stacked[::2], stacked[1::2], grads[::2], grads[1::2], activations, batch_size)
            for stacked, grads, activations in self._networks
        )
        (n_observations, *_), (n_inputs, *_) = (stacked[0].shape[2:] for stacked, _, _ in self._networks)
        new = self._stacked.new_empty
        self._pairs = new(2, batch_size, n_inputs)  # (s, a), (s', mu'(s'))
        self._pair = self._pairs[0]
        self._observations = self._pairs[:, :, :n_observations]  # s, s'
        self._now, self._next = self._observations
        self._action, self._next_action = self._pairs[:, :, n_observations:]
        self._action_weights = self._networks[1][0][0][0][:, n_observations:]
        self._y, self._bootstrap = new(2, batch_size, 1)
        # Tensors in place of numbers where PyTorch would make a tensor of the number each time
        self._ones, self._two_nths = self._critic.ones.t(), new(batch_size, 1).fill_(2 / batch_size)
        self._one = th.ones_like(self._steps[0])
        self._delta_t = self._critic.delta.t()
        self._recorded = None

    @th.inference_mode()
    def step(self, batch: ReplayBufferSamples, gamma: float, tau: float) -> None:
        """
        Critic, actor, targets.

        :param batch: A minibatch
        :param gamma: The discount, where the batch does not have its own
        :param tau: The soft update coefficient
        """
        n = len(batch.rewards)
        if n != self._batch_size:
            self._allocate(n)
        th.cat((batch.observations.flatten(1), batch.actions), 1, out=self._pair)
        self._next.copy_(batch.next_observations.flatten(1))
        self._y.copy_(batch.rewards)
        discounts, gamma = (self._ones, gamma) if batch.discounts is None else (batch.discounts, 1)
        th.addcmul(discounts, discounts, batch.dones, value=-1, out=self._bootstrap)
        for adam in self._adams:
            adam.update_learning_rate()
        self._run(gamma, tau)

        # The moments of a unit that gets no gradient any more (a dead ReLU) decay into denormal numbers, with which
        # Adam takes several times as long. What is so far below Adam's epsilon moves no weight.
        self._n_steps += 1
        if self._n_steps % _CHECK_EVERY == 0:
            th.hardshrink(self._means, _NEGLIGIBLE, out=self._means)
            self._squares.clamp_min_(_NEGLIGIBLE)

    def _compute(self, gamma: float, tau: float) -> None:
        """The step on the minibatch that lies in the buffers: s, a, s', r in y, and 1 - d or g (1 - d)."""
        n, actor, critic = self._batch_size, self._actor, self._critic

        # y = r + g (1 - d) Q'(s', mu'(s')), with mu(s) and Q(s, a) on the way
        actor.forward_both(self._observations)
        self._next_action.copy_(actor.target_output)
        critic.forward_both(self._pairs)
        self._y.addcmul_(self._bootstrap, critic.target_output, value=gamma)

        # L(Q) = mean (Q - y)^2, dL / dQ = 2 (Q - y) / n
        delta = critic.delta
        th.sub(critic.online_output, self._y, out=delta)
        self._critic_loss.addmm_(self._delta_t, delta, alpha=1 / n)
        delta.mul_(self._two_nths)
        critic.backward(self._pair)
        self._steps.add_(self._one)
        self._adams[1].step()

        # L(mu) = -mean Q(s, mu(s)), dL / dQ = -1 / n, and on to dL / da through the critic's first layer
        self._action.copy_(actor.online_output)
        critic.forward(self._pair)
        self._actor_loss.addmm_(critic.ones, critic.online_output, alpha=-1 / n)
        delta.fill_(-1 / n)
        th.mm(critic.backward(None), self._action_weights, out=actor.delta)
        actor.backward(self._now)
        self._adams[0].step()

        # theta' <- tau theta + (1 - tau) theta'
        self._target.lerp_(self._online, tau)

    def _replay(self, gamma: float, tau: float) -> None:
        """:meth:`_compute` as a recording, made anew where a number that is no tensor has changed."""
        constants = (gamma, tau, *(adam.constants for adam in self._adams))
        if self._recorded is None or self._recorded[0] != constants:
            state = [self._stacked, self._means, self._squares, self._steps, self._losses, self._pairs, self._y]
            before = [tensor.clone() for tensor in state]
            self._recorded = constants, _record(lambda: self._compute(gamma, tau))
            for tensor, value in zip(state, before, strict=True):
                tensor.copy_(value)  # recording took some steps
        self._recorded[1]()


def _record(compute: Callable[[], None]) -> Callable[[], None]:
    """Record a function's kernels as a CUDA graph. It is run a few times first, so that the libraries are set up."""
    stream = th.cuda.Stream()
    stream.wait_stream(th.cuda.current_stream())
    with th.cuda.stream(stream):
        for _ in range(3):
            compute()
    th.cuda.current_stream().wait_stream(stream)
    graph = th.cuda.CUDAGraph()
    with th.cuda.graph(graph):
        compute()
    replay: Callable[[], None] = graph.replay
    return replay


def _aligned(n: int) -> int:
    return -(-n // _ALIGNMENT) * _ALIGNMENT
