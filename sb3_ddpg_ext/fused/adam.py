"""PyTorch's Adam on one flat vector, on behalf of an optimizer whose state stays where its owner looks for it."""

from itertools import chain
from operator import is_

import torch as th
from torch import nn
from torch.utils.dlpack import from_dlpack

STATE = ("step", "exp_avg", "exp_avg_sq")
"""What Adam keeps of each parameter."""


def own_storage(view: th.Tensor) -> th.Tensor:
    """
    :param view: A contiguous part of a tensor
    :return: The same memory as a tensor that knows of no more than itself: a view is pickled with all that it is a
        view of
    """
    with th.inference_mode(False):  # it is for users, whose optimizers may write to it
        return from_dlpack(view)


class FlatAdam:
    """
    Adam for the parameters of one network, which lie in one vector.

    :param params: The parameters, in the optimizer's order
    :param places: Where each of them lies in the vector
    :param flat: ``[n]``, the parameters
    :param grads: ``[n]``, their gradients
    :param moments: ``[2, n]``, zeros: for the running means of the gradients and of their squares
    :param steps: ``[parameters]``: for each the number of steps, which the caller counts
    """

    def __init__(
        self,
        params: list[nn.Parameter],
        places: list[slice],
        flat: th.Tensor,
        grads: th.Tensor,
        moments: th.Tensor,
        steps: th.Tensor,
    ) -> None:
        means, squares = moments
        self._params = params
        self._flat, self._grads, self._means, self._squares, self._step = (
            [flat],
            [grads],
            [means],
            [squares],
            [steps[0]],
        )
        self._views = [
            {"step": step, "exp_avg": means[place].view(param.shape), "exp_avg_sq": squares[place].view(param.shape)}
            for param, place, step in zip(params, places, steps, strict=True)
        ]
        # A recording for a CUDA device keeps plain numbers as they were, so there it is a tensor
        self._lr = th.zeros((), dtype=th.float32, device=flat.device) if flat.is_cuda else None

    def attach(self, optimizer: th.optim.Optimizer) -> None:
        """
        Work for an optimizer, with the state that it has.

        :param optimizer: Adam with these parameters in one group. It owns the hyperparameters, which count as they are
            at each step, and the state, which is kept up to date in our memory
        """
        self._group = optimizer.param_groups[0]
        for param, views in zip(self._params, self._views, strict=True):
            state = optimizer.state[param]  # changed in place: a `state_dict()` that somebody holds refers to it
            for name, view in views.items():
                theirs = state.get(name)
                if theirs is None:  # as before the first step, and after `optimizer.state.clear()`
                    view.zero_()
                elif theirs.data_ptr() != view.data_ptr():
                    view.copy_(theirs)
                else:
                    continue
                state[name] = own_storage(view)
        self._states = list(optimizer.state.values())
        self._in_order = [tensor for state in self._states for tensor in state.values()]

    def is_attached(self, optimizer: th.optim.Optimizer) -> bool:
        """:return: Whether the optimizer's state still is in our memory, where :meth:`attach` put it"""
        states = optimizer.state.values()
        return (
            len(states) == len(self._states)
            and all(map(is_, states, self._states))
            and all(map(is_, chain.from_iterable(map(dict.values, self._states)), self._in_order))
        )

    @property
    def constants(self) -> tuple[float, ...]:
        """Hyperparameters other than the learning rate: betas, weight decay, eps"""
        group = self._group
        beta1, beta2 = group["betas"]
        return float(beta1), float(beta2), float(group["weight_decay"]), float(group["eps"])

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
            lr=float(self._group["lr"]) if self._lr is None else self._lr,
            beta1=beta1,
            beta2=beta2,
            weight_decay=weight_decay,
            eps=eps,
            amsgrad=False,
            maximize=False,
        )

    def update_learning_rate(self) -> None:
        """For a recording: take over the optimizer's learning rate, which schedules change."""
        if self._lr is not None:
            self._lr.fill_(float(self._group["lr"]))
