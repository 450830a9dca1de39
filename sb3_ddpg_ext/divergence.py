"""
Training that diverges: the weights are looked at now and then, and a copy of the last finite ones is kept.

Losses are looked at after each update. Weights are not, for that would cost as much as a small update: whatever is not
finite there makes the next loss, or the next action, NaN.
"""

import math
from typing import Any, Protocol

import torch as th
from stable_baselines3.td3.policies import TD3Policy

from sb3_ddpg_ext.errors import NonFiniteError

_UPDATES_BETWEEN_COPIES = 1_000
State = tuple[dict[str, Any], dict[str, Any], dict[str, Any]]  # of the policy, and of both optimizers
_REMEDY = (
    "training has diverged. A lower learning_rate may help, or smaller rewards and observations (normalize: true, "
    "VecNormalize)"
)


class Model(Protocol):
    """The attributes of ``CustomDDPG`` that can diverge."""

    policy: TD3Policy
    num_timesteps: int
    _n_updates: int


def check_losses(actor_loss: float, critic_loss: float, step: int) -> None:
    """
    :param actor_loss: The actor's loss
    :param critic_loss: The critic's loss
    :param step: Number of environment steps up to now
    :raises NonFiniteError: If one is NaN or infinite
    """
    if math.isfinite(actor_loss) and math.isfinite(critic_loss):
        return
    name, loss = ("actor", actor_loss) if math.isfinite(critic_loss) else ("critic", critic_loss)
    raise NonFiniteError(f"The {name}'s loss at step {step} is {loss}: {_REMEDY}.")


class LastFiniteWeights:
    """A copy of the weights and of the optimizers' state, taken about every 1,000 updates while they are finite."""

    def __init__(self) -> None:
        self._copy: State = ({}, {}, {})  # its memory is used again and again
        self._is_valid = False
        self._step = self._updates = 0

    def forget(self) -> None:
        """Other weights may be trained from now on."""
        self._is_valid = False

    def keep(self, model: Model) -> None:
        """
        Check the weights and copy them, if that has not been done for some time.

        :param model: The model, before an update
        :raises NonFiniteError: If a weight is NaN or infinite
        """
        if self._is_valid and 0 <= model._n_updates - self._updates < _UPDATES_BETWEEN_COPIES:
            return
        check_weights(model)
        state = _state(model)
        if not self._is_valid or _is_finite(state[1:]):  # Adam's squares can overflow before the weights do
            self._copy = _copied(state, self._copy)
            self._is_valid, self._step, self._updates = True, model.num_timesteps, model._n_updates

    def restore(self, model: Model) -> int | None:
        """
        Replace weights that are not finite by the copy.

        :param model: The model, after an error
        :return: The environment step that the copy was taken at; None if the model keeps its weights
        """
        if not self._is_valid or _is_finite(_state(model)):
            return None
        weights, actor_optimizer, critic_optimizer = _copied(self._copy)  # an optimizer keeps what it is given
        model.policy.load_state_dict(weights)
        model.policy.actor.optimizer.load_state_dict(actor_optimizer)
        model.policy.critic.optimizer.load_state_dict(critic_optimizer)
        return self._step


def check_weights(model: Model) -> None:
    """
    :param model: The model
    :raises NonFiniteError: If a weight is NaN or infinite
    """
    for name, tensor in model.policy.state_dict().items():
        if not _is_finite(tensor):
            raise NonFiniteError(f"The weights {name} are not finite at step {model.num_timesteps}: {_REMEDY}.")


def _state(model: Model) -> State:
    policy = model.policy
    return policy.state_dict(), policy.actor.optimizer.state_dict(), policy.critic.optimizer.state_dict()


def _copied(value: Any, into: Any = None) -> Any:
    """
    :param value: Tensors, also such as are views of one, in dicts, lists and tuples
    :param into: An earlier copy, whose tensors are written to where they have the same form: a process from which
        memory is taken and given back all the time grows
    :return: The copy, in which each tensor has memory of its own
    """
    if isinstance(value, th.Tensor):
        if isinstance(into, th.Tensor) and _form(into) == _form(value):
            return into.copy_(value.detach())
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _copied(inner, into.get(key) if isinstance(into, dict) else None) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        places = into if isinstance(into, list | tuple) and len(into) == len(value) else [None] * len(value)
        return type(value)(map(_copied, value, places))
    return value


def _form(tensor: th.Tensor) -> tuple[th.Size, th.dtype, th.device]:
    return tensor.shape, tensor.dtype, tensor.device


def _is_finite(value: Any) -> bool:
    if isinstance(value, th.Tensor):
        # A sum is ten times as fast. If it overflows, each number has to be checked
        return not value.is_floating_point() or math.isfinite(value.sum()) or bool(th.isfinite(value).all())
    if isinstance(value, dict):
        return all(map(_is_finite, value.values()))
    return all(map(_is_finite, value)) if isinstance(value, list | tuple) else True
