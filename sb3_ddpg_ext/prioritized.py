"""
Prioritized experience replay (Schaul et al. 2016, https://arxiv.org/abs/1511.05952), its proportional variant:
transitions are sampled in proportion to a power of their last TD error.
"""

from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ddpg_ext.buffers import RowNStepReplayBuffer, RowReplayBuffer

_MAX_BLOCKS = 4096  # searching their cumulative sums takes as long as two or three levels of binary trees
_MAX_CHANGES = 1_000


class SumTree:
    """
    Numbers with their sums over blocks, halves of blocks and so on, to find where their cumulative sum exceeds others.
    Many are searched at once: first in the cumulative sum of up to 4,096 blocks, then down the binary tree of a block.
    Each sum is that of its two halves, whatever was changed before: errors of rounding do not add up, and the same
    numbers have the same sums.

    >>> tree = SumTree(3)
    >>> tree.set(np.array([0, 1, 2]), np.array([2.0, 0.0, 1.0]))
    >>> tree.total()
    3.0
    >>> tree.find(np.array([0.0, 1.9, 2.0, 3.0]))
    array([0, 0, 2, 2])

    :param n_leaves: How many numbers, which are 0 in the beginning
    """

    def __init__(self, n_leaves: int) -> None:
        n_padded = 1 << (n_leaves - 1).bit_length()
        # As in a heap: the children of node i are nodes 2 i and 2 i + 1, and the leaves come last
        self._nodes = np.zeros(2 * n_padded)
        self._first_block, self._first_leaf = min(n_padded, _MAX_BLOCKS), n_padded
        self._bounds = np.zeros(self._first_block + 1)  # sums over all blocks before each one
        self._changed: list[np.ndarray] | None = None  # since the sums were updated; None if all may have changed
        self.leaves = self._nodes[n_padded : n_padded + n_leaves]
        """The numbers, a view. They may be set directly only until the first call of another method"""

    def set(self, indices: np.ndarray, values: np.ndarray | float) -> None:
        """
        Change some numbers. The sums are updated when they are needed.

        :param indices: ``[n]``, from 0
        :param values: ``[n]``, or one for all of them; 0 or more, and finite
        """
        self.leaves[indices] = values
        if self._changed is not None:
            self._changed.append(indices)
            if len(self._changed) > _MAX_CHANGES:
                self._changed = None

    def total(self) -> float:
        """:return: The sum of all numbers"""
        self._update_sums()
        return float(self._bounds[-1])

    def find(self, prefix_sums: np.ndarray) -> np.ndarray:
        """
        Find where the cumulative sum of the numbers exceeds others. A number that is 0 is never found.

        :param prefix_sums: ``[n]``, from 0 to :meth:`total`, which itself is taken as a little less; the total must not
            be 0
        :return: ``[n]``: the index of the first number up to and including which the sum is larger
        """
        self._update_sums()
        prefix_sums = np.minimum(prefix_sums, np.nextafter(self._bounds[-1], 0))
        blocks = self._bounds[1:].searchsorted(prefix_sums, side="right")
        rest = prefix_sums - self._bounds[blocks]
        nodes, children = self._first_block + blocks, self._nodes.reshape(-1, 2)
        for _ in range(self._depth()):
            halves = children.take(nodes, axis=0)  # much faster than children[nodes]
            left, right = halves[:, 0], halves[:, 1]
            # A half without a sum is never entered, also where rounding has left too large a rest
            goes_right = (rest >= left) & (right > 0)
            rest -= left * goes_right
            nodes = 2 * nodes + goes_right
        found: np.ndarray = nodes - self._first_leaf
        return found

    def _depth(self) -> int:
        """:return: Levels of the tree of one block"""
        return (self._first_leaf // self._first_block).bit_length() - 1

    def _update_sums(self) -> None:
        if self._changed == []:
            return
        children = self._nodes.reshape(-1, 2)
        if self._changed is None:
            first = self._first_leaf
            while first > self._first_block:
                first //= 2
                self._nodes[first : 2 * first] = children[first : 2 * first, 0] + children[first : 2 * first, 1]
        else:
            nodes = self._first_leaf + np.concatenate(self._changed)
            for _ in range(self._depth()):
                nodes >>= 1
                halves = children.take(nodes, axis=0)
                self._nodes[nodes] = halves[:, 0] + halves[:, 1]
        np.cumsum(self._nodes[self._first_block : 2 * self._first_block], out=self._bounds[1:])
        self._changed = []


class PrioritizedReplayBufferSamples(NamedTuple):
    """
    SB3's ``ReplayBufferSamples`` with importance weights.

    >>> from sb3_ddpg_ext import CustomDDPG, PrioritizedReplayBuffer
    >>> model = CustomDDPG("MlpPolicy", "Pendulum-v1", replay_buffer_class=PrioritizedReplayBuffer).learn(10)
    >>> samples = model.replay_buffer.sample(4)
    >>> samples.weights.T  # all are new
    tensor([[1., 1., 1., 1.]])
    """

    observations: th.Tensor
    actions: th.Tensor
    next_observations: th.Tensor
    dones: th.Tensor
    rewards: th.Tensor
    discounts: th.Tensor | None
    weights: th.Tensor
    """``[batch, 1]``, at most 1"""
    indices: np.ndarray
    """``[batch]``: which transitions they are, for :meth:`PrioritizedReplayBuffer.update_priorities`"""


class PrioritizedReplayBuffer(RowNStepReplayBuffer):
    """
    A replay buffer that samples transition i with the probability ``P(i) = p_i^alpha / sum_k p_k^alpha``, where the
    priority ``p_i = |TD error| + eps`` is that of the last gradient step with it (Schaul et al. 2016,
    https://arxiv.org/abs/1511.05952, proportional variant). New transitions get the largest priority up to now. The
    minibatch is stratified: one transition from each of as many ranges of equal probability.

    The samples' ``weights`` are ``(N P(i))^-beta``, divided by the largest of the minibatch. ``CustomDDPG`` multiplies
    the critic's squared errors by them, and updates the priorities; an algorithm that does not samples uniformly.

    Transitions are stored in rows, see :class:`RowReplayBuffer`.

    >>> from sb3_ddpg_ext import CustomDDPG, PrioritizedReplayBuffer
    >>> kwargs = {"alpha": 0.6, "beta": 0.4}
    >>> model = CustomDDPG(
    ...     "MlpPolicy", "Pendulum-v1", replay_buffer_class=PrioritizedReplayBuffer, replay_buffer_kwargs=kwargs
    ... )
    >>> model.learn(110).replay_buffer.beta
    1.0

    :param buffer_size: Number of transitions
    :param observation_space: Observation space, a ``Box`` of floats
    :param action_space: Action space, a ``Box`` of floats
    :param device: PyTorch device
    :param n_envs: Number of parallel environments
    :param optimize_memory_usage: Not supported
    :param handle_timeout_termination: As for :class:`ReplayBuffer`
    :param alpha: How much priorities count, from 0 (uniform sampling) to 1
    :param beta: How much the weights make up for the sampling, from 0 (not at all) to 1. A number is the first value,
        from which it grows linearly to 1 at the end of training, as in the paper. An SB3 ``Schedule`` is called with
        the remaining progress (from 1 to 0)
    :param eps: Is added to each TD error, so that all transitions can be sampled
    :param n_steps: Steps of n-step returns, see :class:`RowNStepReplayBuffer`; ``CustomDDPG(n_steps=...)`` sets it
    :param gamma: The discount of n-step returns; ``CustomDDPG(n_steps=..., gamma=...)`` sets it
    :raises ValueError: As for :class:`RowReplayBuffer`; if alpha, beta or eps is out of its range
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: th.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
        *,
        alpha: float = 0.6,
        beta: float | Schedule = 0.4,
        eps: float = 1e-6,
        n_steps: int = 1,
        gamma: float = 0.99,
    ) -> None:
        if optimize_memory_usage:
            raise ValueError("optimize_memory_usage=True is not possible with PrioritizedReplayBuffer; leave it out")
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must be from 0 (uniform sampling) to 1, got {alpha}")
        if not 0 < eps < float("inf"):
            raise ValueError(f"eps must be positive, or transitions with a TD error of 0 are lost; got {eps}")
        super().__init__(
            buffer_size,
            observation_space,
            action_space,
            device,
            n_envs,
            handle_timeout_termination=handle_timeout_termination,
            n_steps=n_steps,
            gamma=gamma,
        )
        self.alpha, self.eps = alpha, eps
        self.beta_schedule: Schedule = beta if callable(beta) else LinearSchedule(beta, 1.0, 1.0)
        self.update_beta(1.0)
        self.max_priority = 1.0
        """The largest priority up to now"""
        self._make_tree()

    def _make_tree(self) -> None:
        self._tree = SumTree(self.buffer_size * self.n_envs)
        self.scaled_priorities = self._tree.leaves.reshape(self.buffer_size, self.n_envs)
        """p^alpha of each transition, 0 where there is none: ``[buffer_size, n_envs]``, float64, to be read only"""

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        del state["_tree"]  # what has to be saved of it are its leaves, the priorities
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._make_tree()
        self.scaled_priorities[:] = state["scaled_priorities"]

    def why_damaged(self) -> str | None:
        """:return: None if the transitions, and they only, have possible priorities; else what is wrong"""
        used, unused = np.split(self.scaled_priorities, [self.size()])
        if not ((used > 0).all() and np.isfinite(used).all()):
            return "a priority is not positive and finite"
        if unused.any():
            return "there is a priority without a transition"
        positive = min(self.eps, self.max_priority) > 0 and max(self.eps, self.max_priority) < float("inf")
        if not (0 <= self.alpha <= 1 and 0 <= self.beta <= 1 and positive):
            return "alpha, beta, eps or the largest priority is out of its range"
        return None

    def update_beta(self, progress_remaining: float) -> None:
        """
        Set ``beta`` to the schedule's value; ``CustomDDPG`` does this before its gradient steps.

        :param progress_remaining: From 1 at the beginning of training to 0 at its end
        :raises ValueError: If the schedule's value is not from 0 to 1
        """
        beta = float(self.beta_schedule(progress_remaining))
        if not 0 <= beta <= 1:
            raise ValueError(f"beta must be from 0 to 1, got {beta} at the remaining progress {progress_remaining:g}")
        self.beta = beta

    def add(
        self,
        obs: np.ndarray,
        next_obs: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """Store one transition of each environment, with the largest priority; see :meth:`RowReplayBuffer.add`."""
        first = self.pos * self.n_envs
        super().add(obs, next_obs, action, reward, done, infos)
        self._tree.set(np.arange(first, first + self.n_envs), self.max_priority**self.alpha)

    def reset(self) -> None:
        """Forget all transitions and priorities."""
        super().reset()
        self.max_priority = 1.0
        self._make_tree()

    def sample(  # type: ignore[override]  # the samples have two more fields
        self, batch_size: int, env: VecNormalize | None = None
    ) -> PrioritizedReplayBufferSamples:
        """
        Draw a minibatch by priority, with NumPy's global generator.

        :param batch_size: Number of transitions
        :param env: VecNormalize, to normalise observations and rewards
        :return: Samples with weights and indices
        :raises ValueError: If there are no transitions, or other arrays have been assigned (``buffer.rewards = ...``)
        """
        total = self._tree.total()
        if total == 0:
            raise ValueError("PrioritizedReplayBuffer has no transitions with a priority; add() gives them one")
        if not self.arrays_are_views():
            raise ValueError(
                "PrioritizedReplayBuffer needs its own arrays; change them in place: buffer.rewards[:] = x"
            )
        uniform = np.random.random(batch_size)  # noqa: NPY002 (SB3's generator)
        indices = self._tree.find((np.arange(batch_size) + uniform) * (total / batch_size))
        samples = self._samples_at(*np.divmod(indices, self.n_envs), env)
        scaled_priorities = self._tree.leaves[indices]
        # (N P(i))^-beta / max: N and the sum of all priorities cancel
        weights = (scaled_priorities / scaled_priorities.min()) ** -self.beta
        weights = th.as_tensor(weights[:, None], dtype=th.float32, device=self.device)
        return PrioritizedReplayBufferSamples(*samples, weights, indices)

    def update_priorities(self, indices: np.ndarray, td_errors: th.Tensor) -> None:
        """
        Set the priorities of transitions that were sampled to ``|TD error| + eps``. A TD error that is not finite
        changes none: training ends with an error then, and the transition need not be lost.

        :param indices: ``[batch]``, from the samples
        :param td_errors: Absolute TD errors, ``[batch, 1]``
        """
        priorities = td_errors.flatten().double().cpu().numpy() + self.eps
        finite = np.isfinite(priorities)
        if not finite.all():
            indices, priorities = indices[finite], priorities[finite]
        self.max_priority = max(self.max_priority, float(priorities.max(initial=0.0)))
        self._tree.set(indices, priorities**self.alpha)

    def _gather(
        self, batch_inds: np.ndarray, env_indices: np.ndarray | int, rows: np.ndarray, env: VecNormalize | None = None
    ) -> np.ndarray | None:
        gather = RowReplayBuffer._gather if self.n_steps == 1 else RowNStepReplayBuffer._gather
        return gather(self, batch_inds, env_indices, rows, env)
