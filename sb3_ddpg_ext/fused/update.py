"""
Gradient steps in closed form for one policy, and its actions: who computes them, on which memory, for which optimizers.

The modules, their ``state_dict`` and the optimizers stay what they were. A new policy's parameters are moved into our
memory. If users replace a parameter's tensor later, theirs stays where it is, because they may hold other references to
it. It is copied into our memory before each step and back afterwards.
"""

from collections.abc import Callable
from typing import Protocol, cast

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.td3.policies import TD3Policy

from sb3_ddpg_ext.fused.adam import FlatAdam
from sb3_ddpg_ext.fused.applicability import Snapshot, why_not
from sb3_ddpg_ext.fused.closed_form import ClosedForm
from sb3_ddpg_ext.fused.hyperparameters import Hyperparameters
from sb3_ddpg_ext.fused.kernel import Kernel, library
from sb3_ddpg_ext.fused.memory import PolicyMemory

# Adam's moments of a unit that gets no gradient any more (a dead ReLU) decay into denormal numbers, which make Adam
# several times slower. Moments below _NEGLIGIBLE move no weight, since Adam's eps is so much larger, and are removed
_NEGLIGIBLE = 1e-36
_STEPS_BETWEEN_CHECKS = 32  # from _NEGLIGIBLE down to denormal numbers, below 1.2e-38, Adam's mean takes 42 steps


class Rows(Protocol):
    """A replay buffer with each transition in one row: observation, action, next observation, reward, done, timeout."""

    def sample_rows(self, rows: np.ndarray) -> np.ndarray | None:
        """
        Draw a minibatch.

        :param rows: Output, ``[batch, n]``; done is 0 after a timeout
        :return: The discounts, ``[batch, 1]``, or None
        """

    def rows_to_draw(self) -> tuple[np.ndarray, int, tuple[int, float, int] | None] | None:
        """
        What minibatches are drawn from.

        :return: All rows, ``[size, n_envs, n]``, float32, contiguous; how many positions have been filled; and for
            n-step returns n, gamma, and the newest position, with which returns end. None if there are no rows yet
        """


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
        n_actor, n_critic = len(memory.actor.params), sum(len(critic.params) for critic in memory.critics)
        # The optimizers store a number of steps for each parameter. They all count up together
        self._steps = new_zeros(n_actor + n_critic, dtype=th.float32)
        self._n_actor_params = n_actor
        self._actor_adam, self._critic_adam = (
            FlatAdam(
                [param for network in networks for param in network.params],
                [slice_ for network in networks for slice_ in network.slices],
                memory.online,
                memory.grads,
                moments,
                steps,
            )
            for networks, steps in zip(
                ([memory.actor], memory.critics), self._steps.split([n_actor, n_critic]), strict=True
            )
        )
        self._observation_shape = cast(tuple[int, ...], policy.observation_space.shape)
        self._n_steps = 0
        self._losses = new_zeros(2)
        # On the CPU the same memory as NumPy arrays, which are much faster to read
        readable = [x if x.is_cuda else x.numpy() for x in (self._steps, self._losses)]
        self._readable_steps, self._readable_losses = readable
        optimizers = self._actor_adam, self._critic_adam
        compiled = library() if memory.online.device.type == "cpu" and memory.online.dtype == th.float32 else None
        self._computation: ClosedForm | Kernel
        if compiled is None:
            self._computation = ClosedForm(memory, optimizers, moments, self._steps, self._losses)
        else:
            self._computation = Kernel(compiled, memory, optimizers, self._losses)
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
        self._low, self._high = space.low, space.high
        self._memory.bind()
        if isinstance(self._computation, Kernel):
            self._computation.bind(self._low, self._high)
        self._attached = False  # to the optimizers

    @property
    def computed_by(self) -> str:
        """What computes gradient steps, and why it is not the kernel"""
        if isinstance(self._computation, Kernel):
            return f"the compiled {self._computation.name}"
        if self._losses.is_cuda:
            return "PyTorch, as a CUDA graph"
        return "PyTorch: the kernel needs a processor with AVX2, and a C compiler when this package is installed"

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

    def act(self, observations: np.ndarray, noise: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """
        Compute the actor's actions.

        :param observations: ``[n, n_observations]``
        :param noise: Is added to the scaled actions, which are then clipped to [-1, 1]; or None
        :return: The actions, between the bounds of the action space and scaled to [-1, 1], both ``[n, *action_shape]``;
            new arrays
        """
        self._memory.copy_in()
        computation, shape = self._computation, (len(observations), *self._low.shape)
        if (
            isinstance(computation, Kernel)
            and self._low.dtype == np.float32
            and (noise is None or (noise.dtype == np.float32 and noise.shape == shape[-noise.ndim :]))
        ):
            return computation.explore(observations, noise)
        scaled_actions = computation.act(observations.astype(np.float32, copy=False)).reshape(shape)
        if noise is not None:
            scaled_actions = np.minimum(np.maximum(scaled_actions + noise, -1), 1)
        return self._low + 0.5 * (self._high - self._low) * (scaled_actions + 1), scaled_actions

    def pop_losses(self) -> tuple[float, float]:
        """:return: The actor's and the critic's losses, summed over the steps since the last call"""
        actor_loss, critic_loss = self._readable_losses.tolist()
        self._readable_losses[:] = 0
        return actor_loss, critic_loss

    def accepts(self, batch: ReplayBufferSamples) -> bool:
        """
        Whether :meth:`step` computes the same as autograd, which broadcasts tensors of other shapes.

        :param batch: A minibatch, perhaps from a user's own replay buffer
        :return: Whether it has the shapes and types of a minibatch from Stable-Baselines3
        """
        column, dtype = (len(batch.rewards), 1), self._losses.dtype
        optional = batch.discounts, getattr(batch, "weights", None)
        return (
            batch.rewards.shape == batch.dones.shape == column
            and batch.observations.shape == batch.next_observations.shape == (column[0], *self._observation_shape)
            and batch.dones.dtype == dtype
            and all(x is None or (x.shape == column and x.dtype == dtype) for x in optional)
        )

    def step(self, batch: ReplayBufferSamples, hyperparameters: Hyperparameters) -> th.Tensor:
        """
        Take one gradient step: critic, actor, targets.

        :param batch: A minibatch that :meth:`accepts` allows; if it has ``weights``, squared TD errors count with them
        :param hyperparameters: Gamma is for a minibatch without discounts of its own
        :return: If it has weights: absolute TD errors, ``[batch, 1]``, averaged over the critics, as they were before
            the step. The next one overwrites them
        """
        computation = self._prepare(len(batch.rewards))
        computation.step(batch, hyperparameters)
        self._finish(n_steps=1)
        return computation.td_errors

    def steps_on_rows(self, rows: Rows, n_steps: int, batch_size: int, hyperparameters: Hyperparameters) -> None:
        """
        Take gradient steps on minibatches in rows, without splitting them into separate tensors first.

        :param rows: Samples the minibatches
        :param n_steps: Number of gradient steps
        :param batch_size: Transitions in each minibatch
        :param hyperparameters: Gamma is for minibatches without discounts of their own
        """
        while n_steps > 0:
            n = min(n_steps, _STEPS_BETWEEN_CHECKS)
            computation = self._prepare(batch_size)
            if isinstance(computation, Kernel) and (drawn_from := rows.rows_to_draw()) is not None:
                computation.draw_and_step(*drawn_from, n, hyperparameters)
            else:
                n = 1
                minibatch = computation.rows
                computation.step_on_rows(minibatch, rows.sample_rows(minibatch), hyperparameters)
            self._finish(n)
            n_steps -= n

    def _prepare(self, batch_size: int) -> ClosedForm | Kernel:
        if not self._attached:
            self._actor_adam.attach(self._actor_optimizer)
            self._critic_adam.attach(self._critic_optimizer)
            self._attached = True
            # Adam's own count, which a checkpoint has: a resumed run removes moments at the same steps
            self._n_steps = int(self._steps[0])
        computation = self._computation
        if batch_size != computation.batch_size:
            computation.allocate(batch_size)
        self._memory.copy_in()
        return computation

    def _finish(self, n_steps: int) -> None:
        self._memory.copy_out()
        self._memory.show_gradients()
        n_checks = self._n_steps // _STEPS_BETWEEN_CHECKS
        self._n_steps += n_steps
        if self._n_steps // _STEPS_BETWEEN_CHECKS > n_checks:
            th.hardshrink(self._means, _NEGLIGIBLE, out=self._means)
            self._squares.clamp_min_(_NEGLIGIBLE)


def _for_a_copy(policy: TD3Policy) -> FusedUpdate | None:
    """:return: A new object for a copied policy, or None if the closed form is not possible for it any more"""
    return FusedUpdate(policy) if why_not(policy) is None else None
