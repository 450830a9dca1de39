"""PyTorch's Adam or AdamW on one flat vector. The state of the user's optimizer stays where users look for it."""

import torch as th
from torch import nn
from torch.utils.dlpack import from_dlpack

from sb3_ddpg_ext.fused.identity import Watch

STATE_KEYS = ("step", "exp_avg", "exp_avg_sq")
"""What Adam and AdamW store for each parameter."""


def own_storage(view: th.Tensor) -> th.Tensor:
    """
    Make an independent tensor that shares its memory with a view. A view itself would be pickled together with all of
    the tensor that it is a part of.

    :param view: A contiguous part of a tensor
    :return: A tensor on the same memory, with a storage of its own
    """
    with th.inference_mode(False):  # users may modify it
        return from_dlpack(view)


class FlatAdam:
    """
    Adam or AdamW for all parameters of one optimizer at once, which lie one after the other.

    :param params: The parameters, in the optimizer's order
    :param slices: The range of each of them in the n numbers
    :param flat: ``[n]``, these and other parameters
    :param grads: ``[n]``, their gradients
    :param moments: ``[2, n]``, zeros: memory for the running means of the gradients and of their squares
    :param steps: ``[len(params)]``: the number of steps, once for each parameter. The caller increments it
    """

    def __init__(
        self,
        params: list[nn.Parameter],
        slices: list[slice],
        flat: th.Tensor,
        grads: th.Tensor,
        moments: th.Tensor,
        steps: th.Tensor,
    ) -> None:
        means, squares = moments
        self.range = own = slice(slices[0].start, slices[-1].stop)
        """Where in the n numbers this optimizer's are"""
        self.means, self.squares, self.step_counts = means[own], squares[own], steps
        self._params = params
        # Lists of one tensor each, as PyTorch's kernel expects them
        self._flat, self._grads, self._means, self._squares, self._step = (
            [flat[own]],
            [grads[own]],
            [self.means],
            [self.squares],
            [steps[0]],
        )
        self._views = [
            {"step": step, "exp_avg": means[slice_].view(param.shape), "exp_avg_sq": squares[slice_].view(param.shape)}
            for param, slice_, step in zip(params, slices, steps, strict=True)
        ]
        # A CUDA graph would record a Python number as a constant, so there the learning rate is a tensor
        self._lr = th.zeros((), dtype=th.float32, device=flat.device) if flat.is_cuda else None

    def attach(self, optimizer: th.optim.Optimizer) -> None:
        """
        Take over an optimizer's state, and work for this optimizer from now on.

        :param optimizer: Adam or AdamW with these parameters in one group. Its hyperparameters are read at every step.
            Its state is replaced by tensors on our memory, so that it stays up to date
        """
        self._group = optimizer.param_groups[0]
        for param, views in zip(self._params, self._views, strict=True):
            state = optimizer.state[param]  # changed in place, since a user's `state_dict()` may refer to it
            for key, view in views.items():
                value = state.get(key)
                if value is None:  # before the first step, or after `optimizer.state.clear()`
                    view.zero_()
                elif value.data_ptr() != view.data_ptr():
                    view.copy_(value)
                else:
                    continue
                state[key] = own_storage(view)
        self._state = optimizer.state
        self._watch = Watch(dicts=[self._state, *self._state.values()])

    def is_attached(self, optimizer: th.optim.Optimizer) -> bool:
        """:return: Whether the optimizer still holds the state that :meth:`attach` gave it"""
        return optimizer.state is self._state and bool(self._watch.is_current())

    @property
    def constants(self) -> tuple[float, ...]:
        """All hyperparameters except for the learning rate: betas, eps, weight decay, whether that is decoupled"""
        group = self._group
        beta1, beta2 = map(float, group["betas"])
        return beta1, beta2, float(group["eps"]), float(group["weight_decay"]), bool(group["decoupled_weight_decay"])

    @property
    def learning_rate(self) -> float:
        """The optimizer's learning rate"""
        return float(self._group["lr"])

    def step(self, max_grad_norm: float | None) -> None:
        """
        Take one step. In a CUDA graph, only :attr:`constants` and the norm cannot change afterwards.

        :param max_grad_norm: Norm to which the gradient is shortened before, as PyTorch's ``clip_grad_norm_`` does it;
            None for any
        """
        if max_grad_norm is not None:
            (grads,) = self._grads
            grads.mul_((max_grad_norm / (th.linalg.vector_norm(grads) + 1e-6)).clamp_(max=1))
        beta1, beta2, eps, weight_decay, decoupled = self.constants
        step = th._fused_adamw_ if decoupled else th._fused_adam_
        step(
            self._flat,
            self._grads,
            self._means,
            self._squares,
            [],
            self._step,
            lr=self.learning_rate if self._lr is None else self._lr,
            beta1=beta1,
            beta2=beta2,
            weight_decay=weight_decay,
            eps=eps,
            amsgrad=False,
            maximize=False,
        )

    def update_learning_rate(self) -> None:
        """Copy the optimizer's learning rate, which schedules change, to the tensor that a CUDA graph reads."""
        if self._lr is not None:
            self._lr.fill_(self.learning_rate)
