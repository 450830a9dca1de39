"""
Decides when ``CustomDDPG`` may take a shortcut: gradient steps and actions in closed form, transitions stored in rows,
no gradients for weights that need none.
"""

from typing import Any, Literal, Protocol

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.vec_env import VecNormalize
from stable_baselines3.td3.policies import Actor, TD3Policy
from torch import nn

from sb3_ddpg_ext.buffers import RowNStepReplayBuffer, RowReplayBuffer
from sb3_ddpg_ext.fused import FusedUpdate, why_not


class Model(Protocol):
    """The attributes of ``CustomDDPG`` that decide about shortcuts."""

    fused: bool | Literal["auto"]
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    optimize_memory_usage: bool
    n_steps: int
    replay_buffer_kwargs: dict[str, Any]
    replay_buffer: ReplayBuffer | None
    _vec_normalize_env: VecNormalize | None
    policy: TD3Policy
    actor: Actor
    actor_target: Actor
    critic: ContinuousCritic
    critic_target: ContinuousCritic


class FastPath:
    """The closed form of one model, checked before every use, because users may change anything in the meantime."""

    def __init__(self) -> None:
        self.update: FusedUpdate | None = None
        """The closed form, as it was used last"""
        self.why_autograd: str | None = None
        """What :func:`why_autograd` returned the last time: None if the closed form is in use, else the reason"""

    def set_up(self, model: Model) -> None:
        """
        Use the closed form for a new model, if that is possible.

        :param model: A model to whose parameters nobody has a reference yet
        :raises ValueError: If it is not possible, but the model has ``fused=True``
        """
        self.why_autograd = why_autograd(model)
        if self.why_autograd is None:
            self.update = FusedUpdate(model.policy)

    def get(self, model: Model, to_train: bool) -> FusedUpdate | None:
        """
        :param model: The model, with all changes that a user has made up to now
        :param to_train: False if only actions are computed, which do not depend on the optimizers
        :return: What computes its gradient steps and actions in closed form; None if autograd has to
        :raises ValueError: If autograd has to, but the model has ``fused=True``
        """
        update = self.update
        if (
            update is not None
            and self.why_autograd is None
            and model.fused is not False
            and update.policy is model.policy
            and _trains_its_policy(model)
            and (update.can_step() if to_train else update.can_act())
        ):
            return update
        # Something has changed, or autograd was in use: check everything
        self.why_autograd = why_autograd(model)
        if self.why_autograd is not None:
            return None
        if update is None or not update.serves(model.policy):
            self.update = FusedUpdate(model.policy, take_over=False)
        else:
            update.bind()
        return self.update


def why_autograd(model: Model) -> str | None:
    """
    :param model: The model
    :return: None if its gradient steps can be computed in closed form, else the reason why not
    :raises ValueError: If there is a reason, but the model has ``fused=True``
    """
    if model.fused is False:
        return "fused=False"
    device = model.policy.device.type
    if model.fused == "auto" and device != "cpu":
        return f"the closed form has not been measured on {device}; fused=True uses it all the same"
    if _trains_its_policy(model):
        reason = why_not(model.policy)
    else:
        reason = "model.actor, model.critic or a target is not the policy's"
    if model.fused is True and reason is not None:
        raise ValueError(f"fused=True is not possible here: {reason}. fused='auto' uses autograd instead")
    return reason


def _trains_its_policy(model: Model) -> bool:
    networks = model.policy._modules
    return (
        model.actor is networks.get("actor")
        and model.critic is networks.get("critic")
        and model.actor_target is networks.get("actor_target")
        and model.critic_target is networks.get("critic_target")
    )


def shares_observations(model: Model) -> bool:
    """
    :param model: The model
    :return: Whether its transitions are to be stored in a :class:`CompactReplayBuffer`. What SB3 has instead takes
        timeouts for terminations; users who ask for that get it
    :raises ValueError: If ``optimize_memory_usage`` is not possible
    """
    if not model.optimize_memory_usage:
        return False
    if model.n_steps > 1 or isinstance(model.observation_space, spaces.Dict):
        what = f"n-step returns (n_steps={model.n_steps})" if model.n_steps > 1 else "Dict observations"
        raise ValueError(f"optimize_memory_usage=True is not possible with {what}; leave it out")
    handles_timeouts: bool = model.replay_buffer_kwargs.get("handle_timeout_termination", True)
    return handles_timeouts


def why_no_rows(model: Model) -> str | None:
    """
    :param model: The model
    :return: None if its transitions can be stored in a :class:`RowReplayBuffer`, else the reason why not
    """
    if model.fused is False:
        return "fused=False"
    if model.optimize_memory_usage:
        return "optimize_memory_usage=True"
    normalize = model._vec_normalize_env
    if normalize is not None and normalize.norm_obs and model.observation_space.dtype == np.float64:
        return "VecNormalize normalises float64 observations, which rows would round to float32 before that"
    return RowReplayBuffer.why_not(model.observation_space, model.action_space)


def plain_rows(model: Model) -> RowReplayBuffer | None:
    """
    :param model: The model
    :return: Its replay buffer, if sampling from it does nothing but copy rows; else None
    """
    buffer = model.replay_buffer
    if (
        isinstance(buffer, RowReplayBuffer)
        and type(buffer) in (RowReplayBuffer, RowNStepReplayBuffer)
        and model._vec_normalize_env is None
        and buffer.arrays_are_views()
        and "sample" not in vars(buffer)
        and "_get_samples" not in vars(buffer)
    ):
        return buffer
    return None


def weights_trained_by_actor_loss(actor: Actor, critic: ContinuousCritic) -> list[nn.Parameter] | None:
    """
    Find out which weights need a gradient in the actor's step: only the actor's. SB3 computes the critic's gradients,
    too, and throws them away.

    :param actor: The actor
    :param critic: The critic
    :return: The actor's weights; None (for all weights) if a hook or an optimizer could use the critic's gradients
    """
    params = [param for param in actor.parameters() if param.requires_grad]
    critic_params, optimizer = list(critic.parameters()), critic.optimizer
    in_actor_optimizer = {id(param) for group in actor.optimizer.param_groups for param in group["params"]}
    could_be_used = (
        any(param._backward_hooks or param._post_accumulate_grad_hooks for param in critic_params)
        or not in_actor_optimizer.isdisjoint({*map(id, critic_params)} - {*map(id, params)})
        or bool(actor.optimizer._optimizer_step_pre_hooks)
        or type(optimizer).zero_grad is not th.optim.Optimizer.zero_grad
        or "zero_grad" in vars(optimizer)
    )
    return None if could_be_used or not params else params
