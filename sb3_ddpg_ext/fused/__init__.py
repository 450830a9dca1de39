"""
One gradient step of DDPG in closed form, without autograd and without memory allocation, for plain MLPs.

The gradients of :mod:`sb3_ddpg_ext.equations` are written out by the chain rule. Start reading at ``update``, which has
the step itself. ``layers`` has the forward and backward passes, ``adam`` the optimizer and ``memory`` the parameters'
layout. ``applicability`` decides whether all this computes the same as autograd would.
"""

from sb3_ddpg_ext.fused.applicability import why_not
from sb3_ddpg_ext.fused.update import FusedUpdate

__all__ = ["FusedUpdate", "why_not"]
