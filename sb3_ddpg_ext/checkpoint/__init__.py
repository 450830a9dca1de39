"""
Exact resume: a checkpoint holds everything that the rest of a run depends on, so that a run which goes on from it ends
with the same bits as one that was never interrupted.
"""

from sb3_ddpg_ext.checkpoint.callback import ResumableCheckpointCallback
from sb3_ddpg_ext.checkpoint.model_state import Resumption
from sb3_ddpg_ext.checkpoint.recorder import record_episodes
from sb3_ddpg_ext.checkpoint.saving import resume, save_checkpoint
from sb3_ddpg_ext.checkpoint.store import CheckpointError, InexactResumeWarning, has_checkpoints

__all__ = [
    "CheckpointError",
    "InexactResumeWarning",
    "ResumableCheckpointCallback",
    "Resumption",
    "has_checkpoints",
    "record_episodes",
    "resume",
    "save_checkpoint",
]
