"""Deep Deterministic Policy Gradient as a Stable-Baselines3 algorithm."""

import warnings
from typing import Any, ClassVar, Literal, TypeVar, cast

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy, ContinuousCritic
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import get_parameters_by_name
from stable_baselines3.td3.policies import Actor, TD3Policy

from sb3_ddpg_ext.buffers import RowNStepReplayBuffer, RowReplayBuffer
from sb3_ddpg_ext.equations import actor_loss, critic_loss, soft_update, td_target
from sb3_ddpg_ext.fused import FusedUpdate, why_not
from sb3_ddpg_ext.noise import NOISES, NoiseSpec, ScheduledNoise, current_std, setup_action_noise
from sb3_ddpg_ext.policies import CnnPolicy, MlpPolicy, MultiInputPolicy

SelfCustomDDPG = TypeVar("SelfCustomDDPG", bound="CustomDDPG")


class CustomDDPG(OffPolicyAlgorithm):
    """
    Deep Deterministic Policy Gradient (DDPG), a drop-in replacement for :class:`stable_baselines3.DDPG`.

    Paper: https://arxiv.org/abs/1509.02971 (Lillicrap et al. 2016);
    Deterministic Policy Gradient: https://proceedings.mlr.press/v32/silver14.pdf

    Given the same arguments and ``fused=False`` it computes the same numbers as SB3's DDPG, to the bit on CPU (but for
    networks that draw random numbers, such as dropout). The one default that differs is ``action_noise``: exploration
    is on.

    :param policy: The policy model to use (MlpPolicy, CnnPolicy, MultiInputPolicy, or a ``TD3Policy`` class)
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
        default), ``"normal"`` (Gaussian), ``"pink"``, ``"colored"`` or ``"uniform"``; such a name with arguments and
        perhaps a schedule, ``{"type": "pink", "std": 0.3, "schedule": "linear"}``; a process such as
        ``GaussianNoise(std=0.2)``; a ``ScheduledNoise``; any SB3 ``ActionNoise``; or None for no exploration at all.
    :param replay_buffer_class: Replay buffer class to use (for instance ``HerReplayBuffer``).
        If ``None``, it will be automatically selected.
    :param replay_buffer_kwargs: Keyword arguments to pass to the replay buffer on creation.
    :param optimize_memory_usage: Enable a memory efficient variant of the replay buffer
        at a cost of more complexity.
        See https://github.com/DLR-RM/stable-baselines3/issues/37#issuecomment-637501195
    :param n_steps: When n_step > 1, uses n-step returns when updating the critic. Only where
        ``replay_buffer_class`` is ``None``, and not for Dict observations; a custom class is configured with
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
    :param fused: Whether gradient steps are computed in closed form (see :mod:`sb3_ddpg_ext.fused`): the same gradients
        faster, equal to autograd's up to rounding. ``"auto"`` does so for plain MLPs with Adam on the CPU, ``True``
        insists on it, and ``False`` takes autograd, equal to SB3's DDPG to the bit.
    :raises AssertionError: For an action space other than ``Box``, or a ``Box`` without finite bounds
    :raises ValueError: Where ``fused=True`` is not possible, for an unknown policy, noise or ``train_freq`` unit
    :raises TypeError: For an ``action_noise`` that is none
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    policy: TD3Policy
    actor: Actor
    actor_target: Actor
    critic: ContinuousCritic
    critic_target: ContinuousCritic

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
            action_noise=cast(ActionNoise | None, action_noise),  # `_setup_model` makes it one
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
        )
        self.fused = fused
        self._fused_update: FusedUpdate | None = None
        self._n_actions = self._n_saturated = 0  # components of actions since the last log, and those near a bound
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        if self.replay_buffer_class is None and self._can_store_rows():
            self.replay_buffer_class = RowReplayBuffer if self.n_steps == 1 else RowNStepReplayBuffer
            if self.n_steps > 1:
                self.replay_buffer_kwargs |= {"n_steps": self.n_steps, "gamma": self.gamma}
        policy_kwargs = self.policy_kwargs
        # SB3's DDPG gives one critic to TD3's own policy classes too; what is stored and saved stays what was passed
        self.policy_kwargs = {"n_critics": 1, **policy_kwargs}
        with warnings.catch_warnings():
            if self.replay_buffer_kwargs.get("n_steps") == self.n_steps:
                warnings.filterwarnings("ignore", "`n_steps=")  # SB3: ignored. But the buffer is told the same here
            super()._setup_model()
        self.policy_kwargs = policy_kwargs

        self.actor, self.actor_target = self.policy.actor, self.policy.actor_target
        self.critic, self.critic_target = self.policy.critic, self.policy.critic_target
        # Running means and variances of batch normalisation are copied to the targets, not averaged
        self._running_stats, self._running_stats_target = (
            [*get_parameters_by_name(critic, ["running_"]), *get_parameters_by_name(actor, ["running_"])]
            for critic, actor in ((self.critic, self.actor), (self.critic_target, self.actor_target))
        )
        self._setup_action_noise()
        self._setup_fused()

    def _can_store_rows(self) -> bool:
        return (
            self.fused is not False
            and not self.optimize_memory_usage
            and RowReplayBuffer.supports(self.observation_space, self.action_space)
        )

    def _setup_fused(self) -> None:
        reason = "fused is False" if self.fused is False else why_not(self.policy)
        if self.fused == "auto" and self.device.type != "cpu":
            reason = "not measured there"
        if self.fused is True and reason is not None:
            raise ValueError(f"fused=True is not possible here: {reason}. fused='auto' takes autograd instead")
        self._fused_update = FusedUpdate(self.policy) if reason is None else None

    def _setup_action_noise(self) -> None:
        action_shape = cast(spaces.Box, self.action_space).shape
        self.action_noise = setup_action_noise(
            self.action_noise, self.n_envs, action_shape, self.seed, self._time_limit
        )

    def _time_limit(self) -> int | None:
        if self.env is None:
            return None
        (spec,) = self.env.get_attr("spec", indices=[0])
        return None if spec is None else cast(int | None, spec.max_episode_steps)

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """
        Gradient steps of algorithm 1 of the paper: sample, critic, actor (with the critic just updated), targets.

        :param gradient_steps: How many, at least 1
        :param batch_size: Transitions in each minibatch
        """
        assert self.replay_buffer is not None
        self._update_learning_rate([self.actor.optimizer, self.critic.optimizer])
        if self._fused_update is not None and not self._fused_update.is_current():
            self._setup_fused()  # weights or optimizers were loaded or moved
        fused = self._fused_update
        if fused is None:  # in closed form nothing depends on the mode
            self.policy.set_training_mode(True)
        # Only these get a gradient in the actor's step, the critic's weights do not (nor do frozen ones)
        actor_params = [] if fused else [param for param in self.actor.parameters() if param.requires_grad]

        actor_losses, critic_losses = [], []
        for _ in range(gradient_steps):
            batch = self.replay_buffer.sample(batch_size, env=self._vec_normalize_env)
            if fused is not None:  # the same three steps in closed form
                fused.step(batch, self.gamma, self.tau)
                continue
            discounts = self.gamma if batch.discounts is None else batch.discounts

            # Critic: one step towards the TD target
            target_q_values = td_target(
                batch.rewards, batch.dones, discounts, batch.next_observations, self.actor_target, self.critic_target
            )
            loss = critic_loss(self.critic(batch.observations, batch.actions), target_q_values)
            self.critic.optimizer.zero_grad()
            loss.backward()
            self.critic.optimizer.step()
            critic_losses.append(loss.detach())

            # Actor: one step up the critic's slope
            loss = actor_loss(batch.observations, self.actor, self.critic.q1_forward)
            self.actor.optimizer.zero_grad()
            if actor_params:
                loss.backward(inputs=actor_params)
            self.actor.optimizer.step()
            actor_losses.append(loss.detach())

            # Targets: a small step after both
            soft_update(self.critic.parameters(), self.critic_target.parameters(), self.tau)
            soft_update(self.actor.parameters(), self.actor_target.parameters(), self.tau)
            soft_update(self._running_stats, self._running_stats_target, tau=1.0)

        if fused is not None:
            actor_mean, critic_mean = (total / gradient_steps for total in fused.finish())
        else:
            actor_mean, critic_mean = th.stack([*actor_losses, *critic_losses]).view(2, -1).mean(dim=1).tolist()
        self._n_updates += gradient_steps
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/actor_loss", actor_mean)
        self.logger.record("train/critic_loss", critic_mean)

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
        :param log_interval: Log after so many episodes
        :param tb_log_name: The name of the run for tensorboard
        :param reset_num_timesteps: False to go on counting (and to keep the running episode) in a second call
        :param progress_bar: Display a progress bar (tqdm and rich)
        :return: The trained model
        :raises FloatingPointError: If an environment's reward, or the policy's action, is not finite
        """
        return super().learn(
            total_timesteps=total_timesteps,
            callback=callback,
            log_interval=log_interval,
            tb_log_name=tb_log_name,
            reset_num_timesteps=reset_num_timesteps,
            progress_bar=progress_bar,
        )

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        if self.action_noise is None:
            warnings.warn(
                "action_noise=None: a deterministic actor without noise does not explore. "
                f"Choose {', '.join(map(repr, NOISES))}, or an ActionNoise.",
                stacklevel=4,
            )
        # Users may have set another noise or changed the networks
        self._setup_action_noise()
        self._setup_fused()
        total_timesteps, callback = super()._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
        )
        # SB3 does so after the first step, for which a noise's schedule would see the end of the previous call
        self._update_current_progress_remaining(self.num_timesteps, total_timesteps)
        return total_timesteps, callback

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        if isinstance(action_noise, ScheduledNoise):
            action_noise.update(self._current_progress_remaining)
        if self._fused_update is None or self.num_timesteps < learning_starts:
            return super()._sample_action(learning_starts, action_noise, n_envs)
        # What `predict` does for flat observations, without its checks at every step
        observations = cast(np.ndarray, self._last_obs).reshape(n_envs, -1)
        scaled_actions = self._fused_update.act(observations).reshape(n_envs, *cast(Any, self.action_space).shape)
        if action_noise is not None:
            scaled_actions = (scaled_actions + action_noise()).clip(-1, 1)
        return self.policy.unscale_action(scaled_actions), scaled_actions

    def _store_transition(
        self,
        replay_buffer: ReplayBuffer,
        buffer_action: np.ndarray,
        new_obs: np.ndarray | dict[str, np.ndarray],
        reward: np.ndarray,
        dones: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        magnitudes = np.abs(buffer_action)  # of actions in [-1, 1]
        # One such number in the buffer turns all weights into NaN, some time later
        if not np.isfinite(magnitudes).all():
            raise FloatingPointError(
                f"The policy's action at step {self.num_timesteps} is {buffer_action.tolist()}: its weights have "
                "diverged; a lower learning_rate may help."
            )
        # VecNormalize spreads one environment's NaN over the rewards of all
        rewards = reward if self._vec_normalize_env is None else self._vec_normalize_env.get_original_reward()
        if not np.isfinite(rewards).all():
            env = int(np.argmin(np.isfinite(rewards)))
            raise FloatingPointError(
                f"Environment {env} returned the reward {rewards[env]} at step {self.num_timesteps}; "
                "rewards must be finite (stable_baselines3's VecCheckNan helps to find the cause)."
            )
        self._n_actions += magnitudes.size
        self._n_saturated += int(np.count_nonzero(magnitudes >= 0.99))
        super()._store_transition(replay_buffer, buffer_action, new_obs, reward, dones, infos)

    def dump_logs(self) -> None:
        """Write log data: SB3's, the noise's standard deviation, and the share of actions within 1% of a bound."""
        if (std := current_std(self.action_noise)) is not None:
            self.logger.record("rollout/noise_std", std)
        if self._n_actions:
            self.logger.record("rollout/action_saturation", self._n_saturated / self._n_actions)
        self._n_actions = self._n_saturated = 0
        super().dump_logs()

    def _excluded_save_params(self) -> list[str]:
        aliases = ["actor", "actor_target", "critic", "critic_target"]
        return [*super()._excluded_save_params(), *aliases, "_running_stats", "_running_stats_target", "_fused_update"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "actor.optimizer", "critic.optimizer"], []
