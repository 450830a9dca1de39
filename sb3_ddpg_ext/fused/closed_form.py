"""
The gradient step in closed form with PyTorch's kernels, on the CPU or on a CUDA device.

The gradients of :mod:`sb3_ddpg_ext.equations` are written out by the chain rule and computed into buffers that are
allocated once for each batch size. What else makes it fast:

- The parameters of the online and the target networks lie in one ``[2, n]`` tensor: the soft update is one ``lerp_``,
  Adam is one fused call on a flat vector, and forward passes that do not depend on each other (mu(s) and mu'(s'), then
  Q(s, a) and Q'(s', mu'(s'))) are one batched product each.
- The actor's step computes no gradients for the critic's weights.
- Losses add up in a tensor that is read once for many steps.
"""

from collections.abc import Sequence

import numpy as np
import torch as th
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch.nn import functional as F  # noqa: N812 (torch's own convention)

from sb3_ddpg_ext.equations import smoothing_noise
from sb3_ddpg_ext.fused.adam import FlatAdam
from sb3_ddpg_ext.fused.hyperparameters import Hyperparameters
from sb3_ddpg_ext.fused.layers import Mlp
from sb3_ddpg_ext.fused.memory import PolicyMemory
from sb3_ddpg_ext.fused.recording import Recording


class ClosedForm:
    """
    The step. On a CUDA device it is recorded once as a CUDA graph and replayed from then on. This
    has not been run on a GPU yet: ``fused="auto"`` does not use it there.

    :param memory: The parameters and their gradients
    :param optimizers: Adam for the actor and for the critic
    :param moments: ``[2, n]``: both means of both optimizers
    :param step_counts: The numbers of steps that both optimizers count
    :param losses: ``[2]``: the losses of actor and critic are added to them
    """

    def __init__(
        self,
        memory: PolicyMemory,
        optimizers: Sequence[FlatAdam],
        moments: th.Tensor,
        step_counts: th.Tensor,
        losses: th.Tensor,
    ) -> None:
        self.batch_size = 0
        self._memory, self._step_counts, self._losses = memory, step_counts, losses
        self._actor_adam, self._critic_adam = optimizers
        self._actor_loss, self._critic_loss = losses.view(2, 1, 1)
        self._one = th.ones_like(step_counts[0])
        self._recording = Recording() if losses.is_cuda else None
        self._moments = moments
        self._actor_layers = [
            (layer.bias.both[0], layer.weight.both[0].t(), layer.norm, layer.activation)
            for layer in memory.actor.layers
        ]

    @th.inference_mode()
    def allocate(self, batch_size: int) -> None:
        """
        Get memory for minibatches of one size.

        :param batch_size: Transitions in a minibatch
        """
        self.batch_size, memory = batch_size, self._memory
        self._actor, *self._critics = (Mlp(network.layers, batch_size) for network in memory.networks)
        critic_weight = memory.critics[0].layers[0].weight.both[0]
        n_observations, n_inputs = memory.actor.layers[0].weight.both.shape[2], critic_weight.shape[1]
        new = self._losses.new_empty
        self._critic_inputs = new(2, batch_size, n_inputs)  # (s, a), (s', mu'(s'))
        self._online_inputs = self._critic_inputs[0]
        self._observations = self._critic_inputs[:, :, :n_observations]  # s, s'
        self._now, self._next = self._observations
        self._action, self._next_action = self._critic_inputs[:, :, n_observations:]
        self._action_weights = critic_weight[:, n_observations:]
        self._y, self._bootstrap, self._weights = new(3, batch_size, 1)
        self.td_errors = new(batch_size, 1)
        """Absolute TD errors of the last step with weights, ``[batch, 1]``, averaged over the critics"""
        # Tensors, because PyTorch would make a new one from a Python number each time
        self._ones, self._two_nths = self._actor.ones.t(), new(batch_size, 1).fill_(2 / batch_size)
        self._widths = (n_inputs, n_observations, 1, 1, 1)
        self.rows: np.ndarray = np.empty((batch_size, sum(self._widths)), dtype=np.float32)
        """Memory for :meth:`step_on_rows`"""
        if self._recording is not None:
            self._recording.discard()

    @th.inference_mode()
    def act(self, observations: np.ndarray) -> np.ndarray:
        """
        :param observations: ``[n, n_observations]``, float32
        :return: ``[n, n_actions]``: the actor's outputs; a new array
        """
        x = th.from_numpy(observations).to(self._losses.device)
        for bias, weight, norm, activation in self._actor_layers:
            z = th.addmm(bias, x, weight)
            if norm is not None:
                z = F.layer_norm(z, z.shape[1:], norm.weight.both[0], norm.bias.both[0], norm.module.eps)
            x = th.empty_like(z) if activation is not None and activation.keeps_input else z
            if activation is not None:
                activation.forward(z, x)
        actions: np.ndarray = x.cpu().numpy()
        return actions

    @th.inference_mode()
    def step(self, batch: ReplayBufferSamples, hyperparameters: Hyperparameters) -> None:
        """
        Take one gradient step.

        :param batch: A minibatch
        :param hyperparameters: Gamma is for a minibatch without discounts of its own
        """
        th.cat((batch.observations.flatten(1), batch.actions), 1, out=self._online_inputs)
        self._next.copy_(batch.next_observations.flatten(1))
        self._y.copy_(batch.rewards)
        self._step(batch.dones, batch.discounts, hyperparameters, getattr(batch, "weights", None))

    @th.inference_mode()
    def step_on_rows(self, rows: np.ndarray, discounts: np.ndarray | None, hyperparameters: Hyperparameters) -> None:
        """
        Take one gradient step on a minibatch in rows, without splitting it into separate tensors first.

        :param rows: ``[batch, n]``: observation, action, next observation, reward, done (0 after a timeout) and one
            more number, which is ignored
        :param discounts: ``[batch, 1]``, or None for gamma
        :param hyperparameters: Of the step
        """
        inputs, next_observations, rewards, dones, _ = th.from_numpy(rows).split(self._widths, dim=1)
        self._online_inputs.copy_(inputs)
        self._next.copy_(next_observations)
        self._y.copy_(rewards)
        self._step(dones, None if discounts is None else th.from_numpy(discounts), hyperparameters)

    def _step(
        self,
        dones: th.Tensor,
        discounts: th.Tensor | None,
        hyperparameters: Hyperparameters,
        weights: th.Tensor | None = None,
    ) -> None:
        """Take the step on s, a, s' and r, which are in the buffers already."""
        if weights is not None:
            self._weights.copy_(weights)
        if self._recording is not None:
            dones, discounts = dones.to(self._y.device), None if discounts is None else discounts.to(self._y.device)
        if discounts is None:
            discounts = self._ones
        else:
            hyperparameters = hyperparameters._replace(gamma=1.0)
        th.addcmul(discounts, discounts, dones, value=-1, out=self._bootstrap)
        if self._recording is None:
            self._compute(hyperparameters, weights is not None)
        else:
            self._replay(self._recording, hyperparameters, weights is not None)

    def _compute(self, hyperparameters: Hyperparameters, weighted: bool) -> None:
        """The step on the minibatch in the buffers: s, a, s', r (in y) and 1 - d or g (1 - d) (in bootstrap)."""
        gamma, tau, huber_delta, max_grad_norm, coef, noise, noise_clip = hyperparameters
        n, actor, (first, *others) = self.batch_size, self._actor, self._critics

        # y = r + g (1 - d) min Q'(s', mu'(s')); mu(s) and Q(s, a) are computed along with it
        actor.forward_both(self._observations)
        self._next_action.copy_(actor.target_output)
        if noise > 0:
            self._next_action.add_(smoothing_noise(actor.target_output, noise, noise_clip)).clamp_(-1, 1)
        first.forward_both(self._critic_inputs)
        next_q_values = first.target_output
        for critic in others:
            critic.forward_both(self._critic_inputs)
            th.minimum(next_q_values, critic.target_output, out=next_q_values)
        self._y.addcmul_(self._bootstrap, next_q_values, value=gamma)

        # L(Q) = mean w (Q - y)^2 for each critic, dL / dQ = 2 w (Q - y) / n
        if weighted:
            self.td_errors.zero_()
        for critic in self._critics:
            factor = th.sub(critic.online_output, self._y, out=critic.delta)
            if weighted:
                self.td_errors.add_(factor.abs(), alpha=1 / len(self._critics))
            if huber_delta is not None:  # the error e becomes d, limited to [-delta, delta], and counts as d (2 e - d)
                twice = 2 * critic.delta
                factor = twice.sub_(critic.delta.clamp_(-huber_delta, huber_delta))
            if weighted:
                factor = factor * self._weights
            self._critic_loss.addmm_(critic.delta_t, factor, alpha=1 / n)
            critic.delta.mul_(self._two_nths)
            if weighted:
                critic.delta.mul_(self._weights)
            critic.backward(self._online_inputs)
        self._step_counts.add_(self._one)
        self._critic_adam.step(max_grad_norm)

        # L(mu) = -mean Q(s, mu(s)) of the first critic, dL / dQ = -1 / n, then dL / da through its first layer
        self._action.copy_(actor.online_output)
        first.forward(self._online_inputs)
        self._actor_loss.addmm_(first.ones, first.online_output, alpha=-1 / n)
        first.delta.fill_(-1 / n)
        th.mm(first.backward(None), self._action_weights, out=actor.delta)
        # The penalty coef mean z^2, where z are the actor's outputs before tanh
        penalty = actor.pre_activations(self._now).mul_(2 * coef / actor.delta.numel()) if coef > 0 else None
        actor.backward(self._now, penalty)
        self._actor_adam.step(max_grad_norm)

        # theta' <- tau theta + (1 - tau) theta'
        self._memory.target.lerp_(self._memory.online, tau)

    def _replay(self, recording: Recording, hyperparameters: Hyperparameters, weighted: bool) -> None:
        """:meth:`_compute` as a CUDA graph"""
        self._actor_adam.update_learning_rate()
        self._critic_adam.update_learning_rate()
        recording.run(
            lambda: self._compute(hyperparameters, weighted),
            constants=(hyperparameters, weighted, self._actor_adam.constants, self._critic_adam.constants),
            state=[
                self._memory.stacked,
                self._moments,
                self._step_counts,
                self._losses,
                self._critic_inputs,
                self._y,
            ],
        )
