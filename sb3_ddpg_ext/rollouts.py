"""How ``CustomDDPG`` collects experience: action noise, checks for finite numbers, actions in closed form, logs."""

import contextlib
import warnings
from typing import Any, Literal, cast

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.type_aliases import MaybeCallback, RolloutReturn, TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.utils import should_collect_more_steps
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer
from stable_baselines3.td3.policies import Actor, TD3Policy

from sb3_ddpg_ext.alarms import LARGE_SQUARES, Alarms
from sb3_ddpg_ext.buffers import CompactReplayBuffer, DictNStepReplayBuffer, RowNStepReplayBuffer, RowReplayBuffer
from sb3_ddpg_ext.checkpoint import Resumption, record_episodes
from sb3_ddpg_ext.copies import copy_faster
from sb3_ddpg_ext.diagnostics import NEAR_BOUND, leaving_no_trace, minibatch_statistics, norms
from sb3_ddpg_ext.divergence import LastFiniteWeights
from sb3_ddpg_ext.errors import one_line
from sb3_ddpg_ext.fast_path import FastPath, weights_trained_by_actor_loss, why_no_rows
from sb3_ddpg_ext.fused import FusedUpdate
from sb3_ddpg_ext.guards import check_observations, check_transition
from sb3_ddpg_ext.noise import (
    NOISES,
    NoiseSpec,
    ParameterNoise,
    ScheduledNoise,
    current_std,
    find_parameter_noise,
    owns_generator,
    reseed,
    sample_noise,
    setup_action_noise,
    without_reset,
)
from sb3_ddpg_ext.perturbed_actor import (
    PerturbedActor,
    action_distance,
    draw_direction,
    draw_observations,
    perturbable_weights,
)
from sb3_ddpg_ext.policies import MlpPolicy
from sb3_ddpg_ext.prioritized import PrioritizedReplayBuffer
from sb3_ddpg_ext.safe_files.algorithm import SafelySavedAlgorithm
from sb3_ddpg_ext.simba import RunningNormExtractor, update_statistics

_ACTIONS_PER_COUNT = 500  # counting one action takes as long as counting many
# Looking at the networks takes as long as a few gradient steps
_UPDATES_BETWEEN_STATISTICS = 1_000
# To sample from these changes nothing but the global generators. A user's buffer may well count how often it is done
_PASSIVE_BUFFERS = (
    *(ReplayBuffer, DictReplayBuffer, NStepReplayBuffer, HerReplayBuffer),
    *(RowReplayBuffer, RowNStepReplayBuffer, DictNStepReplayBuffer, CompactReplayBuffer, PrioritizedReplayBuffer),
)


class ExploringAlgorithm(SafelySavedAlgorithm):
    """
    SB3's ``OffPolicyAlgorithm`` with this package's way of collecting experience.

    :param args: As for :class:`OffPolicyAlgorithm`
    :param fused: Whether actions and gradient steps are computed in closed form, see :class:`CustomDDPG`
    :param kwargs: As for :class:`OffPolicyAlgorithm`
    """

    policy: TD3Policy
    actor: Actor
    actor_target: Actor
    critic: ContinuousCritic
    critic_target: ContinuousCritic

    def __init__(self, *args: Any, fused: bool | Literal["auto"], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fused = fused
        self._fast_path = FastPath()
        self._perturbed_actor = PerturbedActor()
        self._last_finite_weights = LastFiniteWeights()
        self._alarms = Alarms()
        self._logged: set[str] = set()
        self._resumption = Resumption()
        self._rollout_noise: ActionNoise | None = None  # of the last rollout
        self._actions: list[np.ndarray] = []  # since they were counted last
        # Since the last log: the number of actions' components, and of those within 1% of a bound
        self._n_actions = self._n_saturated = 0
        self._updates_at_statistics = 0

    def _closed_form(self, to_train: bool) -> FusedUpdate | None:
        fused = self._fast_path.get(self, to_train)
        if fused is None:
            self._log_once(f"Gradient steps are computed by autograd: {self._fast_path.why_autograd}")
        return fused

    def _log_once(self, message: str) -> None:
        if self.verbose >= 1 and message not in self._logged:
            self._logged.add(message)
            self.logger.info(message)

    def _setup_action_noise(self, action_noise: NoiseSpec | None) -> ActionNoise | None:
        action_shape = cast(spaces.Box, self.action_space).shape
        return setup_action_noise(action_noise, self.n_envs, action_shape, self.seed, self._time_limit)

    def _time_limit(self) -> int | None:
        """:return: The environment's time limit in steps, or None if it is unknown"""
        limit = None
        # A VecEnv of another package may not support `has_attr` or `get_attr`. The number is read from the TimeLimit
        # wrapper and not from `spec`, because a process can send only what can be pickled
        with contextlib.suppress(Exception):
            if self.env is not None and self.env.has_attr("_max_episode_steps"):
                (limit,) = self.env.get_attr("_max_episode_steps", indices=[0])
        return limit if isinstance(limit, int) else None

    def set_random_seed(self, seed: int | None = None) -> None:
        """
        Set the seed of the pseudo-random generators (python, numpy, pytorch, gym, action_space), and restart the action
        noise with it.

        :param seed: The seed; None changes nothing
        """
        super().set_random_seed(seed)
        # SB3 also calls this in `_setup_model`, before there is an actor. A loaded noise must not be restarted then
        if seed is not None and "actor" in vars(self):
            reseed(self.action_noise, seed)

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
        self._alarms.check_bounds(cast(spaces.Box, self.action_space))
        first_episode = reset_num_timesteps or self._last_obs is None
        self.action_noise = self._setup_action_noise(self.action_noise)
        self._resumption.before_learn(self, from_scratch=reset_num_timesteps, reset=first_episode)
        if self.seed is None and owns_generator(self.action_noise):
            # Without a seed, noise depends on NumPy's global generator, like SB3's noise
            reseed(self.action_noise, int(np.random.randint(2**31)))  # noqa: NPY002
        assert self.env is not None, "You must set the environment before calling learn()"
        record_episodes(self.env)
        copy_faster(self.env)
        # SB3 resets the noise at every call of `learn`, even if that continues a running episode
        continues = not reset_num_timesteps and owns_generator(self.action_noise)
        with without_reset(self.action_noise) if continues else contextlib.nullcontext():
            total_timesteps, callback = super()._setup_learn(
                total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
            )
        self._resumption.begin(callback)
        if first_episode:
            assert self._last_obs is not None
            first = np.ones(self.n_envs, dtype=bool)
            check_observations(self._last_obs, first, self.num_timesteps, self._vec_normalize_env)
        # SB3 updates this only after the first step. Until then a noise's schedule would see the previous call's value
        self._update_current_progress_remaining(self.num_timesteps, total_timesteps)
        if self.fused is not False:
            if self._fast_path.update is not None and self._fast_path.why_autograd is None:
                self._log_once(f"Gradient steps are computed in closed form by {self._fast_path.update.computed_by}")
            if isinstance(self.observation_space, spaces.Box) and type(self.replay_buffer) is ReplayBuffer:
                self._log_once(f"Transitions are stored by SB3's ReplayBuffer: {why_no_rows(self)}")
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
        Collect experiences and store them in the replay buffer, as :class:`OffPolicyAlgorithm` does it. If
        ``model.action_noise`` was set since the last rollout, the new noise is used; it can be anything that
        :class:`CustomDDPG` accepts.

        :param env: The training environment
        :param callback: Called at each step, and at the beginning and end of the rollout
        :param train_freq: How much experience to collect
        :param replay_buffer: The replay buffer
        :param action_noise: Exploration noise
        :param learning_starts: Number of steps with random actions before learning
        :param log_interval: Log data every ``log_interval`` episodes
        :return: How many steps and episodes were collected, and whether to go on
        :raises NonFiniteError: If an observation, a reward or an action is not finite
        """
        if action_noise is not self._rollout_noise:
            self._rollout_noise = self._setup_action_noise(action_noise)
            if action_noise is self.action_noise:
                self.action_noise = self._rollout_noise
        # The closed form needs no mode, and `predict` sets it itself
        if self._fast_path.why_autograd is not None or self.policy.training or self._overrides_modes():
            self.policy.set_training_mode(False)
        self._resumption.restore(self)
        rollout = self._collect(
            env, callback, train_freq, replay_buffer, self._rollout_noise, learning_starts, log_interval
        )
        self._resumption.at_boundary = rollout.continue_training
        return rollout

    def _collect(
        self,
        env: VecEnv,
        callback: BaseCallback,
        train_freq: TrainFreq,
        replay_buffer: ReplayBuffer,
        action_noise: ActionNoise | None,
        learning_starts: int,
        log_interval: int | None,
    ) -> RolloutReturn:
        assert isinstance(env, VecEnv), "You must pass a VecEnv"
        assert train_freq.frequency > 0, "Should at least collect one step or episode."
        if env.num_envs > 1:
            assert train_freq.unit == TrainFrequencyUnit.STEP, "You must use only one env when doing episodic training."
        # Callbacks see the local variables. They have SB3's names, and there are no others
        num_collected_steps = num_collected_episodes = 0
        callback.on_rollout_start()
        continue_training = True
        while should_collect_more_steps(train_freq, num_collected_steps, num_collected_episodes):
            actions, buffer_actions = self._sample_action(learning_starts, action_noise, env.num_envs)
            new_obs, rewards, dones, infos = env.step(actions)
            self.num_timesteps += env.num_envs
            num_collected_steps += 1
            callback.update_locals(locals())
            if not callback.on_step():
                continue_training = False
                break
            self._update_info_buffer(infos, dones)
            self._store_transition(replay_buffer, buffer_actions, cast(np.ndarray, new_obs), rewards, dones, infos)
            self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)
            self._on_step()
            for idx, done in enumerate(dones.tolist()):
                if done:
                    num_collected_episodes += 1
                    self._episode_num += 1
                    if action_noise is not None:
                        kwargs = {"indices": [idx]} if env.num_envs > 1 else {}
                        action_noise.reset(**kwargs)
                    if log_interval is not None and self._episode_num % log_interval == 0:
                        self.dump_logs()
        if continue_training:
            callback.on_rollout_end()
        return RolloutReturn(num_collected_steps * env.num_envs, num_collected_episodes, continue_training)

    @property
    def _progress_remaining(self) -> float:
        """From 1 to 0, as schedules expect it. SB3's is below 0 where the last rollout goes past the end of training"""
        return max(self._current_progress_remaining, 0.0)

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        self._resumption.at_boundary = False
        if isinstance(action_noise, ScheduledNoise):
            action_noise.update(self._progress_remaining)
        if (parameter_noise := find_parameter_noise(action_noise)) is not None:
            if self.num_timesteps < learning_starts:  # random actions, to which nothing is added
                return super()._sample_action(learning_starts, None, n_envs)
            return self._act_with_perturbed_weights(parameter_noise, current_std(action_noise) or 0.0)
        fused = None
        if self.num_timesteps >= learning_starts and not self._overrides_predict():
            fused = self._closed_form(to_train=False)
        if fused is None:
            return super()._sample_action(learning_starts, action_noise, n_envs)
        # The same as `predict`, without the checks that it repeats at every step
        last_obs: Any = self._last_obs
        return fused.act(last_obs.reshape(n_envs, -1), None if action_noise is None else sample_noise(action_noise))

    def _act_with_perturbed_weights(self, noise: ParameterNoise, action_std: float) -> tuple[np.ndarray, np.ndarray]:
        fused = None if self._overrides_predict() else self._closed_form(to_train=False)

        def act(observations: Any) -> tuple[np.ndarray, np.ndarray]:
            if fused is not None:
                return fused.act(observations.reshape(len(observations), -1), None)
            actions, _ = self.predict(observations)
            scaled_actions = self.policy.scale_action(actions)
            return self.policy.unscale_action(scaled_actions), scaled_actions

        last_obs, buffer = self._last_obs, self.replay_buffer
        assert last_obs is not None
        assert buffer is not None
        weights = perturbable_weights(self.policy.actor)
        if (rng := noise.count_step()) is not None and buffer.size() > 0:
            observations = draw_observations(buffer, rng, self._vec_normalize_env)
            direction, sigma = draw_direction(weights, rng), noise.parameter_std(action_std)
            noise.adapt(action_distance(act, observations, weights, direction, sigma), action_std)
        return self._perturbed_actor.explore(act, last_obs, weights, noise.seeds, noise.parameter_std(action_std))

    def _overrides_modes(self) -> bool:
        return getattr(self.policy.set_training_mode, "__func__", None) is not MlpPolicy.set_training_mode

    def _overrides_predict(self) -> bool:
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
        squares = check_transition(buffer_action, new_obs, reward, dones, infos, self.num_timesteps, normalize)
        if squares > LARGE_SQUARES:
            self._alarms.check_observations(cast(np.ndarray, new_obs), self.num_timesteps)
        if isinstance(self.actor._modules.get("features_extractor"), RunningNormExtractor):
            update_statistics(self.policy, cast(np.ndarray, new_obs))
        self._actions.append(buffer_action)
        if len(self._actions) == _ACTIONS_PER_COUNT:
            self._count_actions()
        if normalize is not None or isinstance(new_obs, dict) or any(dones.tolist()):
            super()._store_transition(replay_buffer, buffer_action, new_obs, reward, dones, infos)
            return
        # The same as SB3's method in the most common case, with a copy of the array instead of a `deepcopy`
        self._last_original_obs = cast(np.ndarray, self._last_obs)
        replay_buffer.add(self._last_original_obs, new_obs.copy(), buffer_action, reward, dones, infos)
        self._last_obs = new_obs

    def _count_actions(self) -> None:
        if self._actions:
            actions = np.concatenate(self._actions)
            self._actions.clear()
            self._n_actions += actions.size
            if self._n_updates:
                self._alarms.count_actions(actions)
            self._n_saturated += int(np.count_nonzero(np.abs(actions) >= NEAR_BOUND))

    def dump_logs(self) -> None:
        """
        Write SB3's log data, the noise's standard deviation, the share of actions within 1% of a bound, and from time
        to time how the networks are (:mod:`sb3_ddpg_ext.diagnostics`).
        """
        if (std := current_std(self.action_noise)) is not None:
            self.logger.record("rollout/noise_std", std)
            if (parameter_noise := find_parameter_noise(self.action_noise)) is not None:
                self.logger.record("rollout/parameter_noise_std", parameter_noise.parameter_std(std))
        self._count_actions()
        if self._n_actions:
            self.logger.record("rollout/action_saturation", self._n_saturated / self._n_actions)
        self._n_actions = self._n_saturated = 0
        self._alarms.check_actions(self.num_timesteps)
        if self.replay_buffer is not None:
            normalize = self._vec_normalize_env
            self._alarms.check_critic(self.replay_buffer, self.gamma, normalize, self.num_timesteps)
        self._record_statistics()
        super().dump_logs()

    def _record_statistics(self) -> None:
        since = self._n_updates - self._updates_at_statistics
        if since == 0 or (self._updates_at_statistics and 0 < since < _UPDATES_BETWEEN_STATISTICS):
            return
        self._updates_at_statistics = self._n_updates
        statistics: dict[str, float] = {}
        buffer = self.replay_buffer
        try:
            # Without these, the actor's step adds to the critic's gradient, as with SB3
            trained_by_actor_loss = weights_trained_by_actor_loss(self.actor, self.critic)
            statistics |= norms(self, critic_gradient=trained_by_actor_loss is not None)
            if buffer is not None and type(buffer) in _PASSIVE_BUFFERS and "sample" not in vars(buffer):
                # The generators are put back, so that this is the minibatch that the next gradient step draws, too
                with leaving_no_trace(self.policy):
                    batch = buffer.sample(self.batch_size, env=self._vec_normalize_env)
                    statistics |= minibatch_statistics(self, batch, self.gamma)
        except Exception as error:  # networks of a user that are called in another way must not end training
            self._log_once(f"Some statistics of the networks are not logged: {one_line(error)}")
        for name, value in statistics.items():
            self.logger.record(f"train/{name}", value)

    def _excluded_save_params(self) -> list[str]:
        return [
            *super()._excluded_save_params(),
            "_actions",
            "_alarms",
            "_fast_path",
            "_last_finite_weights",
            "_logged",
            "_perturbed_actor",
            "_resumption",
            "_rollout_noise",
        ]
