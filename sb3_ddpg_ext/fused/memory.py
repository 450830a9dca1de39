"""
The memory of the parameters: actor and critics in one ``[2, n]`` tensor together with their targets.

Row 0 belongs to the actor and then the critics, row 1 to their targets. A soft update is then one operation, Adam works
on a flat vector, and a network and its target can be computed in one batched product.
"""

from itertools import accumulate
from operator import is_
from typing import cast

import torch as th
from stable_baselines3.td3.policies import TD3Policy
from torch import nn

from sb3_ddpg_ext.fused.adam import own_storage
from sb3_ddpg_ext.fused.layers import LayerMemory, NormMemory, Weight, layers

_ALIGNMENT = 16  # numbers: every parameter begins on a cache line

_data_ptr = th.Tensor.data_ptr


class NetworkMemory:
    """
    One MLP and its target.

    :param online: The MLP
    :param target: Its target
    :param stacked: ``[2, n]``: memory for the parameters of all networks and their targets
    :param grads: ``[n]``: memory for the gradients
    :param start: Where in these n numbers this network begins
    """

    def __init__(self, online: nn.Module, target: nn.Module, stacked: th.Tensor, grads: th.Tensor, start: int) -> None:
        online_layers = layers(online)
        assert online_layers is not None, "why_not(policy) must be None"
        self.params, self.target_params = list(online.parameters()), list(target.parameters())
        starts = list(accumulate(map(_aligned, self.params[:-1]), initial=start))
        self.slices = [slice(i, i + param.numel()) for i, param in zip(starts, self.params, strict=True)]
        """The range of each parameter in ``stacked`` and ``grads``"""
        shapes = [param.shape for param in self.params]
        both = [stacked[:, i].view(2, *shape) for i, shape in zip(self.slices, shapes, strict=True)]
        self.slots, self.target_slots = [pair[0] for pair in both], [pair[1] for pair in both]
        self.grads = [grads[i].view(shape) for i, shape in zip(self.slices, shapes, strict=True)]
        memory: dict[th.Tensor, Weight] = dict(zip(self.params, map(Weight, both, self.grads), strict=True))
        self.layers = [
            LayerMemory(
                memory[linear.weight],
                memory[linear.bias],
                None if norm is None else NormMemory(norm, memory[norm.weight], memory[norm.bias]),
                activation,
            )
            for linear, norm, activation in online_layers
        ]


class PolicyMemory:
    """
    Memory for all networks of a policy, with a slot for each parameter.

    Parameters may lie in their slots or anywhere else: users can replace ``param.data``. Those are copied into their
    slots before a step (:meth:`copy_in`) and back afterwards (:meth:`copy_out`), because somebody may hold a reference
    to where they are.

    :param policy: A policy for which :func:`~sb3_ddpg_ext.fused.why_not` returns None
    """

    def __init__(self, policy: TD3Policy) -> None:
        *starts, size = accumulate(
            (sum(map(_aligned, online.parameters())) for online, _ in online_and_target(policy)), initial=0
        )
        new_zeros = next(policy.actor.mu.parameters()).data.new_zeros
        self.stacked, self.grads = new_zeros(2, size), new_zeros(size)
        self.online, self.target = self.stacked
        self.networks = [
            NetworkMemory(online, target, self.stacked, self.grads, start)
            for (online, target), start in zip(online_and_target(policy), starts, strict=True)
        ]
        self.actor, *self.critics = self.networks
        self._layers, self._params = _layers(policy), _params(policy)
        self._slots = [slot for network in self.networks for slot in (*network.slots, *network.target_slots)]
        self._actor_params = self.actor.params

    def fits(self, policy: TD3Policy) -> bool:
        """:return: Whether this memory was made for the layers and parameters that the policy has now"""
        layers, params = _layers(policy), _params(policy)
        return (
            layers == self._layers
            and len(params) == len(self._params)
            and all(map(is_, params, self._params))
            and all(
                (param.shape, param.dtype, param.device) == (slot.shape, slot.dtype, slot.device)
                for param, slot in zip(params, self._slots, strict=True)
            )
        )

    def move_parameters_here(self) -> None:
        """Copy the parameters into their slots, and let them refer to these from now on."""
        for param, slot in zip(self._params, self._slots, strict=True):
            slot.copy_(param.data)
            param.data = own_storage(slot)

    def bind(self) -> None:
        """Find out which parameters lie in their slots. To be called after parameters may have moved."""
        self._pointers = list(map(_data_ptr, self._params))
        self._actor_pointers = list(map(_data_ptr, self._actor_params))
        displaced = [
            (slot, param.data)
            for slot, param in zip(self._slots, self._params, strict=True)
            if slot.data_ptr() != param.data_ptr()
        ]
        self._displaced_slots, self._displaced_data = [slot for slot, _ in displaced], [data for _, data in displaced]
        # Tensors of their own on the same memory, since users may do anything with `param.grad`
        self._param_grads = [
            (param, own_storage(grad))
            for network in self.networks
            for param, grad in zip(network.params, network.grads, strict=True)
        ]

    def actor_has_not_moved(self) -> bool:
        """:return: Whether the actor's parameters are where they were in :meth:`bind`"""
        return list(map(_data_ptr, self._actor_params)) == self._actor_pointers

    def nothing_has_moved(self) -> bool:
        """:return: Whether all parameters are where they were in :meth:`bind`"""
        return list(map(_data_ptr, self._params)) == self._pointers

    def copy_in(self) -> None:
        """Copy parameters that lie somewhere else into their slots."""
        if self._displaced_data:
            th._foreach_copy_(self._displaced_slots, self._displaced_data)

    def copy_out(self) -> None:
        """Copy parameters that lie somewhere else out of their slots."""
        if self._displaced_data:
            th._foreach_copy_(self._displaced_data, self._displaced_slots)

    def show_gradients(self) -> None:
        """Set ``param.grad`` of all parameters, which ``optimizer.zero_grad()`` resets to None."""
        (first, first_grad), (last, last_grad) = self._param_grads[0], self._param_grads[-1]  # one of each optimizer
        if first.grad is not first_grad or last.grad is not last_grad:
            for param, grad in self._param_grads:
                param.grad = grad


def online_and_target(policy: TD3Policy) -> list[tuple[nn.Module, nn.Module]]:
    """:return: The actor's MLP and its target, then those of each of the critic's networks"""
    critics = zip(policy.critic.q_networks, policy.critic_target.q_networks, strict=True)
    return [(policy.actor.mu, policy.actor_target.mu), *critics]


def _layers(policy: TD3Policy) -> list[nn.Module]:
    return [layer for online, _ in online_and_target(policy) for layer in cast(nn.Sequential, online)]


def _params(policy: TD3Policy) -> list[nn.Parameter]:
    return [param for both in online_and_target(policy) for net in both for param in net.parameters()]


def _aligned(param: nn.Parameter) -> int:
    return -(-param.numel() // _ALIGNMENT) * _ALIGNMENT
