"""
One gradient step of DDPG in closed form, without autograd and without allocation, for plain MLPs.

The gradients of :mod:`sb3_ddpg_ext.equations` are written out by the chain rule and computed into buffers that are made
once for a batch size. What else makes it fast:

- The parameters of the online and the target networks lie in one ``[2, n]`` tensor: the soft update is one ``lerp_``,
  Adam one fused call on a flat vector, and the forward passes that do not depend on each other (mu(s) with mu'(s'),
  then Q(s, a) with Q'(s', mu'(s'))) are one batched product each.
- The critic's weights get no gradient in the actor's step.
- Nothing is read back: losses add up in a tensor.

The modules, their ``state_dict`` and the optimizers stay what they were. Where a new policy is taken over, its
parameters are moved into that tensor. Later, users may put others in their place: whatever lies somewhere else stays
there, since they may have other references to it, and is copied in before and out after each step.

On a CUDA device the step is recorded once as a CUDA graph and replayed from then on. That has not been run on a GPU
yet, let alone measured: there the closed form is taken only where the caller asks for it.
"""

from collections.abc import Callable
from operator import is_
from typing import Any, cast

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.td3.policies import TD3Policy
from torch import nn

from sb3_ddpg_ext.fused.adam import FlatAdam, own_storage
from sb3_ddpg_ext.fused.applicability import Watch, why_not
from sb3_ddpg_ext.fused.layers import Activation, Mlp, activations

_ALIGNMENT = 16  # numbers: every parameter begins on a cache line
_NEGLIGIBLE = 1e-36  # of Adam's moments
_CHECK_EVERY = 32  # steps; from there to denormal numbers, below 1.2e-38, Adam's mean takes 42


class FusedUpdate:
    """
    The closed-form gradient step of one policy.

    :param policy: A policy for which :func:`~sb3_ddpg_ext.fused.why_not` knows no reason against it
    :param take_over: Whether to move the parameters into our memory, which saves copying them at each step. Only for a
        policy that is new, so that nobody refers to where they are now
    """

    def __init__(self, policy: TD3Policy, take_over: bool = True) -> None:
        self.policy = policy
        online_networks = (policy.actor.mu, policy.critic.q_networks[0])
        first = next(policy.actor.mu.parameters())
        sizes = [[_aligned(param.numel()) for param in online.parameters()] for online in online_networks]
        n = sum(map(sum, sizes))
        self._stacked, grads = first.data.new_zeros(2, n), first.data.new_zeros(n)
        self._means, self._squares = moments = first.data.new_zeros(2, n)
        # The optimizers save a step for each parameter; they count up together
        self._steps = th.zeros(sum(map(len, sizes)), dtype=th.float32, device=first.device)
        self._layers, self._params = _layers(policy), _params(policy)
        self._homes: list[th.Tensor] = []  # where each has its place in our memory
        self._trained: list[tuple[nn.Parameter, th.Tensor]] = []  # with their gradients in our memory
        self._networks: list[tuple[list[th.Tensor], list[th.Tensor], list[Activation | None]]] = []
        self._adams: list[FlatAdam] = []
        start = 0
        all_steps = self._steps.split([len(network_sizes) for network_sizes in sizes])
        for online, network_sizes, steps in zip(online_networks, sizes, all_steps, strict=True):
            end = start + sum(network_sizes)
            flat, flat_grads, flat_moments = self._stacked[:, start:end], grads[start:end], moments[:, start:end]
            starts = [sum(network_sizes[:i]) for i in range(len(network_sizes))]
            stacked, param_grads, places = [], [], []
            for begin, param in zip(starts, online.parameters(), strict=True):
                place = slice(begin, begin + param.numel())
                stacked.append(flat[:, place].view(2, *param.shape))
                param_grads.append(flat_grads[place].view(param.shape))
                places.append(place)
                self._homes += [row[place].view(param.shape) for row in flat]
            layer_activations = activations(online)
            assert layer_activations is not None, "why_not(policy) knows a reason against it"
            self._networks.append((stacked, param_grads, layer_activations))
            self._trained += zip(online.parameters(), param_grads, strict=True)
            self._adams.append(FlatAdam(list(online.parameters()), places, flat[0], flat_grads, flat_moments, steps))
            start = end
        self._home_pointers = [home.data_ptr() for home in self._homes]
        self._online, self._target = self._stacked
        stacked, _, layer_activations = self._networks[0]
        self._policy_layers = [
            (bias[0], weight[0].t(), f)
            for weight, bias, f in zip(stacked[::2], stacked[1::2], layer_activations, strict=True)
        ]
        self._observation_shape = cast(tuple[int, ...], policy.observation_space.shape)
        self._n_steps = 0
        self._batch_size = 0
        self._n_actor_params = len(sizes[0])
        self._losses = first.data.new_zeros(2)
        self._actor_loss, self._critic_loss = self._losses.view(2, 1, 1)
        # The same memory as numpy's arrays, which are read in a fraction of the time; a CUDA device has none of these
        readable = [x if x.is_cuda else x.numpy() for x in (self._steps, self._losses)]
        self._readable_steps, self._readable_losses = readable
        self._records = first.is_cuda
        self._recorded: tuple[Any, Callable[[], None]] | None = None
        if take_over:
            for param, home in zip(self._params, self._homes, strict=True):
                home.copy_(param.data)
                param.data = own_storage(home)
        self.bind()

    def __reduce__(self) -> tuple[Callable[[TD3Policy], "FusedUpdate | None"], tuple[TD3Policy]]:
        return _for_a_copy, (self.policy,)

    def serves(self, policy: TD3Policy) -> bool:
        """:return: Whether this object was made for these layers and parameters, so that :meth:`bind` is enough"""
        layers, params = _layers(policy), _params(policy)
        return (
            policy is self.policy
            and layers == self._layers
            and len(params) == len(self._params)
            and all(map(is_, params, self._params))
            and all(
                (param.shape, param.dtype, param.device) == (home.shape, home.dtype, home.device)
                for param, home in zip(params, self._homes, strict=True)
            )
        )

    def bind(self) -> None:
        """Take note of where parameters are, and what the optimizers are. To be called after any change of these."""
        self._watch = Watch(self.policy)
        self._optimizers = (self.policy.actor.optimizer, self.policy.critic.optimizer)
        space = cast(spaces.Box, self.policy.action_space)
        self._low, self._half_range = space.low, 0.5 * (space.high - space.low)
        self._pointers = list(map(_data_ptr, self._params))
        self._actor_pointers = self._pointers[: 2 * self._n_actor_params : 2]
        elsewhere = [
            (home, param.data)
            for home, param, pointer in zip(self._homes, self._params, self._home_pointers, strict=True)
            if param.data_ptr() != pointer
        ]
        self._copied_homes, self._elsewhere = [home for home, _ in elsewhere], [data for _, data in elsewhere]
        # Tensors for users, who may do with them what they like; we compute with our own
        self._grads = [(param, own_storage(grad)) for param, grad in self._trained]
        self._attached = False

    def can_act(self) -> bool:
        """:return: Whether all that actions depend on is as it was when :meth:`bind` was called"""
        return (
            self._watch.acting_is_current()
            and list(map(_data_ptr, self._params[: 2 * self._n_actor_params : 2])) == self._actor_pointers
        )

    def can_step(self) -> bool:
        """:return: Whether all that a gradient step depends on is as it was"""
        if not (self._watch.is_current() and list(map(_data_ptr, self._params)) == self._pointers):
            return False
        if not self._attached:  # the next step takes Adam's state over, whatever it is
            return True
        steps = self._readable_steps.tolist()
        actors, critics = steps[: self._n_actor_params], steps[self._n_actor_params :]
        return (
            actors.count(actors[0]) == len(actors)
            and critics.count(critics[0]) == len(critics)
            and self._adams[0].is_attached(self._optimizers[0])
            and self._adams[1].is_attached(self._optimizers[1])
        )

    def act(self, observations: np.ndarray) -> np.ndarray:
        """
        What the actor does.

        :param observations: ``[n, n_observations]``
        :return: ``[n, *action_shape]``, in [-1, 1]; a new array
        """
        self._copy_in()
        x = th.from_numpy(observations.astype(np.float32, copy=False))
        if self._stacked.is_cuda:
            x = x.to(self._stacked.device)
        for bias, weight, activation in self._policy_layers:
            z = th.addmm(bias, x, weight)
            x = th.empty_like(z) if activation is not None and activation.keeps_input else z
            if activation is not None:
                activation.forward(z, x)
        actions: np.ndarray = x.cpu().numpy().reshape(-1, *self._low.shape)
        return actions

    def unscale_action(self, scaled_actions: np.ndarray) -> np.ndarray:
        """
        :param scaled_actions: ``[n, *action_shape]``, in [-1, 1]
        :return: The same in the action space
        """
        actions: np.ndarray = self._low + self._half_range * (scaled_actions + 1)
        return actions

    def finish(self) -> tuple[float, float]:
        """
        To be called after some steps.

        :return: The sums of the actor's and the critic's losses since the last call
        """
        actor_loss, critic_loss = self._readable_losses.tolist()
        self._readable_losses[:] = 0
        return actor_loss, critic_loss

    def _copy_in(self) -> None:
        if self._elsewhere:
            th._foreach_copy_(self._copied_homes, self._elsewhere)

    def _copy_out(self) -> None:
        if self._elsewhere:
            th._foreach_copy_(self._elsewhere, self._copied_homes)

    def _allocate(self, batch_size: int) -> None:
        self._batch_size = batch_size
        # Parameters alternate: weight, bias, weight, bias
        self._actor, self._critic = (
            Mlp(stacked[::2], stacked[1::2], grads[::2], grads[1::2], layer_activations, batch_size)
            for stacked, grads, layer_activations in self._networks
        )
        (n_observations, *_), (n_inputs, *_) = (stacked[0].shape[2:] for stacked, _, _ in self._networks)
        new = self._stacked.new_empty
        self._pairs = new(2, batch_size, n_inputs)  # (s, a), (s', mu'(s'))
        self._pair = self._pairs[0]
        self._observations = self._pairs[:, :, :n_observations]  # s, s'
        self._now, self._next = self._observations
        self._action, self._next_action = self._pairs[:, :, n_observations:]
        (critic_weights, *_), _, _ = self._networks[1]
        self._action_weights = critic_weights[0, :, n_observations:]
        self._y, self._bootstrap = new(2, batch_size, 1)
        # Tensors in place of numbers where PyTorch would make a tensor of the number each time
        self._ones, self._two_nths = self._critic.ones.t(), new(batch_size, 1).fill_(2 / batch_size)
        self._one = th.ones_like(self._steps[0])
        self._delta_t = self._critic.delta.t()
        self._recorded = None
        # What a replay buffer fills: (s, a), s', r, d and something of its own in each row
        rows = th.empty(batch_size, n_inputs + n_observations + 3, dtype=th.float32)
        self._rows: np.ndarray = rows.numpy()
        self._row_pairs, self._row_next, self._row_rewards, self._row_dones, _ = rows.split(
            (n_inputs, n_observations, 1, 1, 1), dim=1
        )

    def accepts(self, batch: ReplayBufferSamples) -> bool:
        """
        Whether :meth:`step` computes with a minibatch what autograd would.

        :param batch: A minibatch, perhaps of a user's replay buffer, whose shapes autograd broadcasts
        :return: Whether it has the shapes and types of Stable-Baselines3's
        """
        column, dtype = (len(batch.rewards), 1), self._stacked.dtype
        return (
            batch.rewards.shape == batch.dones.shape == column
            and batch.observations.shape == batch.next_observations.shape == (column[0], *self._observation_shape)
            and batch.dones.dtype == dtype
            and (batch.discounts is None or (batch.discounts.shape == column and batch.discounts.dtype == dtype))
        )

    @th.inference_mode()
    def step(self, batch: ReplayBufferSamples, gamma: float, tau: float) -> None:
        """
        Critic, actor, targets.

        :param batch: A minibatch that :meth:`accepts` does not refuse
        :param gamma: The discount, where the batch does not have its own
        :param tau: The soft update coefficient
        """
        self._begin(len(batch.rewards))
        th.cat((batch.observations.flatten(1), batch.actions), 1, out=self._pair)
        self._next.copy_(batch.next_observations.flatten(1))
        self._y.copy_(batch.rewards)
        self._finish(batch.dones, batch.discounts, gamma, tau)

    @th.inference_mode()
    def step_on_rows(
        self, sample_rows: Callable[[np.ndarray], np.ndarray | None], batch_size: int, gamma: float, tau: float
    ) -> None:
        """
        The same on a minibatch in rows, which saves taking them apart and putting them together again.

        :param sample_rows: Draws a minibatch and fills the given ``[batch, n]``, float32, with observation, action,
            next observation, reward, done (and one number more) of each transition; returns their discounts,
            ``[batch, 1]``, if they have any
        :param batch_size: Transitions in the minibatch
        :param gamma: The discount, where they do not have their own
        :param tau: The soft update coefficient
        """
        self._begin(batch_size)
        discounts = sample_rows(self._rows)
        self._pair.copy_(self._row_pairs)
        self._next.copy_(self._row_next)
        self._y.copy_(self._row_rewards)
        self._finish(self._row_dones, None if discounts is None else th.from_numpy(discounts), gamma, tau)

    def _begin(self, batch_size: int) -> None:
        if batch_size != self._batch_size:
            self._allocate(batch_size)
        if not self._attached:
            for adam, optimizer in zip(self._adams, self._optimizers, strict=True):
                adam.attach(optimizer)
            self._attached = True
        self._copy_in()

    def _finish(self, dones: th.Tensor, discounts: th.Tensor | None, gamma: float, tau: float) -> None:
        """The step on s, a, s' and r, which lie in the buffers."""
        if self._stacked.is_cuda:
            dones, discounts = dones.to(self._y.device), None if discounts is None else discounts.to(self._y.device)
        discounts, gamma = (self._ones, gamma) if discounts is None else (discounts, 1)
        th.addcmul(discounts, discounts, dones, value=-1, out=self._bootstrap)
        if self._records:
            self._replay(gamma, tau)
        else:
            self._compute(gamma, tau)
        self._copy_out()
        if any(param.grad is not grad for param, grad in (self._grads[0], self._grads[-1])):
            for param, grad in self._grads:  # `optimizer.zero_grad()` has taken them away
                param.grad = grad

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
        for adam in self._adams:
            adam.update_learning_rate()
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


def _for_a_copy(policy: TD3Policy) -> FusedUpdate | None:
    """A copy of a policy gets memory of its own, where it still is one for the closed form"""
    return FusedUpdate(policy) if why_not(policy) is None else None


_data_ptr = th.Tensor.data_ptr


def _layers(policy: TD3Policy) -> list[nn.Module]:
    return [*policy.actor.mu, *cast(nn.Sequential, policy.critic.q_networks[0])]


def _params(policy: TD3Policy) -> list[nn.Parameter]:
    """The parameters, each followed by its target's"""
    online = (*policy.actor.mu.parameters(), *policy.critic.q_networks[0].parameters())
    target = (*policy.actor_target.mu.parameters(), *policy.critic_target.q_networks[0].parameters())
    return [param for pair in zip(online, target, strict=False) for param in pair]


def _aligned(n: int) -> int:
    return -(-n // _ALIGNMENT) * _ALIGNMENT
