"""A policy with LayerNorm, which SB3's policies do not have."""

from typing import Any, cast

from torch import nn

from sb3_ddpg_ext import MlpPolicy


def insert_layer_norm(net: nn.Sequential) -> None:
    """Behind every linear layer but the last, and not as it is at first, when it multiplies by 1 and adds 0."""
    *hidden, _ = (i for i, layer in enumerate(net) if isinstance(layer, nn.Linear))
    for i in reversed(hidden):
        norm = nn.LayerNorm(net[i].out_features, eps=0.1)  # rounding errors are divided by its root
        nn.init.normal_(norm.weight, 1, 0.3)
        nn.init.normal_(norm.bias, 0, 0.3)
        net.insert(i + 1, norm)


class NormalizedPolicy(MlpPolicy):
    """Linear, LayerNorm, ReLU, Linear, LayerNorm, ReLU, Linear"""

    def make_actor(self, features_extractor: Any = None) -> Any:
        actor = super().make_actor(features_extractor)
        insert_layer_norm(actor.mu)
        return actor

    def make_critic(self, features_extractor: Any = None) -> Any:
        critic = super().make_critic(features_extractor)
        for q_network in critic.q_networks:
            insert_layer_norm(cast(nn.Sequential, q_network))
        return critic
