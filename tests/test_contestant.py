"""What a contestant computes; that it answers is tested with the benchmark."""

import pytest
import torch as th

from sb3_ddpg_ext.benchmark import contestant


def test_the_floor_has_the_products_of_an_update(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: 3 numbers observed, 2 of an action, one hidden layer of 5, minibatches of 7."""
    shapes = []
    original = th.mm
    monkeypatch.setattr(th, "mm", lambda a, b, out: shapes.append((*a.shape, b.shape[1])) or original(a, b, out=out))
    contestant.make_matrix_products(n_observations=3, n_actions=2, net_arch=[5], batch_size=7)()
    forward = 2 * [(7, 3, 5), (7, 5, 2)] + 3 * [(7, 5, 5), (7, 5, 1)]
    critic = [(5, 7, 5), (1, 7, 5), (7, 1, 5)]
    through_the_critic = [(7, 1, 5), (7, 5, 2)]
    actor = [(5, 7, 3), (2, 7, 5), (7, 2, 5)]
    assert sorted(shapes) == sorted(forward + critic + through_the_critic + actor)


@pytest.mark.parametrize("algorithm", ["stable_baselines3:DDPG", "sb3_ddpg_ext:CustomDDPG"])
def test_all_do_one_gradient_step_for_each_transition(algorithm: str) -> None:
    model, n_actions = contestant.make_model(algorithm, "Pendulum-v1", [8], batch_size=8, n_envs=2)
    assert n_actions == 1
    assert model._n_updates == model.num_timesteps == 200


def test_collecting_trains_nothing_and_updating_collects_nothing() -> None:
    spec = {"algorithm": "sb3_ddpg_ext:CustomDDPG", "env": "Pendulum-v1", "net_arch": [8], "batch_size": 8, "n_envs": 1}
    made = []
    original = contestant.make_model
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contestant, "make_model", lambda *args: made.append(original(*args)) or made[0])
        functions = contestant.make_measures(spec)
    ((model, _),) = made

    def counts() -> tuple[int, int]:
        return model.num_timesteps, model._n_updates

    steps, updates = counts()
    functions["collect"](10)
    assert counts() == (steps + 10, updates)
    functions["update"](10)
    assert counts() == (steps + 10, updates + 10)
    functions["learn"](10)
    assert counts() == (steps + 20, updates + 20)
    functions["gemm"](10)
    assert counts() == (steps + 20, updates + 20)
