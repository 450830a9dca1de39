"""The closed form is autograd's gradient step: for random networks, over many steps, across save, load and edits."""

import contextlib
import copy
import ctypes
import gc
import io
import os
import pickle
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import mtrand
from stable_baselines3 import DDPG
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.td3.policies import TD3Policy
from torch import nn

from sb3_ddpg_ext import CustomDDPG, MlpPolicy
from sb3_ddpg_ext.equations import actor_loss, critic_loss, smoothing_noise, soft_update, td_errors, td_target
from sb3_ddpg_ext.fused import FusedUpdate, Hyperparameters, identity, kernel, recording, update, why_not
from sb3_ddpg_ext.prioritized import PrioritizedReplayBufferSamples

ACTIVATIONS = [nn.ReLU, nn.Tanh, nn.ELU, nn.GELU, nn.SiLU, nn.LeakyReLU]
ODD_ACTIVATIONS = [lambda: nn.GELU("tanh"), lambda: nn.LeakyReLU(0.3), lambda: nn.ELU(0.5)]
GAMMA, TAU = 0.97, 0.1
PLAIN = Hyperparameters(GAMMA, TAU)
LAYER_NORM: dict[str, Any] = {"actor_layer_norm": True, "critic_layer_norm": True}

# What computes the closed form: PyTorch, and the kernel as it was compiled for each processor that this one can be
PYTORCH = "PyTorch"
KERNELS = [level for level in kernel.LEVELS if kernel.runs_here(level)]


@contextlib.contextmanager
def computed_by(computation: str) -> Iterator[None]:
    """Models that are made in this context take their steps in closed form this way."""
    compiled = None if computation == PYTORCH else ctypes.CDLL(str(kernel.file_of(computation)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(update, "library", lambda: compiled)
        yield


def test_the_kernel_was_compiled_for_this_processor() -> None:
    compiled = kernel.library()
    assert compiled is not None
    assert Path(compiled._name) == kernel.file_of(KERNELS[0])


def make_policy(n_obs: int, n_actions: int, dtype: th.dtype = th.float64, **kwargs: Any) -> MlpPolicy:
    bounds = spaces.Box(-1, 1, (n_actions,))
    policy = MlpPolicy(spaces.Box(-1, 1, (n_obs,)), bounds, lambda _: 1e-2, **kwargs).to(dtype)
    with th.no_grad():
        for norm in (module for module in policy.modules() if isinstance(module, nn.LayerNorm)):
            norm.eps = 0.1  # rounding errors are divided by its root
            norm.weight.normal_(1, 0.3)  # not as it is at first, when it multiplies by 1 and adds 0
            norm.bias.normal_(0, 0.3)
        # Targets of their own, so that it matters which network is asked
        for target in (policy.actor_target, policy.critic_target):
            for param in target.parameters():
                param.add_(0.1 * th.randn_like(param))
    return policy


def make_batch(policy: MlpPolicy, n: int, discounts: bool) -> ReplayBufferSamples:
    dtype = next(policy.parameters()).dtype
    n_obs, n_actions = policy.observation_space.shape[0], policy.action_space.shape[0]
    return ReplayBufferSamples(
        th.randn(n, n_obs, dtype=dtype),
        th.rand(n, n_actions, dtype=dtype) * 2 - 1,
        th.randn(n, n_obs, dtype=dtype),
        (th.rand(n, 1) < 0.3).to(dtype),
        th.randn(n, 1, dtype=dtype),
        th.rand(n, 1, dtype=dtype) if discounts else None,
    )


def with_weights(batch: ReplayBufferSamples) -> Any:
    """The minibatch of a prioritized replay buffer."""
    return PrioritizedReplayBufferSamples(*batch, th.rand_like(batch.rewards), np.arange(len(batch.rewards)))


def q(critic: Any) -> Any:
    return lambda s, a: tuple(net(th.cat([s, a], dim=1)) for net in critic.q_networks)


def target_of(policy: MlpPolicy, batch: Any, hyperparameters: Hyperparameters) -> th.Tensor:
    std, clip = hyperparameters.target_policy_noise, hyperparameters.target_noise_clip
    return td_target(
        batch.rewards,
        batch.dones,
        hyperparameters.gamma if batch.discounts is None else batch.discounts,
        batch.next_observations,
        policy.actor_target.mu,
        q(policy.critic_target),
        smoothing_noise(batch.actions, std, clip) if std > 0 else 0.0,
    )


def autograd_step(policy: MlpPolicy, batch: Any, hyperparameters: Hyperparameters = PLAIN) -> list[float]:
    """The reference: the equations, differentiated by PyTorch."""
    _, tau, huber_delta, max_grad_norm, coef, _, _ = hyperparameters
    weights = getattr(batch, "weights", None)
    target = target_of(policy, batch, hyperparameters)
    losses = []
    for network, loss, penalty in (
        (
            policy.critic,
            lambda: critic_loss(q(policy.critic)(batch.observations, batch.actions), target, huber_delta, weights),
            lambda: 0,
        ),
        (
            policy.actor,
            lambda: actor_loss(batch.observations, policy.actor.mu, lambda s, a: q(policy.critic)(s, a)[0]),
            lambda: coef * policy.actor.mu[:-1](batch.observations).square().mean(),
        ),
    ):
        network.optimizer.zero_grad()
        value = loss()
        (value + penalty()).backward(inputs=list(network.parameters()))
        if max_grad_norm is not None:
            nn.utils.clip_grad_norm_(network.parameters(), max_grad_norm)
        network.optimizer.step()
        losses.insert(0, value.item())
    soft_update(policy.critic.parameters(), policy.critic_target.parameters(), tau)
    soft_update(policy.actor.parameters(), policy.actor_target.parameters(), tau)
    return losses


def twin(policy: MlpPolicy) -> MlpPolicy:
    """A policy with the same weights, and optimizers of its own."""
    return copy.deepcopy(policy)


def assert_close(ours: Any, theirs: Any, tolerance: float) -> None:
    """
    Weights agree within ``tolerance`` relative to the norm of their network. Gradients (and so Adam's moments) are sums
    over the batch that may cancel: what is left of numbers around 1 has their rounding error.
    """

    def vector(tensors: Any) -> th.Tensor:
        return th.cat([tensor.flatten() for tensor in tensors])

    for network in ("actor", "actor_target", "critic", "critic_target"):
        a, b = (vector(getattr(policy, network).parameters()).detach() for policy in (ours, theirs))
        assert (a - b).norm() <= tolerance * b.norm(), network
    for network in ("actor", "critic"):
        a, b = (getattr(policy, network).optimizer.state_dict()["state"] for policy in (ours, theirs))
        assert [entry["step"] for entry in a.values()] == [entry["step"] for entry in b.values()]
        for moment in ("exp_avg", "exp_avg_sq"):
            mine, reference = (vector(entry[moment] for entry in state.values()) for state in (a, b))
            assert (mine - reference).norm() <= 10 * tolerance * reference.norm() + 0.1 * tolerance


widths = st.lists(st.integers(1, 9), min_size=0, max_size=3)


@given(
    seed=st.integers(0, 2**31),
    pi=widths,
    qf=widths,
    n_obs=st.integers(1, 5),
    n_actions=st.integers(1, 3),
    n=st.integers(1, 7),
    activation=st.sampled_from([*ACTIVATIONS, *ODD_ACTIVATIONS]),
    n_critics=st.integers(1, 3),
    normalized=st.booleans(),
    discounts=st.booleans(),
    weighted=st.booleans(),
    betas=st.sampled_from([(0.9, 0.999), (0.5, 0.9)]),
    weight_decay=st.sampled_from([0.0, 0.1]),
    optimizer_classes=st.tuples(*2 * [st.sampled_from([th.optim.Adam, th.optim.AdamW])]),
    hyperparameters=st.just(PLAIN)
    | st.builds(
        Hyperparameters,
        gamma=st.just(GAMMA),
        tau=st.just(TAU),
        huber_delta=st.none() | st.sampled_from([0.1, 1.0, 10.0]),
        max_grad_norm=st.none() | st.sampled_from([1e-3, 0.5, 1e3]),
        pre_activation_coef=st.sampled_from([0.0, 1.0]),
        target_policy_noise=st.sampled_from([0.0, 0.2]),
        target_noise_clip=st.sampled_from([0.1, 0.5]),
    ),
    computation=st.sampled_from(
        [(PYTORCH, th.float64, 1e-12), (PYTORCH, th.float32, 1e-6), *[(level, th.float32, 1e-6) for level in KERNELS]]
    ),
)
@settings(max_examples=250, deadline=None)
def test_one_step_is_autograds(
    seed: int,
    pi: list[int],
    qf: list[int],
    n_obs: int,
    n_actions: int,
    n: int,
    activation: Any,
    n_critics: int,
    normalized: bool,
    discounts: bool,
    weighted: bool,
    betas: tuple[float, float],
    weight_decay: float,
    optimizer_classes: tuple[type[th.optim.Adam], type[th.optim.Adam]],
    hyperparameters: Hyperparameters,
    computation: tuple[str, th.dtype, float],
) -> None:
    by, dtype, tolerance = computation
    if normalized:
        tolerance *= 10  # gradients of one or two units that are normalised cancel
    th.manual_seed(seed)
    ours = make_policy(
        n_obs,
        n_actions,
        dtype,
        net_arch={"pi": pi, "qf": qf},
        actor_layer_norm=normalized,
        critic_layer_norm=normalized,
        activation_fn=activation,
        n_critics=n_critics,
        optimizer_class=optimizer_classes[0],
        critic_optimizer_class=optimizer_classes[1],
        # Adam divides by the gradient's size: its eps decides how much of a rounding error comes through
        optimizer_kwargs={"betas": betas, "weight_decay": weight_decay, "eps": 1e-2},
    )
    theirs = twin(ours)
    batch = make_batch(ours, n, discounts)
    if weighted:
        batch = with_weights(batch)
    with computed_by(by):
        fused = FusedUpdate(ours)
    th.manual_seed(seed)
    errors = fused.step(batch, hyperparameters)
    th.manual_seed(seed)
    if weighted:
        target = target_of(theirs, batch, hyperparameters)
        expected = td_errors(q(theirs.critic)(batch.observations, batch.actions), target)
        th.testing.assert_close(errors, expected, rtol=10 * tolerance, atol=10 * tolerance)
    th.manual_seed(seed)
    losses = autograd_step(theirs, batch, hyperparameters)
    assert_close(ours, theirs, tolerance)
    assert fused.pop_losses() == pytest.approx(tuple(losses), rel=10 * tolerance, abs=10 * tolerance)
    assert fused.pop_losses() == (0, 0)


@pytest.mark.parametrize("computation", [PYTORCH, KERNELS[0]])
def test_a_minibatch_of_views(computation: str) -> None:
    """A user's replay buffer may return parts of larger tensors, and such as have gradients."""
    th.manual_seed(0)
    ours = make_policy(3, 2, th.float32, net_arch=[8])
    theirs = twin(ours)
    wide = th.rand(16, 5)
    batch = ReplayBufferSamples(
        wide[:, 1:4], wide[:, 3:], th.rand(3, 16).T, (wide[:, :1] > 0.5).float(), wide[:, 2:3], wide[:, 4:]
    )
    with computed_by(computation):
        FusedUpdate(ours).step(
            ReplayBufferSamples(*[part.clone().requires_grad_() for part in batch[:5]], batch[5]), PLAIN
        )
    autograd_step(theirs, batch)
    assert_close(ours, theirs, 1e-6)


@pytest.mark.parametrize("computation", [PYTORCH, *KERNELS])
def test_the_optimizers_hyperparameters_may_change_between_steps(computation: str) -> None:
    th.manual_seed(0)
    ours = make_policy(3, 2, th.float32, net_arch=[8], optimizer_class=th.optim.AdamW, optimizer_kwargs={"eps": 1e-2})
    theirs = twin(ours)
    with computed_by(computation):
        fused = FusedUpdate(ours)
    changes: list[tuple[str, dict[str, Any]]] = [
        ("actor", {"lr": 1e-4}),  # the actor's and the critic's learning rates differ from here on
        ("critic", {"weight_decay": 0.5}),
        ("actor", {"decoupled_weight_decay": False, "weight_decay": 0.5}),
        ("critic", {"lr": th.tensor(0.1)}),
        ("actor", {"decoupled_weight_decay": True}),
    ]
    for network, change in changes:
        for policy in (ours, theirs):
            getattr(policy, network).optimizer.param_groups[0].update(change)
        batch = make_batch(ours, 16, discounts=False)
        fused.step(batch, PLAIN)
        autograd_step(theirs, batch)
        assert_close(ours, theirs, 1e-6)


@pytest.mark.parametrize(
    "kwargs",
    [
        *({"activation_fn": activation} for activation in ACTIVATIONS),
        {"n_critics": 2},
        {"n_critics": 3},
        # With ReLU, float32 autograd itself leaves float64 autograd by 3% here
        {**LAYER_NORM, "activation_fn": nn.Tanh},
    ],
)
@pytest.mark.parametrize("kernel", [False, True])
def test_many_steps_with_batches_of_changing_size(kwargs: dict[str, Any], kernel: bool) -> None:
    th.manual_seed(0)
    ours = make_policy(3, 2, th.float32 if kernel else th.float64, net_arch=[16, 8], **kwargs)
    theirs, fused = twin(ours), FusedUpdate(ours)
    for i in range(200):
        batch = make_batch(ours, (8, 16, 5)[i // 70], discounts=i % 2 == 0)
        if i % 3 == 0:
            batch = with_weights(batch)
        fused.step(batch, PLAIN)
        autograd_step(theirs, batch)
    assert_close(ours, theirs, 1e-4 if kernel else 1e-8)


@pytest.mark.parametrize("computation", [PYTORCH, *KERNELS])
def test_a_target_that_is_not_finite_counts(computation: str) -> None:
    """Whichever critic has it: the minimum of NaN and a number is NaN."""
    for i in range(3):
        th.manual_seed(0)
        ours = make_policy(3, 2, th.float32, net_arch=[8], n_critics=3)
        with th.no_grad():
            ours.critic_target.q_networks[i][-1].bias.fill_(th.nan)
        with computed_by(computation):
            fused = FusedUpdate(ours)
        fused.step(make_batch(ours, 4, discounts=False)._replace(dones=th.zeros(4, 1)), PLAIN)
        assert np.isnan(fused.pop_losses()[1])


@pytest.mark.parametrize("computation", [PYTORCH, KERNELS[0]])
@pytest.mark.parametrize("n_critics", [1, 2])
def test_no_allocation(computation: str, n_critics: int) -> None:
    policy = make_policy(3, 1, th.float32, net_arch=[32, 32], n_critics=n_critics)
    with computed_by(computation):
        fused, batch = FusedUpdate(policy), make_batch(policy, 16, discounts=False)
    fused.step(batch, PLAIN)
    with th.profiler.profile(activities=[th.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        for _ in range(10):
            fused.step(batch, PLAIN)
    allocated = {event.key: event.self_cpu_memory_usage for event in profile.key_averages()}
    # Numbers of a few bytes that PyTorch wraps scalars in; the smallest buffer of the batch has 64 bytes
    assert sum(max(size, 0) for size in allocated.values()) < 10 * 64, allocated


@pytest.mark.parametrize("discounts", [False, True])
def test_a_recorded_step_is_the_same_step(discounts: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bookkeeping around a CUDA graph; in place of the graph a function that is run as often as it would be."""
    recordings = []

    def record(compute: Any) -> Any:
        for _ in range(3):
            compute()
        recordings.append(compute)
        return compute

    monkeypatch.setattr(recording, "record", record)
    th.manual_seed(0)
    ours = make_policy(3, 2, net_arch=[16, 8])
    ours.critic.optimizer.param_groups[0]["weight_decay"] = 0.1
    theirs, fused = twin(ours), FusedUpdate(ours)
    fused._computation._recording = recording.Recording()  # as on a CUDA device
    for i in range(12):
        for policy in (ours, theirs):
            policy.actor.optimizer.param_groups[0]["lr"] = 1e-3 / (i + 1)  # a schedule
            policy.critic.optimizer.param_groups[0]["eps"] = 1e-8 if i < 8 else 1e-2
            policy.critic.optimizer.param_groups[0]["decoupled_weight_decay"] = i >= 10
        batch = make_batch(ours, 16 if i < 4 else 9, discounts)
        if i == 11:
            batch = with_weights(batch)
        fused.step(batch, PLAIN)
        losses = autograd_step(theirs, batch)
        assert fused.pop_losses() == pytest.approx(tuple(losses), rel=1e-9)
    assert_close(ours, theirs, 1e-9)
    assert len(recordings) == 5  # the first, another batch size, another eps, another kind of weight decay, weights


def test_the_kernels_numbers_depend_neither_on_threads_nor_on_steps_in_one_call() -> None:
    def trained(threads: int, *gradient_steps: int) -> CustomDDPG:
        before = th.get_num_threads()
        th.set_num_threads(threads)
        try:
            result = model(
                True, net_arch=[160, 160], policy_kwargs={**LAYER_NORM, "n_critics": 2}, learning_starts=100
            ).learn(100)
            for n in gradient_steps:
                result.train(n, 64)  # 1.6 million multiplications in the largest products
        finally:
            th.set_num_threads(before)
        return result

    reference = trained(1, *[1] * 40)
    for other in (trained(2, *[1] * 40), trained(1, 40), trained(2, 5, 35)):
        assert_same(other, reference, tolerance=0)


@pytest.mark.skipif(not th.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_graph() -> None:
    ours, theirs = (model(fused, device="cuda").learn(60) for fused in (True, False))
    assert ours._fast_path.update is not None
    assert_same(ours, theirs, 1e-3)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_memory_does_not_grow_with_updates() -> None:
    trained = model(True, net_arch=[8, 8], buffer_size=1_000).learn(200)
    trained.train(5_000, 8)
    growth = []
    for _ in range(3):  # a leak shows each time; what else the process does, now and then
        before = resident_bytes()
        for _ in range(20):
            trained.train(1_000, 8)
        growth.append(resident_bytes() - before)
    assert min(growth) < 200_000  # 16 bytes an update would be 320 kB


@pytest.mark.parametrize("computation", [PYTORCH, KERNELS[0]])
def test_dead_units_leave_no_denormal_moments(computation: str) -> None:
    with computed_by(computation):
        trained = model(True).learn(100)
    with th.no_grad():
        for network in (trained.actor.mu, trained.critic.q_networks[0]):
            network[0].bias.fill_(-1e6)  # none of the first layer's ReLUs will ever be active
    for _ in range(40):
        trained.train(50, 8)
    for network in (trained.actor, trained.critic):
        for state in network.optimizer.state.values():
            for moment in (state["exp_avg"], state["exp_avg_sq"]):
                assert not ((moment != 0) & (moment.abs() < th.finfo(th.float32).tiny)).any()
    assert (trained.actor.optimizer.state[trained.actor.mu[0].weight]["exp_avg"] == 0).all()


# --- In the algorithm ---

SMALL: dict[str, Any] = {"learning_starts": 20, "batch_size": 8, "buffer_size": 500, "seed": 0, "device": "cpu"}


def model(fused: Any, env: Any = "Pendulum-v1", net_arch: Any = (16, 16), **kwargs: Any) -> CustomDDPG:
    policy_kwargs = {"net_arch": list(net_arch), **kwargs.pop("policy_kwargs", {})}
    return CustomDDPG(
        kwargs.pop("policy", "MlpPolicy"), env, policy_kwargs=policy_kwargs, fused=fused, **{**SMALL, **kwargs}
    )


def weights(trained: CustomDDPG) -> dict[str, np.ndarray]:
    return {name: param.cpu().numpy().copy() for name, param in trained.policy.state_dict().items()}


def assert_same(ours: CustomDDPG, theirs: CustomDDPG, tolerance: float = 5e-5) -> None:
    for name, value in weights(theirs).items():
        np.testing.assert_allclose(weights(ours)[name], value, atol=tolerance, err_msg=name)
    assert ours._n_updates == theirs._n_updates > 0


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"n_steps": 3},
        {"learning_rate": LinearSchedule(3e-3, 0, 1)},
        {"policy_kwargs": {"optimizer_class": th.optim.AdamW, "optimizer_kwargs": {"weight_decay": 0.5}}},
        {"policy_kwargs": {"n_critics": 2}, "n_steps": 3},
        {"policy_kwargs": LAYER_NORM},
        {"train_freq": 4, "gradient_steps": 3},
        {"gradient_steps": 3, "target_policy_noise": 0.2, "max_grad_norm": 0.1, "critic_learning_rate": 3e-3},
        {"env": make_vec_env("Pendulum-v1", n_envs=3, seed=0), "gradient_steps": -1},
        {"env": gym.make("MountainCarContinuous-v0")},
        {"env": gym.make("Pendulum-v1", max_episode_steps=15)},  # episodes are cut off, and do not terminate
    ],
)
@pytest.mark.parametrize("computation", [PYTORCH, *KERNELS])
def test_both_paths_learn_the_same(kwargs: dict[str, Any], computation: str) -> None:
    with computed_by(computation):
        ours, theirs = (model(fused, **kwargs).learn(80) for fused in (True, False))
    assert_same(ours, theirs)
    for key in ("train/actor_loss", "train/critic_loss"):
        assert ours.logger.name_to_value[key] == pytest.approx(theirs.logger.name_to_value[key], rel=1e-2, abs=1e-3)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(
    "kwargs",
    [{}, {**LAYER_NORM, "n_critics": 2, "critic_optimizer_class": th.optim.AdamW}],
)
def test_a_model_saved_by_one_path_goes_on_with_the_other(first: bool, kwargs: dict[str, Any], tmp_path: Path) -> None:
    model(first, policy_kwargs=kwargs).learn(60).save(tmp_path / "model")

    def go_on(fused: bool) -> CustomDDPG:
        loaded = CustomDDPG.load(tmp_path / "model", env=gym.make("Pendulum-v1"), fused=fused)
        assert (loaded._fast_path.update is not None) is fused
        return loaded.learn(60, reset_num_timesteps=False)

    ours, theirs = go_on(True), go_on(False)
    assert_same(ours, theirs)
    state = ours.critic.optimizer.state_dict()["state"]
    assert {float(entry["step"]) for entry in state.values()} == {float(ours._n_updates)}


def test_edits_of_weights_and_optimizers_are_seen() -> None:
    def edited(fused: bool) -> CustomDDPG:
        trained = model(fused).learn(40)
        with th.no_grad():
            trained.actor.mu[0].weight.mul_(0.5)  # in place
            trained.critic.q_networks[0][0].bias.data = th.ones(16)  # another tensor
        trained.critic.optimizer.load_state_dict(trained.critic.optimizer.state_dict())
        trained.train(gradient_steps=20, batch_size=8)  # at once, without the setting up of another `learn`
        state = trained.actor.optimizer.state
        for param, entry in state.items():  # begin anew
            state[param] = {name: th.zeros_like(value) for name, value in entry.items()}
        trained.train(gradient_steps=20, batch_size=8)
        return trained.learn(20, reset_num_timesteps=False)

    ours, theirs = edited(True), edited(False)
    assert_same(ours, theirs)
    assert ours._fast_path.update is not None
    assert ours._fast_path.update.can_step()


def test_parameters_that_are_set_are_used(tmp_path: Path) -> None:
    other, ours = model("auto", seed=5), model(True).learn(40)
    ours.set_parameters(other.get_parameters())
    for name, value in weights(other).items():
        assert np.array_equal(weights(ours)[name], value)
    ours.learn(30)
    assert not np.array_equal(weights(ours)["actor.mu.0.weight"], weights(other)["actor.mu.0.weight"])
    # And the other's parameters are its own
    assert np.array_equal(weights(other)["actor.mu.0.weight"], weights(model("auto", seed=5))["actor.mu.0.weight"])


def size_of(thing: Any) -> int:
    file = io.BytesIO()
    th.save(thing, file)
    return file.getbuffer().nbytes


@pytest.mark.parametrize("steps", [0, 30])
def test_what_is_saved_is_as_small_as_sb3s(steps: int, tmp_path: Path) -> None:
    models = [
        model("auto", net_arch=[400, 300]),
        DDPG("MlpPolicy", "Pendulum-v1", policy_kwargs={"net_arch": [400, 300]}, **SMALL),
    ]
    sizes = []
    for each in models:
        if steps:
            each.learn(steps)
        each.save(tmp_path / "model")
        sizes.append(
            {
                "a weight": size_of(each.actor.mu[0].weight),
                "a gradient": size_of(each.critic.q_networks[0][0].weight.grad),
                "actor": len(pickle.dumps(each.actor)),
                "policy": len(pickle.dumps(each.policy)),
                "optimizer": size_of(each.actor.optimizer.state_dict()),
                "zip": (tmp_path / "model.zip").stat().st_size,
            }
        )
    ours, theirs = sizes
    assert models[0]._fast_path.update is not None
    for what, size in theirs.items():
        assert ours[what] < 1.02 * size + 10_000, what  # the noise is in the zip, too


@pytest.mark.parametrize("loaded", [False, True])
def test_a_state_dict_that_is_held_stays_live(loaded: bool, tmp_path: Path) -> None:
    trained = model(True)
    if loaded:
        trained.learn(30).save(tmp_path / "model")
        trained = CustomDDPG.load(tmp_path / "model", env=gym.make("Pendulum-v1"))
    held, optimizer = trained.policy.state_dict(), trained.critic.optimizer.state_dict()["state"]
    vector_of = [*trained.actor.parameters()]
    trained.learn(40, reset_num_timesteps=False)
    trained.learn(5)
    for name, value in trained.policy.state_dict().items():
        assert held[name].data_ptr() == value.data_ptr(), name
    assert all(a is b for a, b in zip(vector_of, trained.actor.parameters(), strict=True))
    if loaded:
        for i, state in trained.critic.optimizer.state_dict()["state"].items():
            assert all(optimizer[i][name] is value for name, value in state.items())


def test_shared_memory_stays_shared() -> None:
    """An actor in another process that shares the weights acts with what is learned here."""
    trained = model(True).learn(30)
    trained.policy.share_memory()
    shared = [param.data_ptr() for param in trained.policy.parameters()]
    before = trained.actor.mu[0].weight.clone()
    trained.learn(30, reset_num_timesteps=False)
    assert trained._fast_path.update is not None
    assert all(param.is_shared() for param in trained.policy.parameters())
    assert [param.data_ptr() for param in trained.policy.parameters()] == shared
    assert not th.equal(trained.actor.mu[0].weight, before)


def test_what_somebody_else_refers_to_is_left_where_it_is() -> None:
    trained, data = model(True).learn(30), th.zeros(16, 3)
    trained.actor.mu[0].weight.data = data
    trained.learn(30, reset_num_timesteps=False)
    assert trained._fast_path.why_autograd is None
    assert th.equal(trained.actor.mu[0].weight, data)
    assert data.abs().max() > 0


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_short_calls_of_learn_grow_no_memory() -> None:
    trained = model(True, net_arch=[512, 512], learning_starts=5).learn(10)
    gc.collect()
    gc.disable()  # nothing may have to wait for it
    try:
        for _ in range(5):
            trained.learn(1, reset_num_timesteps=False)
        before = resident_bytes()
        for _ in range(30):
            trained.learn(1, reset_num_timesteps=False)
        grown = resident_bytes() - before
    finally:
        gc.enable()
    assert grown < 5_000_000  # the weights and what belongs to them are 13 MB


def test_an_object_that_is_left_is_freed_at_once() -> None:
    trained = model(True).learn(30)
    left = weakref.ref(trained._fast_path.update)
    gc.disable()
    try:
        replace_networks(trained)
        trained.train(1, 8)
        assert trained._fast_path.why_autograd is None
        assert left() is None
    finally:
        gc.enable()


def replace_networks(trained: CustomDDPG) -> None:
    for name in ("actor", "actor_target"):
        getattr(trained, name).mu = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1), nn.Tanh())
    trained.actor.optimizer = th.optim.Adam(trained.actor.parameters())


@pytest.mark.parametrize("kwargs", [{}, LAYER_NORM])
@pytest.mark.parametrize("computation", [PYTORCH, KERNELS[0]])
def test_gradients_are_there_for_whoever_looks_at_them(kwargs: dict[str, Any], computation: str) -> None:
    def gradients(fused: bool) -> list[th.Tensor]:
        trained = model(fused, policy_kwargs={**kwargs, "n_critics": 2}).learn(30)
        trained.actor.optimizer.zero_grad()
        trained.critic.optimizer.zero_grad()
        trained.learn(5, reset_num_timesteps=False)
        return [param.grad.clone() for param in (*trained.actor.parameters(), *trained.critic.parameters())]

    with computed_by(computation):
        computed, expected = gradients(True), gradients(False)
    for ours, theirs in zip(computed, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda trained: pickle.loads(pickle.dumps(trained))])
def test_a_copy_learns_on_its_own(duplicate: Any) -> None:
    original = model(True, env=gym.make("Pendulum-v1")).learn(40)
    before = weights(original)
    copied = duplicate(original)
    copied.set_env(gym.make("Pendulum-v1"))
    copied.learn(40, reset_num_timesteps=False)
    for name, value in weights(original).items():
        assert np.array_equal(value, before[name])
    assert not np.array_equal(weights(copied)["actor.mu.0.weight"], before["actor.mu.0.weight"])


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda trained: pickle.loads(pickle.dumps(trained))])
def test_a_copy_of_a_model_that_has_left_the_closed_form(duplicate: Any) -> None:
    original = model("auto", env=gym.make("Pendulum-v1")).learn(30)
    for network in (original.actor, original.actor_target):
        network.mu.insert(1, nn.LayerNorm(16))
    original.learn(30, reset_num_timesteps=False)
    copied = duplicate(original)
    assert copied._fast_path.update is None
    copied.set_env(gym.make("Pendulum-v1"))
    assert copied.learn(30, reset_num_timesteps=False)._n_updates == original._n_updates + 30


def test_collected_actions_are_predictions_plus_noise() -> None:
    ours = model(True, env=make_vec_env("Pendulum-v1", n_envs=3), learning_starts=0, action_noise="normal").learn(30)
    expected, _ = ours.predict(ours._last_obs)
    noise = copy.deepcopy(ours.action_noise)
    action, scaled = ours._sample_action(0, noise, 3)
    drawn = copy.deepcopy(ours.action_noise)()
    np.testing.assert_allclose(scaled, np.clip(expected / 2 + drawn, -1, 1), atol=1e-6)
    np.testing.assert_allclose(action, 2 * scaled, atol=1e-6)


class OwnPrediction(MlpPolicy):
    def _predict(self, observation: Any, deterministic: bool = False) -> th.Tensor:
        return -super()._predict(observation, deterministic)


class Unsquashed(MlpPolicy):
    """Its actor leaves [-1, 1], where `td_target` clips and the closed form would not."""

    def make_actor(self, features_extractor: Any = None) -> Any:
        actor = super().make_actor(features_extractor)
        actor.mu = actor.mu[:-1]
        return actor


def with_norm(make: Any) -> type[MlpPolicy]:
    """A policy with another layer behind the actor's first."""

    class OtherNorm(MlpPolicy):
        def make_actor(self, features_extractor: Any = None) -> Any:
            actor = super().make_actor(features_extractor)
            actor.mu.insert(1, make())
            return actor

    return OtherNorm


UNSUPPORTED = {
    "LayerNorm with weight and bias.* elementwise_affine=False": {
        "policy": with_norm(lambda: nn.LayerNorm(16, elementwise_affine=False))
    },
    "LayerNorm with weight and bias.* bias=False": {"policy": with_norm(lambda: nn.LayerNorm(16, bias=False))},
    "not a plain MLP .* RMSNorm": {"policy": with_norm(lambda: nn.RMSNorm(16))},
    "not a plain MLP .* LayerNorm.* LayerNorm": {
        "policy": with_norm(lambda: nn.Sequential(nn.LayerNorm(16), nn.LayerNorm(16)))
    },
    "the actor does not end in Tanh": {"policy": Unsquashed},
    "optimizer is RMSprop": {"policy_kwargs": {"optimizer_class": th.optim.RMSprop}},
    "amsgrad": {"policy_kwargs": {"optimizer_kwargs": {"amsgrad": True}}},
    "not a plain MLP .* Softplus": {"policy_kwargs": {"activation_fn": nn.Softplus}},
    "OwnPrediction overrides _predict": {"policy": OwnPrediction},
}


@pytest.mark.parametrize(("reason", "kwargs"), UNSUPPORTED.items())
def test_what_is_not_supported_takes_autograd_or_is_refused(reason: str, kwargs: dict[str, Any]) -> None:
    trained = model("auto", **copy.deepcopy(kwargs)).learn(30)
    assert trained._fast_path.update is None
    assert trained._n_updates == 10
    with pytest.raises(ValueError, match=f"fused=True is not possible here: .*{reason}"):
        model(True, **kwargs)


def test_frozen_weights_and_hooks_are_seen_at_the_next_learn() -> None:
    trained = model("auto").learn(30)
    trained.actor.mu[0].weight.requires_grad_(False)
    assert why_not(trained.policy) == "some weights are frozen"
    before = trained.actor.mu[0].weight.clone()
    trained.learn(30)
    assert th.equal(trained.actor.mu[0].weight, before)
    trained.actor.mu[0].weight.requires_grad_(True)
    called = []
    trained.actor.mu[0].register_forward_hook(lambda *_: called.append(1))
    trained.learn(30)
    assert called


@pytest.mark.parametrize(
    "layers",
    [
        lambda: (nn.Linear(4, 8), nn.Linear(8, 1)),
        lambda: (nn.Linear(3, 8), nn.Linear(9, 1)),
        lambda: (nn.Linear(3, 8), nn.Linear(8, 2)),
        lambda: (nn.Linear(3, 8), nn.LayerNorm(7), nn.Linear(8, 1)),
        lambda: (nn.Linear(3, 8), nn.LayerNorm((8, 1)), nn.Linear(8, 1)),
    ],
)
def test_layers_that_do_not_fit_raise_as_in_autograd(layers: Any) -> None:
    trained = model("auto").learn(30)
    for actor in (trained.actor, trained.actor_target):
        actor.mu = nn.Sequential(*layers(), nn.Tanh())
    trained.actor.optimizer = th.optim.Adam(trained.actor.parameters())
    with pytest.raises(RuntimeError, match=r"mat1 and mat2 shapes cannot be multiplied|Given normalized_shape="):
        trained.train(1, 8)


def test_other_policies_of_td3_are_supported() -> None:
    assert model(True, policy=TD3Policy).learn(30)._n_updates == 10


def test_modes_are_sb3s() -> None:
    """Actor and critic, but not the targets, whatever is put into them later."""
    for kwargs in ({}, {"policy_kwargs": {"activation_fn": lambda: nn.Dropout(0.1)}}):
        policy = model("auto", **kwargs).policy
        for inserted in (None, nn.Dropout(0.5)):
            if inserted is not None:
                policy.actor.mu.insert(2, inserted)
            for mode in (True, False, True):
                policy.set_training_mode(mode)
                online = [policy, *policy.actor.modules(), *policy.critic.modules()]
                assert {module.training for module in online} == {mode}
                targets = [*policy.actor_target.modules(), *policy.critic_target.modules()]
                assert not any(module.training for module in targets)


def test_a_module_that_sets_its_mode_itself_is_asked() -> None:
    policy = model("auto").policy
    policy.set_training_mode(True)
    called = []
    policy.critic.q_networks[0][1].train = called.append  # as to keep a layer frozen
    policy.set_training_mode(False)
    assert called == [False]
    assert policy.critic.q_networks[0][1].training
    assert not policy.critic.q_networks[0][0].training


# --- Watching for changes ---


def changes() -> dict[str, Any]:
    tensor = th.zeros(1)

    def containers() -> tuple[list[Any], dict[str, Any], dict[str, Any]]:
        return [tensor, "a"], {"weight": tensor, "bias": None}, {"x": 1}

    return {
        "none": (containers, lambda a, b, c: None, True),
        "a value where only the number counts": (containers, lambda a, b, c: c.update(x=2), True),
        "another name": (containers, lambda a, b, c: c.update(y=c.pop("x")), True),
        "an equal tensor in a dict": (containers, lambda a, b, c: b.update(weight=tensor.clone()), False),
        "an equal tensor in a list": (containers, lambda a, b, c: a.__setitem__(0, tensor.clone()), False),
        "None replaced": (containers, lambda a, b, c: b.update(bias=tensor), False),
        "one more in a dict": (containers, lambda a, b, c: b.update(more=tensor), False),
        "one less in a dict": (containers, lambda a, b, c: b.pop("bias"), False),
        "one more in a list": (containers, lambda a, b, c: a.append(tensor), False),
        "one less in a list": (containers, lambda a, b, c: a.pop(), False),
        "order in a list": (containers, lambda a, b, c: a.reverse(), False),
        "order in a dict": (containers, lambda a, b, c: b.update(weight=b.pop("weight")), False),
        "emptied": (containers, lambda a, b, c: (a.clear(), b.clear(), c.clear()), False),
        "one more where the number counts": (containers, lambda a, b, c: c.update(forward=print), False),
    }


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "Python"])
@pytest.mark.parametrize("name", changes())
def test_a_watch_sees_changes(name: str, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if compiled:
        assert identity.library() is not None
    else:
        monkeypatch.setattr(identity, "library", lambda: None)
    containers, change, stays = changes()[name]
    a, b, c = containers()
    watch = identity.Watch([a], [{}, b], [c, {}])
    assert watch.is_current()
    change(a, b, c)
    assert bool(watch.is_current()) == stays


def test_watching_costs_no_references() -> None:
    """References that are taken and not given back would keep everything alive."""
    value, watched = object(), [object()] * 3
    watch = identity.Watch([watched], [{"value": value}])
    before = [sys.getrefcount(each) for each in (value, watched, watched[0])]
    for _ in range(1_000):
        watch.is_current()
    assert [sys.getrefcount(each) for each in (value, watched, watched[0])] == before


# --- Drawing minibatches ---


@given(st.integers(1, 2**32 - 1) | st.sampled_from([2**k + d for k in range(1, 32) for d in (-1, 0, 1)]), st.integers())
@settings(deadline=None)
def test_minibatches_are_drawn_as_numpy_draws(bound: int, seed: int) -> None:
    draw = kernel.library().draw
    draw.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p]
    drawn = np.empty(257, dtype=np.int64)
    mtrand.seed(abs(seed) % 2**32)
    expected, after = mtrand.randint(0, bound, size=257), mtrand.random()
    mtrand.seed(abs(seed) % 2**32)
    draw(mtrand.get_bit_generator().ctypes.bit_generator, 257, bound, drawn.ctypes.data)
    assert np.array_equal(drawn, expected)
    assert mtrand.random() == after  # as many random numbers were used


@pytest.mark.parametrize("n_steps", [1, 2, 5])
@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("full", [False, True])
def test_the_kernel_draws_the_minibatches_of_the_buffer(n_envs: int, full: bool, n_steps: int) -> None:
    """The last gradients, losses and random numbers are those of minibatches that SB3's buffer draws."""
    env = make_vec_env("Pendulum-v1", n_envs)
    trained = model(True, env=env, buffer_size=60 * n_envs, learning_starts=0, gradient_steps=0, n_steps=n_steps)
    trained.learn((90 if full else 40) * n_envs)
    assert trained.replay_buffer.full == full
    rng = np.random.default_rng(0)
    trained.replay_buffer.dones[:] = rng.random(trained.replay_buffer.dones.shape) < 0.2
    trained.replay_buffer.timeouts[:] = trained.replay_buffer.dones * (
        rng.random(trained.replay_buffer.dones.shape) < 0.5
    )
    copied = copy.deepcopy(trained)
    copied.replay_buffer.sample_rows = None  # not through Python
    mtrand.seed(3)
    copied.train(4, 16)
    after = mtrand.random()
    mtrand.seed(3)
    for _ in range(4):
        batch = trained.replay_buffer.sample(16)
        trained._fast_path.update.step(batch, Hyperparameters(trained.gamma, trained.tau))
    assert mtrand.random() == after
    tolerance = 0 if n_steps == 1 else 1e-6  # sums of rewards are rounded differently
    for name, value in weights(trained).items():
        np.testing.assert_allclose(weights(copied)[name], value, rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("fused", [True, False])
def test_nothing_can_be_drawn_from_an_empty_buffer(fused: bool) -> None:
    empty = model(fused, env=gym.make("Pendulum-v1")).learn(5)
    empty.replay_buffer.reset()
    with pytest.raises(ValueError, match="high <= 0"):
        empty.train(1, 8)
