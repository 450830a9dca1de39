"""
What a run logs, in a tool that tracks experiments: ``sb3-ddpg train --track``.

``callback``  sends what SB3's logger logs, and goes on without it if that fails
``tracker``   what a tool has to do
``wandb``, ``mlflow``, ``trackio``  one tool each
"""

from sb3_ddpg_ext.tracking.callback import Tracking, check_tracker

__all__ = ["Tracking", "check_tracker"]
