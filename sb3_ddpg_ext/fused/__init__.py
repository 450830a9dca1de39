"""
One gradient step of DDPG in closed form, without autograd and without memory allocation, for plain MLPs.

An MLP's layers are linear, each with a LayerNorm and an activation or without. There may be several critics.

The gradients of :mod:`sb3_ddpg_ext.equations` are written out by the chain rule. There are two ways to compute them:
``kernel`` calls C code of our own (``kernel.c``), ``closed_form`` calls PyTorch's kernels where ours is not there.
Start reading at ``closed_form``. ``update`` has what is around the step, ``layers`` the forward and backward passes,
``adam`` the optimizer and ``memory`` the parameters' layout. ``applicability`` decides whether all this computes the
same as autograd.
"""

from sb3_ddpg_ext.fused.applicability import why_not
from sb3_ddpg_ext.fused.hyperparameters import Hyperparameters
from sb3_ddpg_ext.fused.update import FusedUpdate

__all__ = ["FusedUpdate", "Hyperparameters", "why_not"]
