"""The four equations against numbers worked out by hand."""

import pytest
import torch as th
from hypothesis import given
from hypothesis import strategies as st

from sb3_ddpg_ext.equations import actor_loss, critic_loss, smoothing_noise, soft_update, td_errors, td_target


def column(*values: float) -> th.Tensor:
    return th.tensor(values, dtype=th.float64).reshape(-1, 1)


def linear_critic(observations: th.Tensor, actions: th.Tensor) -> tuple[th.Tensor, ...]:
    """Q(s, a) = 3 s + 2 a"""
    return (3 * observations + 2 * actions,)


def test_td_target_by_hand() -> None:
    # mu'(s') = s' / 2, so Q'(s', mu'(s')) = 3 s' + s' = 4 s'
    target = td_target(
        rewards=column(1, -1, 2),
        dones=column(0, 1, 0),
        discounts=0.5,
        next_observations=column(1, 1, -0.5),
        actor_target=lambda s: s / 2,
        critic_target=linear_critic,
    )
    # 1 + 0.5 * 4 = 3; the second has terminated: -1; 2 + 0.5 * -2 = 1
    assert th.equal(target, column(3, -1, 1))


def test_td_target_with_n_step_discounts() -> None:
    target = td_target(
        column(1, 1), column(0, 0), column(0.5, 0.25), column(2, 2), lambda s: 0 * s, lambda s, a: (s + a,)
    )
    assert th.equal(target, column(2, 1.5))


def test_td_target_takes_the_minimum_of_several_critics() -> None:
    target = td_target(column(0, 0), column(0, 0), 1.0, column(1, -1), lambda s: 0 * s, lambda s, a: (s + a, 2 * s + a))
    assert th.equal(target, column(1, -2))


def test_td_target_clips_the_actions_of_an_actor_that_leaves_the_bounds() -> None:
    target = td_target(column(0, 0), column(0, 0), 1.0, column(5, -5), lambda s: s, lambda s, a: (a,))
    assert th.equal(target, column(1, -1))


def test_td_target_with_noise_on_the_actions() -> None:
    noise = column(0.25, 0.25)
    target = td_target(column(0, 0), column(0, 0), 1.0, column(0.5, 0.9), lambda s: s, lambda s, a: (a,), noise)
    assert th.equal(target, column(0.75, 1))  # the second is clipped


def test_smoothing_noise() -> None:
    th.manual_seed(0)
    noise = smoothing_noise(th.zeros(100_000, 2), std=0.2, clip=0.3)
    th.manual_seed(0)
    assert th.equal(noise, (0.2 * th.randn(100_000, 2)).clamp(-0.3, 0.3))
    assert (noise.abs() == 0.3).float().mean() == pytest.approx(0.1336, abs=0.003)  # beyond 1.5 standard deviations


def test_td_target_has_no_gradient() -> None:
    weight = th.ones(1, dtype=th.float64, requires_grad=True)
    target = td_target(column(0), column(0), 1.0, column(1), lambda s: weight * s, lambda s, a: (weight * a,))
    assert not target.requires_grad


def test_critic_loss_with_weights_by_hand() -> None:
    # (1 * (1 - 3)^2 + 1/2 * (5 - 4)^2) / 2 = 2.25, and its gradient 2 w (Q - y) / batch; a second network: 2 / 2
    q = column(1, 5).requires_grad_()
    loss = critic_loss((q, column(3, 6)), column(3, 4), weights=column(1, 0.5))
    assert loss.item() == 2.25 + 1
    loss.backward()
    assert th.equal(q.grad, column(-2, 0.5))
    assert critic_loss((q,), column(3, 4), weights=column(1, 1)) == critic_loss((q,), column(3, 4))


def test_td_errors_by_hand() -> None:
    errors = td_errors((column(1, 5).requires_grad_(), column(4, 5)), column(3, 4))
    assert th.equal(errors, column(1.5, 1))
    assert not errors.requires_grad


def test_critic_loss_by_hand() -> None:
    # ((1 - 3)^2 + (5 - 4)^2) / 2 = 2.5, and its gradient 2 (Q - y) / batch
    q = column(1, 5).requires_grad_()
    loss = critic_loss((q,), column(3, 4))
    assert loss.item() == 2.5
    loss.backward()
    assert th.equal(q.grad, column(-2, 1))


def test_critic_loss_with_a_limit_for_large_errors() -> None:
    # Errors -2 and 0.5: (1 (2 * 2 - 1) + 0.25) / 2, and the gradient 2 / batch times the limited error
    q = column(1, 4.5).requires_grad_()
    loss = critic_loss((q,), column(3, 4), huber_delta=1.0)
    assert loss.item() == pytest.approx(1.625)
    loss.backward()
    assert th.allclose(q.grad, column(-1, 0.5))  # type: ignore[arg-type]
    assert critic_loss((q,), column(3, 4), 1.0, weights=column(0, 0.5)).item() == pytest.approx(0.5 * 0.25 / 2)


def test_critic_loss_adds_up_over_the_networks() -> None:
    assert critic_loss((column(1), column(5)), column(3)).item() == 4 + 4


def test_actor_loss_by_hand() -> None:
    theta = th.tensor(0.5, dtype=th.float64, requires_grad=True)
    # mu(s) = theta s; Q = s a - a^2; at s = 2: a = 1, Q = 1; at s = -2: a = -1, Q = 1
    loss = actor_loss(column(2, -2), lambda s: theta * s, lambda s, a: s * a - a**2)
    assert loss.item() == -1
    loss.backward()
    # Chain rule: -mean (s - 2 a) s = -mean (0, 0) = 0: theta = 1/2 is the maximum of Q
    assert theta.grad.item() == 0


def test_actor_loss_descends_where_q_ascends() -> None:
    theta = th.tensor(0.0, dtype=th.float64, requires_grad=True)
    actor_loss(column(1, 3), lambda s: theta * s, lambda s, a: linear_critic(s, a)[0]).backward()
    # -mean (dQ/da * dmu/dtheta) = -mean (2 * 1, 2 * 3)
    assert theta.grad.item() == -4


def test_soft_update_by_hand() -> None:
    targets = [th.tensor([1.0, 2.0]), th.tensor([[4.0]])]
    soft_update([th.tensor([3.0, 0.0]), th.tensor([[8.0]])], targets, tau=0.25)
    assert targets[0].tolist() == [1.5, 1.5]
    assert targets[1].tolist() == [[5.0]]


@given(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3))
def test_soft_update_at_the_ends(param: float, target: float) -> None:
    kept, copied = th.tensor([target], dtype=th.float64), th.tensor([target], dtype=th.float64)
    soft_update([th.tensor([param], dtype=th.float64)], [kept], tau=0)
    soft_update([th.tensor([param], dtype=th.float64)], [copied], tau=1)
    assert kept.item() == target
    assert copied.item() == param


def test_soft_update_refuses_unequal_lists() -> None:
    with pytest.raises(ValueError, match="longer"):
        soft_update([th.ones(1)], [th.ones(1), th.ones(1)], tau=0.5)
