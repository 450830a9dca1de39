"""Deep Deterministic Policy Gradient as a Stable-Baselines3 algorithm."""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, cast

import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import FloatSchedule, get_parameters_by_name, update_learning_rate
from stable_baselines3.td3.policies import TD3Policy
from torch import nn

from sb3_ddpg_ext.buffers import CompactReplayBuffer, DictNStepReplayBuffer, RowNStepReplayBuffer, RowReplayBuffer
from sb3_ddpg_ext.checkpoint import resume, save_checkpoint
from sb3_ddpg_ext.divergence import check_losses, check_weights
from sb3_ddpg_ext.equations import actor_loss, critic_loss, smoothing_noise, soft_update, td_errors, td_target
from sb3_ddpg_ext.errors import NonFiniteError, unusable_action_space
from sb3_ddpg_ext.fast_path import plain_rows, shares_observations, weights_trained_by_actor_loss, why_no_rows
from sb3_ddpg_ext.fused import Hyperparameters
from sb3_ddpg_ext.noise import NoiseSpec
from sb3_ddpg_ext.policies import CnnPolicy, LayerNormPolicy, MlpPolicy, MultiInputPolicy, SimbaPolicy
from sb3_ddpg_ext.prioritized import PrioritizedReplayBuffer, PrioritizedReplayBufferSamples
from sb3_ddpg_ext.rollouts import ExploringAlgorithm

SelfCustomDDPG = TypeVar("SelfCustomDDPG", bound="CustomDDPG")


class CustomDDPG(ExploringAlgorithm):
    """
    Deep Deterministic Policy Gradient (DDPG), a drop-in replacement for :class:`stable_baselines3.DDPG`.

    Paper: https://arxiv.org/abs/1509.02971 (Lillicrap et al. 2016);
    Deterministic Policy Gradient: https://proceedings.mlr.press/v32/silver14.pdf

    With the same arguments and ``fused=False`` it computes exactly the same numbers as SB3's DDPG, bit for bit on the
    CPU (except for networks that draw random numbers, such as dropout). Only one default differs: ``action_noise``, so
    that the algorithm explores.

    >>> from sb3_ddpg_ext import CustomDDPG
    >>> model = CustomDDPG("MlpPolicy", "Pendulum-v1", action_noise="pink", seed=0)
    >>> model.learn(120).num_timesteps
    120
    >>> observations = model.get_env().reset()
    >>> actions, _ = model.predict(observations, deterministic=True)
    >>> actions.shape
    (1, 1)

    :param policy: The policy model to use (MlpPolicy, CnnPolicy, MultiInputPolicy, LayerNormPolicy, SimbaPolicy, or a
        ``TD3Policy`` class)
    :param env: The environment to learn from (if registered in Gymnasium, can be str), with a continuous action space
    :param learning_rate: Learning rate of both optimizers (actor and critic);
        it can be a function of the current progress remaining (from 1 to 0)
    :param buffer_size: Size of the replay buffer, in transitions
    :param learning_starts: How many steps to collect with random actions before learning starts
    :param batch_size: Minibatch size for each gradient step
    :param tau: The soft update coefficient ("Polyak update", between 0 and 1)
    :param gamma: The discount factor
    :param train_freq: Update the model every ``train_freq`` steps. Alternatively pass a tuple of frequency and unit
        like ``(5, "step")`` or ``(2, "episode")``.
    :param gradient_steps: How many gradient steps to do after each rollout (see ``train_freq``);
        ``-1`` means as many gradient steps as steps done in the environments during the rollout.
    :param action_noise: Exploration noise in the scaled action space [-1, 1]: ``"ou"`` (Ornstein-Uhlenbeck, the
        default), ``"normal"`` (Gaussian), ``"pink"``, ``"colored"``, ``"uniform"``, or ``"parameter"`` (on the actor's
        weights, see :class:`ParameterNoise`); such a name with arguments and optionally a schedule,
        ``{"type": "pink", "std": 0.3, "schedule": "linear"}``; a process such as ``GaussianNoise(std=0.2)``; a
        ``ScheduledNoise``; any SB3 ``ActionNoise``; or None for no exploration at all.
    :param replay_buffer_class: Replay buffer class to use (for instance ``HerReplayBuffer``, or
        :class:`PrioritizedReplayBuffer`). If ``None``, it will be automatically selected.
    :param replay_buffer_kwargs: Keyword arguments to pass to the replay buffer on creation.
    :param optimize_memory_usage: Store each observation once, see :class:`CompactReplayBuffer`, which takes up to half
        of the memory, and is slower to sample; not for n-step returns or Dict observations. With
        ``replay_buffer_kwargs={"handle_timeout_termination": False}`` it is SB3's own variant
    :param n_steps: When n_steps > 1, uses n-step returns when updating the critic. Only for
        ``replay_buffer_class=None`` or :class:`PrioritizedReplayBuffer`; another class is configured with
        ``replay_buffer_kwargs={"n_steps": ..., "gamma": ...}`` instead.
    :param tensorboard_log: The log location for tensorboard (if None, no logging)
    :param policy_kwargs: Additional arguments to be passed to the policy on creation
    :param verbose: Verbosity level: 0 for no output, 1 for info messages (such as device or wrappers used), 2 for
        debug messages
    :param seed: Seed for the pseudo random generators
    :param device: Device (cpu, cuda, ...) on which the code should be run.
        Setting it to auto, the code will be run on the GPU if possible.
    :param _init_setup_model: Whether or not to build the network at the creation of the instance
    :param stats_window_size: Window size for the rollout logging: the number of episodes over which the reported
        success rate, mean episode length, and mean reward are averaged
    :param fused: Whether gradient steps are computed in closed form (see :mod:`sb3_ddpg_ext.fused`), which is faster
        and equal to autograd up to rounding. ``"auto"``: for plain MLPs (also with LayerNorm, or several critics)
        with Adam or AdamW on the CPU; with ``verbose=1`` the log says when it is not possible, and why. ``True``:
        always; raises an error if it is not possible. ``False``: never, so that results are bit for bit those of SB3's
        DDPG.
    :param critic_learning_rate: Learning rate of the critic's optimizer, a number or a function as for
        ``learning_rate``, which is then the actor's; None for the same
    :param qf_learning_rate: SBX's name for ``critic_learning_rate``
    :param max_grad_norm: The norm to which the gradients of actor and critic are clipped, each by itself
    :param huber_delta: TD errors above it count in proportion in the critic's loss, and not squared (Huber loss)
    :param pre_activation_coef: Coefficient of a penalty on the actor, the mean square of its outputs before tanh, which
        keeps actions from getting stuck at their bounds (Fujimoto et al. 2025, https://arxiv.org/abs/2501.16142: 1e-5)
    :param target_policy_noise: Standard deviation of Gaussian noise that is added to the target's actions, as in TD3
        (target policy smoothing, there 0.2)
    :param target_noise_clip: Limit for the absolute value of that noise
    :raises AssertionError: For an action space other than ``Box``, or a ``Box`` without finite bounds
    :raises ValueError: For a ``Box`` of integers or with equal bounds; for an unknown policy, noise or ``train_freq``
        unit; for ``fused=True`` or ``optimize_memory_usage=True`` where that is not possible; for an option that is out
        of range
    :raises TypeError: For an ``action_noise`` of another type
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
        "LayerNormPolicy": LayerNormPolicy,
        "SimbaPolicy": SimbaPolicy,
    }

    def __init__(
        self,
        policy: str | type[TD3Policy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 1e-3,
        buffer_size: int = 1_000_000,
        learning_starts: int = 100,
        batch_size: int = 256,
        tau: float = 0.005,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] = 1,
        gradient_steps: int = 1,
        action_noise: NoiseSpec | None = "ou",
        replay_buffer_class: type[ReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        optimize_memory_usage: bool = False,
        n_steps: int = 1,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
        *,
        stats_window_size: int = 100,
        fused: bool | Literal["auto"] = "auto",
        critic_learning_rate: float | Schedule | None = None,
        qf_learning_rate: float | Schedule | None = None,
        max_grad_norm: float | None = None,
        huber_delta: float | None = None,
        pre_activation_coef: float = 0.0,
        target_policy_noise: float = 0.0,
        target_noise_clip: float = 0.5,
    ) -> None:
        super().__init__(
            policy,
            env,
            learning_rate,
            buffer_size,
            learning_starts,
            batch_size,
            tau,
            gamma,
            train_freq,
            gradient_steps,
            action_noise=cast(ActionNoise | None, action_noise),  # converted by `_setup_model`
            replay_buffer_class=replay_buffer_class,
            replay_buffer_kwargs=replay_buffer_kwargs,
            optimize_memory_usage=optimize_memory_usage,
            n_steps=n_steps,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device=device,
            seed=seed,
            sde_support=False,
            supported_action_spaces=(spaces.Box,),
            support_multi_env=True,
            fused=fused,
        )
        if critic_learning_rate is not None and qf_learning_rate is not None:
            raise ValueError("critic_learning_rate and qf_learning_rate are the same: leave one of them out")
        self.critic_learning_rate = qf_learning_rate if critic_learning_rate is None else critic_learning_rate
        self.max_grad_norm, self.huber_delta = max_grad_norm, huber_delta
        self.pre_activation_coef = pre_activation_coef
        self.target_policy_noise, self.target_noise_clip = target_policy_noise, target_noise_clip
        self._checked_hyperparameters: Hyperparameters | None = None
        if _init_setup_model:
            self._setup_model()

    @property
    def qf_learning_rate(self) -> float | Schedule | None:
        """SBX's name for ``critic_learning_rate``"""
        return self.critic_learning_rate

    @qf_learning_rate.setter
    def qf_learning_rate(self, learning_rate: float | Schedule | None) -> None:
        self.critic_learning_rate = learning_rate

    def _setup_model(self) -> None:
        self._check_arguments()
        # Users get these back as they passed them, also from a saved model: `load(path, n_steps=1)` chooses again
        passed = self.policy_kwargs, self.replay_buffer_class, self.replay_buffer_kwargs
        self.replay_buffer_kwargs = dict(self.replay_buffer_kwargs)  # into which SB3 writes
        if self.replay_buffer_class is None and shares_observations(self):
            self.replay_buffer_class = CompactReplayBuffer
        elif self.replay_buffer_class is None and why_no_rows(self) is None:
            self.replay_buffer_class = RowReplayBuffer if self.n_steps == 1 else RowNStepReplayBuffer
        elif self.replay_buffer_class is None and self.n_steps > 1 and isinstance(self.observation_space, spaces.Dict):
            self.replay_buffer_class = DictNStepReplayBuffer
        with_n_steps = (RowNStepReplayBuffer, DictNStepReplayBuffer)
        if self.n_steps > 1 and issubclass(self.replay_buffer_class or ReplayBuffer, with_n_steps):
            self.replay_buffer_kwargs = {**self.replay_buffer_kwargs, "n_steps": self.n_steps, "gamma": self.gamma}
        # One critic, also for SB3's `TD3Policy`, as in SB3's DDPG
        self.policy_kwargs = {"n_critics": 1, **self.policy_kwargs}
        with warnings.catch_warnings():
            if self.replay_buffer_kwargs.get("n_steps") == self.n_steps:
                # SB3 warns that a custom buffer class ignores `n_steps`, but here `replay_buffer_kwargs` has it, too
                warnings.filterwarnings("ignore", "`n_steps=")
            super()._setup_model()
        self.policy_kwargs, self.replay_buffer_class, self.replay_buffer_kwargs = passed

        self.actor, self.actor_target = self.policy.actor, self.policy.actor_target
        self.critic, self.critic_target = self.policy.critic, self.policy.critic_target
        # Batch normalisation's running statistics are copied to the targets, without averaging, as in SB3
        self._running_stats, self._running_stats_target = (
            [*get_parameters_by_name(critic, ["running_"]), *get_parameters_by_name(actor, ["running_"])]
            for critic, actor in ((self.critic, self.actor), (self.critic_target, self.actor_target))
        )
        self.action_noise = self._setup_action_noise(self.action_noise)
        self._fast_path.set_up(self)

    def _check_arguments(self) -> None:
        """Check those of a new model, and those that ``load`` has just set."""
        reason = unusable_action_space(cast(spaces.Box, self.action_space))
        if reason is not None:
            raise ValueError(f"CustomDDPG cannot act in {self.action_space}: {reason}")
        if not (isinstance(self.n_steps, Integral) and self.n_steps >= 1):
            raise ValueError(f"n_steps={self.n_steps}: expected a whole number, 1 or more")
        if "qf_learning_rate" in vars(self):  # `load` writes there, past the property
            self.critic_learning_rate = vars(self).pop("qf_learning_rate")
        rate = self.critic_learning_rate
        if not (rate is None or callable(rate) or (isinstance(rate, Real) and 0 <= rate < math.inf)):
            raise ValueError(
                f"critic_learning_rate={rate!r}: expected a number, 0 or more, or a function of the remaining progress"
            )
        self._hyperparameters()

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """
        Take gradient steps, as in algorithm 1 of the paper: sample a minibatch, then update the critic, the actor (with
        the critic just updated) and the targets.

        :param gradient_steps: Number of gradient steps, at least 1
        :param batch_size: Transitions in each minibatch
        :raises NonFiniteError: If a loss or a weight is not finite
        """
        assert self.replay_buffer is not None
        self._last_finite_weights.keep(self)
        self._update_learning_rate([self.actor.optimizer, self.critic.optimizer])
        if isinstance(self.replay_buffer, PrioritizedReplayBuffer):
            self.replay_buffer.update_beta(self._progress_remaining)
        hyperparameters = self._hyperparameters()
        fused = self._closed_form(to_train=True)
        rows = None if fused is None else plain_rows(self)
        trained_by_actor_loss = None
        if fused is None:
            self.policy.set_training_mode(True)  # the closed form does not depend on it
            trained_by_actor_loss = weights_trained_by_actor_loss(self.actor, self.critic)

        losses = []
        if fused is not None and rows is not None:  # the same steps as below in closed form
            fused.steps_on_rows(rows, gradient_steps, batch_size, hyperparameters)
        for _ in range(gradient_steps if rows is None else 0):
            batch = self.replay_buffer.sample(batch_size, env=self._vec_normalize_env)
            if fused is not None and fused.accepts(batch):
                errors = fused.step(batch, hyperparameters)
                if isinstance(batch, PrioritizedReplayBufferSamples):
                    self.replay_buffer.update_priorities(batch.indices, errors)
                continue
            discounts = self.gamma if batch.discounts is None else batch.discounts

            # Critic: reduce the squared distance to the TD target
            target_q_values = td_target(
                batch.rewards,
                batch.dones,
                discounts,
                batch.next_observations,
                self.actor_target,
                self.critic_target,
                self._smoothing_noise(batch.actions),
            )
            q_values = self.critic(batch.observations, batch.actions)
            q_loss = critic_loss(q_values, target_q_values, self.huber_delta, getattr(batch, "weights", None))
            self.critic.optimizer.zero_grad()
            q_loss.backward()
            self._clip_gradients(self.critic.optimizer)
            self.critic.optimizer.step()
            if isinstance(batch, PrioritizedReplayBufferSamples):
                self.replay_buffer.update_priorities(batch.indices, td_errors(q_values, target_q_values))

            # Actor: increase the critic's value of its actions
            with self._penalties() as penalties:
                mu_loss = actor_loss(batch.observations, self.actor, self.critic.q1_forward)
            self.actor.optimizer.zero_grad()
            (mu_loss + sum(penalties)).backward(inputs=trained_by_actor_loss)
            self._clip_gradients(self.actor.optimizer)
            self.actor.optimizer.step()

            # Targets: follow actor and critic slowly
            soft_update(self.critic.parameters(), self.critic_target.parameters(), self.tau)
            soft_update(self.actor.parameters(), self.actor_target.parameters(), self.tau)
            soft_update(self._running_stats, self._running_stats_target, tau=1.0)
            losses.append(th.stack([mu_loss.detach(), q_loss.detach()]))

        actor_total, critic_total = (0.0, 0.0) if fused is None else fused.pop_losses()
        if losses:
            actor_sum, critic_sum = th.stack(losses).sum(dim=0).tolist()
            actor_total, critic_total = actor_total + actor_sum, critic_total + critic_sum
            if fused is not None:
                self._log_once("Gradient steps are computed by autograd: samples differ from SB3's")
        self._n_updates += gradient_steps
        check_losses(actor_total, critic_total, self.num_timesteps)
        self._alarms.mean_value = -actor_total / gradient_steps
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/actor_loss", actor_total / gradient_steps)
        self.logger.record("train/critic_loss", critic_total / gradient_steps)

    def _update_learning_rate(self, optimizers: list[th.optim.Optimizer] | th.optim.Optimizer) -> None:
        super()._update_learning_rate(optimizers)
        if self.critic_learning_rate is not None:
            rate = FloatSchedule(self.critic_learning_rate)(self._progress_remaining)
            self.logger.record("train/critic_learning_rate", rate)
            update_learning_rate(self.critic.optimizer, rate)

    def _hyperparameters(self) -> Hyperparameters:
        """:return: Those of the next gradient step, checked if they have changed"""
        hyperparameters = Hyperparameters(
            self.gamma,
            self.tau,
            self.huber_delta,
            self.max_grad_norm,
            self.pre_activation_coef,
            self.target_policy_noise,
            self.target_noise_clip,
        )
        if hyperparameters != self._checked_hyperparameters:
            hyperparameters.check()
            self._checked_hyperparameters = hyperparameters
        return hyperparameters

    def _smoothing_noise(self, actions: th.Tensor) -> th.Tensor | float:
        if self.target_policy_noise == 0:
            return 0.0
        return smoothing_noise(actions, self.target_policy_noise, self.target_noise_clip)

    @contextmanager
    def _penalties(self) -> Iterator[list[th.Tensor]]:
        """:return: A list, to which the actor, when it acts, adds the penalty on its outputs before tanh, if any"""
        penalties: list[th.Tensor] = []
        if self.pre_activation_coef == 0:
            yield penalties
            return
        if not (isinstance(self.actor.mu, nn.Sequential) and isinstance(self.actor.mu[-1], nn.Tanh)):
            raise ValueError("pre_activation_coef needs an actor that ends in Tanh; set it to 0")
        hook = self.actor.mu[-1].register_forward_pre_hook(
            lambda _, inputs: penalties.append(self.pre_activation_coef * inputs[0].square().mean())
        )
        with hook:  # is removed behind the block
            yield penalties

    def _clip_gradients(self, optimizer: th.optim.Optimizer) -> None:
        if self.max_grad_norm is not None:
            params = [param for group in optimizer.param_groups for param in group["params"]]
            nn.utils.clip_grad_norm_(params, self.max_grad_norm)

    def learn(
        self: SelfCustomDDPG,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str = "CustomDDPG",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfCustomDDPG:
        """
        Train for a number of environment steps.

        :param total_timesteps: The total number of steps, over all environments
        :param callback: Callback(s) called at every step with state of the algorithm
        :param log_interval: Number of episodes between two logs
        :param tb_log_name: The name of the run for tensorboard
        :param reset_num_timesteps: False to continue the count of steps and the running episode of a previous call
        :param progress_bar: Display a progress bar (tqdm and rich)
        :return: The trained model
        :raises NonFiniteError: If an observation, a reward, an action, a loss or a weight is not finite. The model then
            has finite weights: those that it had at most about 1,000 updates before
        """
        self._last_finite_weights.forget()
        try:
            super().learn(
                total_timesteps=total_timesteps,
                callback=callback,
                log_interval=log_interval,
                tb_log_name=tb_log_name,
                reset_num_timesteps=reset_num_timesteps,
                progress_bar=progress_bar,
            )
            check_weights(self)
        except NonFiniteError as error:
            if (step := self._last_finite_weights.restore(self)) is not None:
                error.args = (f"{error} The model has its weights of step {step} again.",)
            raise
        self._resumption.in_learn = False
        return self

    def save_checkpoint(self, directory: str | Path, keep: int = 2) -> Path:
        """
        Write a checkpoint, from which :meth:`resume` goes on exactly here, into a directory of checkpoints of this run.
        It is complete or not there. Of the replay buffer only the transitions since the last one in this directory are
        written; if you change older ones in place, take another directory.

        To be called between two calls of :meth:`learn`, or by a callback in ``_on_rollout_start``;
        :class:`ResumableCheckpointCallback` does that.

        :param directory: The directory, which is made if need be
        :param keep: How many checkpoints to keep in it
        :return: The folder of the checkpoint
        :raises CheckpointError: In the middle of a step, or if the model holds what cannot be written as plain data
        :raises OSError: If it cannot be written. The checkpoints before it stay
        """
        self._count_actions()  # two numbers take less space than the actions
        return save_checkpoint(self, self._resumption, Path(directory), keep)

    @classmethod
    def resume(cls: type[SelfCustomDDPG], directory: str | Path, env: GymEnv | str, **kwargs: Any) -> SelfCustomDDPG:
        """
        Make a model from the newest checkpoint that is intact. If that is not the newest one, or if the running episode
        could not be put back, a warning says so. Train on with
        ``learn(total - model.num_timesteps, reset_num_timesteps=False)``, and the same callbacks as before.

        On the CPU, training then ends with the same bits as if it had never been interrupted.

        :param directory: The directory of checkpoints
        :param env: The environment, made as for the first part of the run, with new ``VecNormalize`` and other wrappers
        :param kwargs: Further arguments of :meth:`load`, such as ``device`` or ``custom_objects``
        :return: The model
        :raises CheckpointError: If there is no intact checkpoint, or it was made with another kind of environment
        """
        env = cls._wrap_env(maybe_make_env(env, verbose=0), verbose=0)
        return resume(partial(cls.load, **kwargs), Path(directory), env, lambda model: model._resumption)

    def _excluded_save_params(self) -> list[str]:
        aliases = ["actor", "actor_target", "critic", "critic_target", "_running_stats", "_running_stats_target"]
        return [*super()._excluded_save_params(), *aliases, "_checked_hyperparameters"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "actor.optimizer", "critic.optimizer"], []
