"""Seeds that all runs have in common, and how models are evaluated: all are given the same episodes."""

EVAL_SEED = 1_000_000
"""Seed of the evaluations during training."""
FINAL_SEED = 2_000_000
"""Seed of the final score: other episodes than those that chose the best model."""
LOOK_SEED = 3_000_000
"""Seed of the reset and the step before training, which are no part of any run."""
EVAL_ENVS = 5
"""Environments of an evaluation, played side by side, so that the policy acts for all of them in one call."""
EVAL_MAX_STEPS = 10_000
"""Where episodes of an evaluation are ended: far beyond those of the usual environments, of 1,600 steps at most."""
