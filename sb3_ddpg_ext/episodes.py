"""Episodes that are played with a model to know how good it is. All algorithms and runs are given the same ones."""

from typing import Any

import numpy as np
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_ddpg_ext.errors import NonFiniteError
from sb3_ddpg_ext.results.records import Score


def score(model: OffPolicyAlgorithm, env: VecEnv, episodes: int, seed: int, **kwargs: Any) -> Score:
    """
    Play episodes.

    :param model: Its policy acts, deterministically unless ``kwargs`` say otherwise
    :param env: Where; VecNormalize must not be in training
    :param episodes: How many, over all environments of ``env``
    :param seed: Seed of the first environment, the others' follow
    :param kwargs: Further arguments of SB3's ``evaluate_policy``
    :return: Returns and lengths of the episodes
    :raises NonFiniteError: If a return is NaN or infinite
    """
    env.seed(seed)
    returns, lengths = evaluate_policy(model, env, episodes, return_episode_rewards=True, **kwargs)
    check_returns(returns, "An episode of the evaluation")
    return Score(np.array(returns, dtype=np.float64), np.array(lengths), seed)


def check_returns(returns: Any, what: str) -> None:
    """
    :param returns: Returns of episodes
    :param what: What the error calls one of them
    :raises NonFiniteError: If one is NaN or infinite
    """
    bad = np.ravel(returns)[~np.isfinite(np.ravel(returns))]
    if bad.size:
        raise NonFiniteError(
            f"{what} has the return {bad[0]}: rewards must be finite; if they are, the weights have diverged, and a "
            "lower learning_rate may help."
        )
