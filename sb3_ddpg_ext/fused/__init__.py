"""
One gradient step of DDPG in closed form, without autograd and without allocation, for plain MLPs.

The gradients of :mod:`sb3_ddpg_ext.equations` are written out by the chain rule. ``applicability`` decides whether that
computes what autograd would, and ``update`` has the step itself.
"""

from sb3_ddpg_ext.fused.applicability import why_not
from sb3_ddpg_ext.fused.update import FusedUpdate

__all__ = ["FusedUpdate", "why_not"]
