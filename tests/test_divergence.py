"""Training that diverges ends with one error, and leaves the last finite weights."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3 import DDPG
from stable_baselines3.common.callbacks import BaseCallback

from sb3_ddpg_ext import CustomDDPG
from sb3_ddpg_ext.arguments import TrainArgs
from sb3_ddpg_ext.errors import NonFiniteError
from sb3_ddpg_ext.training import train

SMALL: dict[str, Any] = {
    "learning_starts": 20,
    "batch_size": 8,
    "buffer_size": 500,
    "policy_kwargs": {"net_arch": [8]},
    "seed": 0,
}
both_paths = pytest.mark.parametrize("fused", ["auto", False])


def weights(model: CustomDDPG) -> dict[str, th.Tensor]:
    return {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}


def is_finite(model: CustomDDPG) -> bool:
    moments = [
        value
        for optimizer in (model.actor.optimizer, model.critic.optimizer)
        for state in optimizer.state.values()
        for value in state.values()
    ]
    return all(bool(th.isfinite(tensor).all()) for tensor in [*weights(model).values(), *moments])


class Poison(BaseCallback):
    """Put a NaN into a weight at one step, and remember what the weights were at another one."""

    def __init__(self, network: str, at: int, remember_at: int = -1) -> None:
        super().__init__()
        self.network, self.at, self.remember_at = network, at, remember_at
        self.remembered: dict[str, th.Tensor] = {}

    def _on_step(self) -> bool:
        if self.num_timesteps == self.remember_at:
            self.remembered = weights(self.model)  # type: ignore[arg-type]
        if self.num_timesteps == self.at:
            with th.no_grad():
                next(getattr(self.model, self.network).parameters()).view(-1)[0] = np.nan
        return True


@both_paths
def test_a_learning_rate_that_is_too_high(fused: Any) -> None:
    model = CustomDDPG("MlpPolicy", "Pendulum-v1", learning_rate=1e30, fused=fused, **SMALL)
    message = r"^The .* at step \d+ is .*: .*learning_rate may help.* The model has its weights of step \d+ again\.$"
    with pytest.raises(NonFiniteError, match=message):
        model.learn(100)
    assert is_finite(model)
    model.learning_rate = 1e-3
    model._setup_lr_schedule()
    assert is_finite(model.learn(100))


@both_paths
@pytest.mark.parametrize(("network", "named"), [("actor", "actor"), ("critic", "critic"), ("critic_target", "critic")])
def test_the_model_gets_its_last_finite_weights(fused: Any, network: str, named: str) -> None:
    """They are copied before the first update (at step 21) and then 1,000 updates later."""
    model = CustomDDPG("MlpPolicy", "Pendulum-v1", fused=fused, **SMALL)
    poison = Poison(network, at=1500, remember_at=1021)
    with pytest.raises(NonFiniteError) as raised:
        model.learn(2000, callback=poison)
    assert f"The {named}'s loss at step 1500 is nan" in str(raised.value) or "action at step 1500" in str(raised.value)
    assert str(raised.value).endswith("The model has its weights of step 1021 again.")
    now = weights(model)
    assert all(bool((tensor == now[name]).all()) for name, tensor in poison.remembered.items())
    assert is_finite(model)


@both_paths
@pytest.mark.parametrize("network", ["actor", "critic", "actor_target", "critic_target"])
def test_weights_are_looked_at_when_training_ends(fused: Any, network: str) -> None:
    model = CustomDDPG("MlpPolicy", "Pendulum-v1", fused=fused, **{**SMALL, "learning_starts": 50})
    with pytest.raises(NonFiniteError, match=rf"^The weights {network}\.\S+ are not finite at step 40: "):
        model.learn(40, callback=Poison(network, at=40))
    assert not is_finite(model)  # nothing was trained, so there is no copy


@both_paths
def test_weights_of_an_earlier_call_are_not_given_back(fused: Any) -> None:
    """Somebody may have put others in their place since then."""
    model = CustomDDPG("MlpPolicy", "Pendulum-v1", fused=fused, **SMALL).learn(60)
    with pytest.raises(NonFiniteError, match=r"not finite at step 10: [^.]*\. [^.]*\)\.$"):
        model.learn(10, callback=Poison("critic", at=10))
    assert not is_finite(model)


@both_paths
def test_rewards_whose_squares_overflow(fused: Any) -> None:
    class Large(gym.RewardWrapper):
        def reward(self, reward: Any) -> float:
            return float(reward) * 1e30

    model = CustomDDPG("MlpPolicy", Large(gym.make("Pendulum-v1")), fused=fused, **SMALL)
    with pytest.raises(NonFiniteError, match=r"^The critic's loss at step 21 is inf: "):
        model.learn(100)
    assert is_finite(model)


@both_paths
def test_finite_weights_stay_as_they_are(fused: Any) -> None:
    class Broken(gym.RewardWrapper):
        n = 0

        def reward(self, reward: Any) -> float:
            self.n += 1
            return np.nan if self.n == 60 else float(reward)

    model = CustomDDPG("MlpPolicy", Broken(gym.make("Pendulum-v1")), fused=fused, **SMALL)
    with pytest.raises(NonFiniteError, match=r"VecCheckNan helps to find the cause\)\.$"):
        model.learn(100)
    assert model._n_updates == 39
    assert is_finite(model)


@pytest.mark.filterwarnings("ignore:`n_steps=3` is ignored")  # by SB3
def test_the_command_saves_finite_weights(tmp_path: Path) -> None:
    params = tuple(f"{k}={v}" for k, v in SMALL.items() if k not in ("seed", "policy_kwargs"))
    args = TrainArgs("Pendulum-v1", steps=200, params=(*params, "learning_rate=1e30"), log_dir=tmp_path, quiet=True)
    with pytest.raises(NonFiniteError, match="The model has its weights of step"):
        train(args)
    file = tmp_path / "custom_ddpg" / "Pendulum-v1_1" / "Pendulum-v1.zip"
    model: Any = DDPG.load(file)  # CustomDDPG refuses such a learning rate
    assert is_finite(model)
