"""Deep Deterministic Policy Gradient as a Stable-Baselines3 algorithm."""

import contextlib
import warnings
from typing import Any, ClassVar, Literal, TypeVar, cast

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy, ContinuousCritic
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, RolloutReturn, Schedule, TrainFreq
from stable_baselines3.common.utils import get_parameters_by_name
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.td3.policies import Actor, TD3Policy
from torch import nn

from sb3_ddpg_ext.buffers import RowNStepReplayBuffer, RowReplayBuffer
from sb3_ddpg_ext.equations import actor_loss, critic_loss, soft_update, td_target
from sb3_ddpg_ext.errors import unusable_action_space
from sb3_ddpg_ext.fused import FusedUpdate, why_not
from sb3_ddpg_ext.guards import check_observations, check_transition
from sb3_ddpg_ext.noise import (
    NOISES,
    NoiseSpec,
    ScheduledNoise,
    current_std,
    owns_generator,
    reseed,
    setup_action_noise,
    without_reset,
)
from sb3_ddpg_ext.policies import CnnPolicy, MlpPolicy, MultiInputPolicy

_COUNTED_AT_A_TIME = 500  # actions, since a count of one takes as long as one of many

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
        faster, equal to autograd's up to rounding. ``"auto"`` does so for plain MLPs with Adam on the CPU as long as
        nothing stands in its way, and says what does at ``verbose=1``; ``True`` insists on it, and ``False`` takes
        autograd, equal to SB3's DDPG to the bit.
    :raises AssertionError: For an action space other than ``Box``, or a ``Box`` without finite bounds
    :raises ValueError: For a ``Box`` of integers or with equal bounds, where ``fused=True`` is not possible, for an
        unknown policy, noise or ``train_freq`` unit
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
        self._why_autograd: str | None = None  # as the last check found
        self._logged: set[str] = set()
        self._noise_in_use: ActionNoise | None = None  # by the last rollout
        self._actions: list[np.ndarray] = []  # since the last count
        self._n_actions = self._n_saturated = 0  # components of actions since the last log, and those near a bound
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        reason = unusable_action_space(cast(spaces.Box, self.action_space))
        if reason is not None:
            raise ValueError(f"CustomDDPG cannot act in {self.action_space}: {reason}")
        if self.replay_buffer_class is None and self._why_no_rows() is None:
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
        self.action_noise = self._setup_action_noise(self.action_noise)
        self._why_autograd = self._why_not_fused()
        if self._why_autograd is None:
            self._fused_update = FusedUpdate(self.policy)

    def _why_no_rows(self) -> str | None:
        """:return: None where transitions are stored in rows, else the reason why not"""
        if self.fused is False:
            return "fused=False"
        if self.optimize_memory_usage:
            return "optimize_memory_usage=True"
        normalize = self._vec_normalize_env
        if normalize is not None and normalize.norm_obs and self.observation_space.dtype == np.float64:
            return "VecNormalize normalises float64 observations, which rows would round to float32 before"
        return RowReplayBuffer.why_not(self.observation_space, self.action_space)

    def _why_not_fused(self) -> str | None:
        """:return: None where gradient steps can be taken in closed form as everything is now, else the reason"""
        if self.fused is False:
            return "fused=False"
        device = self.policy.device.type
        if self.fused == "auto" and device != "cpu":
            return f"not measured on {device}; fused=True takes it there"
        reason = why_not(self.policy) if self._trains_the_policy() else "model.actor, for instance, is not policy.actor"
        if self.fused is True and reason is not None:
            raise ValueError(f"fused=True is not possible here: {reason}. fused='auto' takes autograd instead")
        return reason

    def _trains_the_policy(self) -> bool:
        networks = self.policy._modules
        return (
            self.actor is networks.get("actor")
            and self.critic is networks.get("critic")
            and self.actor_target is networks.get("actor_target")
            and self.critic_target is networks.get("critic_target")
        )

    def _closed_form(self, to_train: bool) -> FusedUpdate | None:
        """
        What computes gradient steps and actions in closed form, with everything that a user has done up to now.

        :param to_train: False where only actions are asked for, which do not depend on the optimizers' state
        :return: None where networks, optimizers or settings do not allow it
        """
        fused = self._fused_update
        if (
            fused is not None
            and self._why_autograd is None
            and self.fused is not False
            and fused.policy is self.policy
            and self._trains_the_policy()
            and (fused.can_step() if to_train else fused.can_act())
        ):
            return fused
        # Something has changed, or autograd was taken before: then the one full check decides
        self._why_autograd = self._why_not_fused()
        if self._why_autograd is not None:
            self._log_once(f"Gradient steps are computed by autograd: {self._why_autograd}")
            return None
        if fused is None or not fused.serves(self.policy):
            self._fused_update = FusedUpdate(self.policy, take_over=False)
        else:
            fused.bind()
        return self._fused_update

    def _log_once(self, message: str) -> None:
        if self.verbose >= 1 and message not in self._logged:
            self._logged.add(message)
            self.logger.info(message)

    def _setup_action_noise(self, action_noise: NoiseSpec | None) -> ActionNoise | None:
        action_shape = cast(spaces.Box, self.action_space).shape
        return setup_action_noise(action_noise, self.n_envs, action_shape, self.seed, self._time_limit)

    def _time_limit(self) -> int | None:
        """:return: After how many steps the environment cuts an episode off, None where it does not say"""
        limit = None
        # Environments of other packages need not have attributes, nor a way to ask for them. The number itself is asked
        # for, since the `spec` that has it, too, may be nothing that another process can send
        with contextlib.suppress(Exception):
            if self.env is not None and self.env.has_attr("_max_episode_steps"):
                (limit,) = self.env.get_attr("_max_episode_steps", indices=[0])
        return limit if isinstance(limit, int) else None

    def set_random_seed(self, seed: int | None = None) -> None:
        """
        Set the seed of the pseudo-random generators (python, numpy, pytorch, gym, action_space), and begin the action
        noise anew with it.

        :param seed: None leaves them as they are
        """
        super().set_random_seed(seed)
        # SB3 calls this while it sets the model up, also after loading it, when the noise is to go on as it was saved
        if seed is not None and "actor" in vars(self):
            reseed(self.action_noise, seed)

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """
        Gradient steps of algorithm 1 of the paper: sample, critic, actor (with the critic just updated), targets.

        :param gradient_steps: How many, at least 1
        :param batch_size: Transitions in each minibatch
        """
        assert self.replay_buffer is not None
        self._update_learning_rate([self.actor.optimizer, self.critic.optimizer])
        fused = self._closed_form(to_train=True)
        if fused is None:  # in closed form nothing depends on the mode
            self.policy.set_training_mode(True)
        rows = None if fused is None else self._plain_row_buffer()
        inputs = None if fused is not None else self._inputs_of_actor_loss()

        losses = []
        for _ in range(gradient_steps):
            if fused is not None and rows is not None:  # what follows, in closed form
                fused.step_on_rows(rows.sample_rows, batch_size, self.gamma, self.tau)
                continue
            batch = self.replay_buffer.sample(batch_size, env=self._vec_normalize_env)
            if fused is not None and fused.accepts(batch):
                fused.step(batch, self.gamma, self.tau)
                continue
            discounts = self.gamma if batch.discounts is None else batch.discounts

            # Critic: one step towards the TD target
            target_q_values = td_target(
                batch.rewards, batch.dones, discounts, batch.next_observations, self.actor_target, self.critic_target
            )
            q_loss = critic_loss(self.critic(batch.observations, batch.actions), target_q_values)
            self.critic.optimizer.zero_grad()
            q_loss.backward()
            self.critic.optimizer.step()

            # Actor: one step up the critic's slope
            mu_loss = actor_loss(batch.observations, self.actor, self.critic.q1_forward)
            self.actor.optimizer.zero_grad()
            mu_loss.backward(inputs=inputs)
            self.actor.optimizer.step()

            # Targets: a small step after both
            soft_update(self.critic.parameters(), self.critic_target.parameters(), self.tau)
            soft_update(self.actor.parameters(), self.actor_target.parameters(), self.tau)
            soft_update(self._running_stats, self._running_stats_target, tau=1.0)
            losses.append(th.stack([mu_loss.detach(), q_loss.detach()]))

        actor_total, critic_total = (0.0, 0.0) if fused is None else fused.pop_losses()
        if losses:
            actor_sum, critic_sum = th.stack(losses).sum(dim=0).tolist()
            actor_total, critic_total = actor_total + actor_sum, critic_total + critic_sum
            if fused is not None:
                self._log_once("Gradient steps are computed by autograd: the replay buffer's samples are not as SB3's")
        self._n_updates += gradient_steps
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/actor_loss", actor_total / gradient_steps)
        self.logger.record("train/critic_loss", critic_total / gradient_steps)

    def _plain_row_buffer(self) -> RowReplayBuffer | None:
        """:return: The replay buffer, where ``sample`` does nothing but take rows of it"""
        buffer = self.replay_buffer
        if (
            isinstance(buffer, RowReplayBuffer)
            and type(buffer) in (RowReplayBuffer, RowNStepReplayBuffer)
            and self._vec_normalize_env is None
            and buffer.has_its_arrays()
            and not {"sample", "_get_samples"} & vars(buffer).keys()
        ):
            return buffer
        return None

    def _inputs_of_actor_loss(self) -> list[nn.Parameter] | None:
        """
        What gets a gradient in the actor's step: the actor's weights. SB3 computes the critic's, too, and throws them
        away; so does this (None) where somebody looks at them before that.
        """
        params = [param for param in self.actor.parameters() if param.requires_grad]
        critic_params, optimizer = list(self.critic.parameters()), self.critic.optimizer
        held_by_the_actor = {id(param) for group in self.actor.optimizer.param_groups for param in group["params"]}
        noticed = (
            any(param._backward_hooks or param._post_accumulate_grad_hooks for param in critic_params)
            or not held_by_the_actor.isdisjoint({*map(id, critic_params)} - {*map(id, params)})
            or bool(self.actor.optimizer._optimizer_step_pre_hooks)
            or type(optimizer).zero_grad is not th.optim.Optimizer.zero_grad
            or "zero_grad" in vars(optimizer)
        )
        return None if noticed or not params else params

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
        :raises NonFiniteError: If an observation, a reward or an action is not finite
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
        self.action_noise = self._setup_action_noise(self.action_noise)
        if self.seed is None and owns_generator(self.action_noise):
            # Then everything follows numpy's global generator, as SB3's noise does
            reseed(self.action_noise, int(np.random.randint(2**31)))  # noqa: NPY002
        first_episode = reset_num_timesteps or self._last_obs is None
        # SB3 resets noise at each call, which would tear it apart in the middle of an episode
        goes_on = not reset_num_timesteps and owns_generator(self.action_noise)
        with without_reset(self.action_noise) if goes_on else contextlib.nullcontext():
            total_timesteps, callback = super()._setup_learn(
                total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
            )
        if first_episode:
            assert self._last_obs is not None
            first = np.ones(self.n_envs, dtype=bool)
            check_observations(self._last_obs, first, self.num_timesteps, self._vec_normalize_env)
        # SB3 does so after the first step, for which a noise's schedule would see the end of the previous call
        self._update_current_progress_remaining(self.num_timesteps, total_timesteps)
        if self.fused is not False:
            if self._why_autograd is None:
                self._log_once("Gradient steps are computed in closed form")
            if isinstance(self.observation_space, spaces.Box) and type(self.replay_buffer) is ReplayBuffer:
                self._log_once(f"Transitions are stored by SB3's ReplayBuffer: {self._why_no_rows()}")
        return total_timesteps, callback

    def collect_rollouts(
        self,
        env: VecEnv,
        callback: BaseCallback,
        train_freq: TrainFreq,
        replay_buffer: ReplayBuffer,
        action_noise: ActionNoise | None = None,
        learning_starts: int = 0,
        log_interval: int | None = None,
    ) -> RolloutReturn:
        """
        Collect experiences and store them into the replay buffer, as :class:`OffPolicyAlgorithm` does it, with
        whatever ``action_noise`` has been set to since the last rollout: a name, a mapping or a process will do.

        :param env: The training environment
        :param callback: Called at each step, and at the beginning and end of the rollout
        :param train_freq: How much experience to collect
        :param replay_buffer: Where to
        :param action_noise: Exploration noise
        :param learning_starts: Number of steps with random actions before learning
        :param log_interval: Log data every ``log_interval`` episodes
        :return: How many steps and episodes were collected, and whether to go on
        :raises NonFiniteError: If an observation, a reward or an action is not finite
        """
        if action_noise is not self._noise_in_use:
            self._noise_in_use = self._setup_action_noise(action_noise)
            if action_noise is self.action_noise:
                self.action_noise = self._noise_in_use
        if self._why_autograd is None and not self.policy.training and isinstance(self.policy, MlpPolicy):
            self.policy.keep_mode_once()  # actions are computed in closed form, or `predict` sets the mode
        return super().collect_rollouts(
            env, callback, train_freq, replay_buffer, self._noise_in_use, learning_starts, log_interval
        )

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        if isinstance(action_noise, ScheduledNoise):
            action_noise.update(self._current_progress_remaining)
        fused = None
        if self.num_timesteps >= learning_starts and not self._predicts_in_its_own_way():
            fused = self._closed_form(to_train=False)
        if fused is None:
            return super()._sample_action(learning_starts, action_noise, n_envs)
        # What `predict` does for flat observations, without its checks at every step
        last_obs: Any = self._last_obs
        scaled_actions = fused.act(last_obs.reshape(n_envs, -1))
        if action_noise is not None:
            scaled_actions = np.minimum(np.maximum(scaled_actions + action_noise(), -1), 1)
        return fused.unscale_action(scaled_actions), scaled_actions

    def _predicts_in_its_own_way(self) -> bool:
        return "predict" in vars(self) or type(self).predict is not BaseAlgorithm.predict

    def _store_transition(
        self,
        replay_buffer: ReplayBuffer,
        buffer_action: np.ndarray,
        new_obs: np.ndarray | dict[str, np.ndarray],
        reward: np.ndarray,
        dones: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        normalize = self._vec_normalize_env
        check_transition(buffer_action, new_obs, reward, dones, infos, self.num_timesteps, normalize)
        self._actions.append(buffer_action)
        if len(self._actions) == _COUNTED_AT_A_TIME:
            self._count_actions()
        if normalize is not None or isinstance(new_obs, dict) or any(dones.tolist()):
            super()._store_transition(replay_buffer, buffer_action, new_obs, reward, dones, infos)
            return
        # The same where an array can be stored as it is, with a copy of it instead of a `deepcopy`
        self._last_original_obs = cast(np.ndarray, self._last_obs)
        replay_buffer.add(self._last_original_obs, new_obs.copy(), buffer_action, reward, dones, infos)
        self._last_obs = new_obs

    def _count_actions(self) -> None:
        if self._actions:
            actions = np.concatenate(self._actions)
            self._actions.clear()
            self._n_actions += actions.size
            self._n_saturated += int(np.count_nonzero(np.abs(actions) >= 0.99))

    def dump_logs(self) -> None:
        """Write log data: SB3's, the noise's standard deviation, and the share of actions within 1% of a bound."""
        if (std := current_std(self.action_noise)) is not None:
            self.logger.record("rollout/noise_std", std)
        self._count_actions()
        if self._n_actions:
            self.logger.record("rollout/action_saturation", self._n_saturated / self._n_actions)
        self._n_actions = self._n_saturated = 0
        super().dump_logs()

    def _excluded_save_params(self) -> list[str]:
        aliases = ["actor", "actor_target", "critic", "critic_target"]
        made_anew = ["_actions", "_fused_update", "_why_autograd", "_logged", "_noise_in_use"]
        return [*super()._excluded_save_params(), *aliases, *made_anew, "_running_stats", "_running_stats_target"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "actor.optimizer", "critic.optimizer"], []
