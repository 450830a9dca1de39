"""How long a run of a comparison is expected to take: what ``--dry-run`` says."""

import contextlib
import time
import warnings
from dataclasses import dataclass, replace

from stable_baselines3.common.callbacks import BaseCallback

from sb3_ddpg_ext.building import make_env, make_model
from sb3_ddpg_ext.comparison import PlannedRun
from sb3_ddpg_ext.episodes import score
from sb3_ddpg_ext.errors import describe
from sb3_ddpg_ext.protocol import EVAL_ENVS, FINAL_SEED
from sb3_ddpg_ext.results.result_file import read_run
from sb3_ddpg_ext.run_arguments import env_name, eval_freq


@dataclass(frozen=True)
class Expectation:
    """
    The expected duration of a run.

    :param seconds: Of training and its evaluations, in one process; None if it is not known
    :param source: Where the number is from
    """

    seconds: float | None
    source: str


def expect(run: PlannedRun) -> Expectation:
    """
    Estimate from finished runs of the same algorithm and environment, in proportion to their steps; if there are none,
    from a short training in this process. Writes nothing.

    :param run: A run of the plan
    :return: Its expected duration
    """
    others = [read_run(folder) for folder in run.directory.parent.glob(f"{env_name(run.args.env)}_[0-9]*")]
    rates = [(other.seconds.train + other.seconds.evaluate) / other.steps for other in others if other.is_finished]
    if rates:
        return Expectation(run.settings.n_timesteps * sum(rates) / len(rates), f"{len(rates)} finished")
    try:
        return _measure(run)
    except Exception as error:  # environments raise anything
        return Expectation(None, describe(error))


class _SpeedCallback(BaseCallback):
    """
    Measures a short training. The clock is read before each rollout, when the updates of the one before are done.

    :param updates: Ends training after so many updates
    :param seconds: Or after so much time
    """

    def __init__(self, updates: int = 300, seconds: float = 5.0) -> None:
        super().__init__()
        self.max_updates, self.max_seconds = updates, seconds
        # Readings of (time, environment steps), before the first update and after it
        self.without_updates: list[tuple[float, int]] = []
        self.with_updates: list[tuple[float, int]] = []

    def _on_rollout_start(self) -> None:
        readings = self.without_updates if self.model._n_updates == 0 else self.with_updates
        readings.append((time.perf_counter(), self.num_timesteps))

    def _on_step(self) -> bool:
        elapsed = time.perf_counter() - self.without_updates[0][0]
        return self.model._n_updates < self.max_updates and elapsed < self.max_seconds

    def rates(self) -> tuple[float, float, float]:
        """
        :return: Seconds of a step before the first update, seconds of a step after it, and the additional seconds that
            the first updates took once
        """
        warm_up = _rate(self.without_updates[0], self.without_updates[-1])
        if not self.with_updates:
            return warm_up, warm_up, 0.0
        before, first, last = self.without_updates[-1], self.with_updates[0], self.with_updates[-1]
        update = _rate(first, last) if last > first else _rate(before, first)
        return warm_up, update, max(0.0, first[0] - before[0] - update * (first[1] - before[1]))


def _rate(start: tuple[float, int], end: tuple[float, int]) -> float:
    return (end[0] - start[0]) / max(end[1] - start[1], 1)


def _measure(run: PlannedRun) -> Expectation:
    args, steps = run.args, run.settings.n_timesteps
    learning_starts = min(run.settings.hyperparams.get("learning_starts", 100), steps)
    settings = replace(run.settings, hyperparams={**run.settings.hyperparams, "learning_starts": 100})
    with warnings.catch_warnings(), contextlib.ExitStack() as resources:
        warnings.simplefilter("ignore")
        env = resources.enter_context(contextlib.closing(make_env(args.env, settings, settings.n_envs, args.seed)))
        max_steps = args.eval_max_steps
        eval_env = make_env(args.env, settings, EVAL_ENVS, FINAL_SEED, training=False, max_steps=max_steps)
        resources.callback(eval_env.close)
        model = make_model(settings, args.algo, env, seed=args.seed, device=args.device)
        speed = _SpeedCallback()
        model.learn(steps, callback=speed)
        start = time.perf_counter()
        score(model, eval_env, EVAL_ENVS, FINAL_SEED)
        episode = (time.perf_counter() - start) / EVAL_ENVS
    warm_up, update, once = speed.rates()
    evaluations = steps // eval_freq(args, run.settings) + 1
    seconds = learning_starts * warm_up + (steps - learning_starts) * update + once
    return Expectation(seconds + evaluations * args.eval_episodes * episode, f"{model._n_updates} updates, timed here")
