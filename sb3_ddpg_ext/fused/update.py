"""
One gradient step of DDPG in closed form, without autograd and without memory allocation, for plain MLPs.

The gradients of :mod:`sb3_ddpg_ext.equations` are written out by the chain rule and computed into buffers that are
allocated once for each batch size. What else makes it fast:

- The parameters of the online and the target networks lie in one ``[2, n]`` tensor: the soft update is one ``lerp_``,
  Adam is one fused call on a flat vector, and forward passes that do not depend on each other (mu(s) and mu'(s'), then
  Q(s, a) and Q'(s', mu'(s'))) are one batched product each.
- The actor's step computes no gradients for the critic's weights.
- Losses add up in a tensor that is read once for many steps.

The modules, their ``state_dict`` and the optimizers stay what they were. A new policy's parameters are moved into that
tensor. If users replace a parameter's tensor later, theirs stays where it is, because they may hold other references to
it. It is copied into our memory before each step and back afterwards.

On a CUDA device the step is recorded once as a CUDA graph and replayed from then on. This has not been run on a GPU
yet: ``fused="auto"`` does not use the closed form there.
"""

from collections.abc import Callable
from typing import cast

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.td3.policies import TD3Policy

from sb3_ddpg_ext.fused.adam import FlatAdam
from sb3_ddpg_ext.fused.applicability import Snapshot, why_not
from sb3_ddpg_ext.fused.layers import Mlp
from sb3_ddpg_ext.fused.memory import PolicyMemory
from sb3_ddpg_ext.fused.recording import Recording

# Adam's moments of a unit that gets no gradient any more (a dead ReLU) decay into denormal numbers, which make Adam
# several times slower. Moments below _NEGLIGIBLE move no weight, since Adam's eps is so much larger, and are removed
_NEGLIGIBLE = 1e-36
_STEPS_BETWEEN_CHECKS = 32  # from _NEGLIGIBLE down to denormal numbers, below 1.2e-38, Adam's mean takes 42 steps


class FusedUpdate:
    """
    Computes the gradient steps of one policy in closed form, and its actions.

    :param policy: A policy for which :func:`~sb3_ddpg_ext.fused.why_not` returns None
    :param take_over: Whether to move the policy's parameters into our memory, which saves copying them at each step.
        Only for a new policy, where nobody has a reference to the parameters' tensors yet
    """

    def __init__(self, policy: TD3Policy, take_over: bool = True) -> None:
        self.policy = policy
        self._memory = memory = PolicyMemory(policy)
        new_zeros = memory.online.new_zeros
        self._means, self._squares = moments = new_zeros(2, len(memory.online))
        n_actor, n_critic = len(memory.actor.params), len(memory.critic.params)
        # The optimizers store a number of steps for each parameter. They all count up together
        self._steps = new_zeros(n_actor + n_critic, dtype=th.float32)
        self._n_actor_params = n_actor
        self._actor_adam, self._critic_adam = (
            FlatAdam(network.params, network.slices, network.flat, network.flat_grads, network_moments, steps)
            for network, network_moments, steps in zip(
                (memory.actor, memory.critic),
                moments.split([len(memory.actor.flat), len(memory.critic.flat)], dim=1),
                self._steps.split([n_actor, n_critic]),
                strict=True,
            )
        )
        self._actor_layers = [
            (bias[0], weight[0].t(), activation)
            for bias, weight, activation in zip(
                memory.actor.biases, memory.actor.weights, memory.actor.activations, strict=True
            )
        ]
        self._observation_shape = cast(tuple[int, ...], policy.observation_space.shape)
        self._n_steps = 0
        self._batch_size = 0
        self._losses = new_zeros(2)
        self._actor_loss, self._critic_loss = self._losses.view(2, 1, 1)
        # On the CPU the same memory as NumPy arrays, which are much faster to read
        readable = [x if x.is_cuda else x.numpy() for x in (self._steps, self._losses)]
        self._readable_steps, self._readable_losses = readable
        self._recording = Recording() if memory.online.is_cuda else None
        if take_over:
            memory.move_parameters_here()
        self.bind()

    def __reduce__(self) -> tuple[Callable[[TD3Policy], "FusedUpdate | None"], tuple[TD3Policy]]:
        return _for_a_copy, (self.policy,)

    def serves(self, policy: TD3Policy) -> bool:
        """:return: Whether the policy still has the layers and parameters that this object was made for"""
        return policy is self.policy and self._memory.fits(policy)

    def bind(self) -> None:
        """Adapt to the policy as it is now. To be called when :meth:`serves` is true, but something has changed."""
        self._snapshot = Snapshot(self.policy)
        self._actor_optimizer, self._critic_optimizer = self.policy.actor.optimizer, self.policy.critic.optimizer
        space = cast(spaces.Box, self.policy.action_space)
        self._low, self._half_range = space.low, 0.5 * (space.high - space.low)
        self._memory.bind()
        self._attached = False  # to the optimizers

    def can_act(self) -> bool:
        """:return: Whether everything that actions depend on is as it was in :meth:`bind`"""
        return self._snapshot.acting_is_current() and self._memory.actor_has_not_moved()

    def can_step(self) -> bool:
        """:return: Whether everything that a gradient step depends on is as it was in :meth:`bind`"""
        if not (self._snapshot.is_current() and self._memory.nothing_has_moved()):
            return False
        if not self._attached:  # the next step takes over Adam's state, whatever it is
            return True
        steps = self._readable_steps.tolist()
        actor_steps, critic_steps = steps[: self._n_actor_params], steps[self._n_actor_params :]
        return (
            actor_steps.count(actor_steps[0]) == len(actor_steps)
            and critic_steps.count(critic_steps[0]) == len(critic_steps)
            and self._actor_adam.is_attached(self._actor_optimizer)
            and self._critic_adam.is_attached(self._critic_optimizer)
        )

    def act(self, observations: np.ndarray) -> np.ndarray:
        """
        Compute the actor's actions.

        :param observations: ``[n, n_observations]``
        :return: ``[n, *action_shape]``, in [-1, 1]; a new array
        """
        self._memory.copy_in()
        x = th.from_numpy(observations.astype(np.float32, copy=False))
        if self._recording is not None:
            x = x.to(self._losses.device)
        for bias, weight, activation in self._actor_layers:
            z = th.addmm(bias, x, weight)
            x = th.empty_like(z) if activation is not None and activation.keeps_input else z
            if activation is not None:
                activation.forward(z, x)
        actions: np.ndarray = x.cpu().numpy().reshape(-1, *self._low.shape)
        return actions

    def unscale_action(self, scaled_actions: np.ndarray) -> np.ndarray:
        """
        :param scaled_actions: ``[n, *action_shape]``, in [-1, 1]
        :return: The same actions between the bounds of the action space
        """
        actions: np.ndarray = self._low + self._half_range * (scaled_actions + 1)
        return actions

    def pop_losses(self) -> tuple[float, float]:
        """:return: The actor's and the critic's losses, summed over the steps since the last call"""
        actor_loss, critic_loss = self._readable_losses.tolist()
        self._readable_losses[:] = 0
        return actor_loss, critic_loss

    def _allocate(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._actor, self._critic = (
            Mlp(
                network.weights,
                network.biases,
                network.weight_grads,
                network.bias_grads,
                network.activations,
                batch_size,
            )
            for network in (self._memory.actor, self._memory.critic)
        )
        actor_weights, critic_weights = self._memory.actor.weights[0], self._memory.critic.weights[0]  # first layers
        n_observations, n_inputs = actor_weights.shape[2], critic_weights.shape[2]
        new = self._losses.new_empty
        self._critic_inputs = new(2, batch_size, n_inputs)  # (s, a), (s', mu'(s'))
        self._online_inputs = self._critic_inputs[0]
        self._observations = self._critic_inputs[:, :, :n_observations]  # s, s'
        self._now, self._next = self._observations
        self._action, self._next_action = self._critic_inputs[:, :, n_observations:]
        self._action_weights = critic_weights[0, :, n_observations:]
        self._y, self._bootstrap = new(2, batch_size, 1)
        # Tensors, because PyTorch would make a new one from a Python number each time
        self._ones, self._two_nths = self._critic.ones.t(), new(batch_size, 1).fill_(2 / batch_size)
        self._one = th.ones_like(self._steps[0])
        self._delta_t = self._critic.delta.t()
        if self._recording is not None:
            self._recording.discard()
        # Filled by a replay buffer: each row has (s, a), s', r, d and the buffer's own flag for timeouts
        rows = th.empty(batch_size, n_inputs + n_observations + 3, dtype=th.float32)
        self._rows: np.ndarray = rows.numpy()
        self._row_inputs, self._row_next, self._row_rewards, self._row_dones, _ = rows.split(
            (n_inputs, n_observations, 1, 1, 1), dim=1
        )

    def accepts(self, batch: ReplayBufferSamples) -> bool:
        """
        Whether :meth:`step` computes the same as autograd, which broadcasts tensors of other shapes.

        :param batch: A minibatch, perhaps from a user's own replay buffer
        :return: Whether it has the shapes and types of a minibatch from Stable-Baselines3
        """
        column, dtype = (len(batch.rewards), 1), self._losses.dtype
        return (
            batch.rewards.shape == batch.dones.shape == column
            and batch.observations.shape == batch.next_observations.shape == (column[0], *self._observation_shape)
            and batch.dones.dtype == dtype
            and (batch.discounts is None or (batch.discounts.shape == column and batch.discounts.dtype == dtype))
        )

    @th.inference_mode()
    def step(self, batch: ReplayBufferSamples, gamma: float, tau: float) -> None:
        """
        Take one gradient step: critic, actor, targets.

        :param batch: A minibatch that :meth:`accepts` allows
        :param gamma: The discount, for a minibatch without discounts of its own
        :param tau: The soft update coefficient
        """
        self._prepare(len(batch.rewards))
        th.cat((batch.observations.flatten(1), batch.actions), 1, out=self._online_inputs)
        self._next.copy_(batch.next_observations.flatten(1))
        self._y.copy_(batch.rewards)
        self._step(batch.dones, batch.discounts, gamma, tau)

    @th.inference_mode()
    def step_on_rows(
        self, sample_rows: Callable[[np.ndarray], np.ndarray | None], batch_size: int, gamma: float, tau: float
    ) -> None:
        """
        Take one gradient step on a minibatch in rows, without splitting it into separate tensors first.

        :param sample_rows: Draws a minibatch and writes it into an array ``[batch, n]``, float32. Each row has
            observation, action, next observation, reward, done and one more number, which is ignored. It returns the
            discounts, ``[batch, 1]``, or None
        :param batch_size: Transitions in the minibatch
        :param gamma: The discount, for a minibatch without discounts of its own
        :param tau: The soft update coefficient
        """
        self._prepare(batch_size)
        discounts = sample_rows(self._rows)
        self._online_inputs.copy_(self._row_inputs)
        self._next.copy_(self._row_next)
        self._y.copy_(self._row_rewards)
        self._step(self._row_dones, None if discounts is None else th.from_numpy(discounts), gamma, tau)

    def _prepare(self, batch_size: int) -> None:
        if batch_size != self._batch_size:
            self._allocate(batch_size)
        if not self._attached:
            self._actor_adam.attach(self._actor_optimizer)
            self._critic_adam.attach(self._critic_optimizer)
            self._attached = True
            # Adam's own count, which a checkpoint has: a resumed run removes moments at the same steps
            self._n_steps = int(self._steps[0])
        self._memory.copy_in()

    def _step(self, dones: th.Tensor, discounts: th.Tensor | None, gamma: float, tau: float) -> None:
        """Take the step on s, a, s' and r, which are in the buffers already."""
        if self._recording is not None:
            dones, discounts = dones.to(self._y.device), None if discounts is None else discounts.to(self._y.device)
        discounts, gamma = (self._ones, gamma) if discounts is None else (discounts, 1)
        th.addcmul(discounts, discounts, dones, value=-1, out=self._bootstrap)
        if self._recording is None:
            self._compute(gamma, tau)
        else:
            self._replay(self._recording, gamma, tau)
        self._memory.copy_out()
        self._memory.show_gradients()

        self._n_steps += 1
        if self._n_steps % _STEPS_BETWEEN_CHECKS == 0:
            th.hardshrink(self._means, _NEGLIGIBLE, out=self._means)
            self._squares.clamp_min_(_NEGLIGIBLE)

    def _compute(self, gamma: float, tau: float) -> None:
        """The step on the minibatch in the buffers: s, a, s', r (in y) and 1 - d or g (1 - d) (in bootstrap)."""
        n, actor, critic = self._batch_size, self._actor, self._critic

        # y = r + g (1 - d) Q'(s', mu'(s')); mu(s) and Q(s, a) are computed along with it
        actor.forward_both(self._observations)
        self._next_action.copy_(actor.target_output)
        critic.forward_both(self._critic_inputs)
        self._y.addcmul_(self._bootstrap, critic.target_output, value=gamma)

        # L(Q) = mean (Q - y)^2, dL / dQ = 2 (Q - y) / n
        delta = critic.delta
        th.sub(critic.online_output, self._y, out=delta)
        self._critic_loss.addmm_(self._delta_t, delta, alpha=1 / n)
        delta.mul_(self._two_nths)
        critic.backward(self._online_inputs)
        self._steps.add_(self._one)
        self._critic_adam.step()

        # L(mu) = -mean Q(s, mu(s)), dL / dQ = -1 / n, then dL / da through the critic's first layer
        self._action.copy_(actor.online_output)
        critic.forward(self._online_inputs)
        self._actor_loss.addmm_(critic.ones, critic.online_output, alpha=-1 / n)
        delta.fill_(-1 / n)
        th.mm(critic.backward(None), self._action_weights, out=actor.delta)
        actor.backward(self._now)
        self._actor_adam.step()

        # theta' <- tau theta + (1 - tau) theta'
        self._memory.target.lerp_(self._memory.online, tau)

    def _replay(self, recording: Recording, gamma: float, tau: float) -> None:
        """:meth:`_compute` as a CUDA graph"""
        self._actor_adam.update_learning_rate()
        self._critic_adam.update_learning_rate()
        recording.run(
            lambda: self._compute(gamma, tau),
            constants=(gamma, tau, self._actor_adam.constants, self._critic_adam.constants),
            state=[
                self._memory.stacked,
                self._means,
                self._squares,
                self._steps,
                self._losses,
                self._critic_inputs,
                self._y,
            ],
        )


def _for_a_copy(policy: TD3Policy) -> FusedUpdate | None:
    """:return: A new object for a copied policy, or None if the closed form is not possible for it any more"""
    return FusedUpdate(policy) if why_not(policy) is None else None
