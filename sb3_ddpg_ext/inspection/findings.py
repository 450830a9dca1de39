"""Numbers of a run -> what looks wrong with it, each with the usual remedy. Pure functions of series."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sb3_ddpg_ext.inspection.reading import InspectedRun, Series

# A check needs this many values: one less can be chance, and a critic is always wrong at first
_ENOUGH = 4
# The mean bias, relative to the largest mean discounted return of the run. A critic that lags behind a policy that
# improves is off by less
_LARGE_BIAS = 0.5
# Growing returns multiply the squared error, too, but hardly by more than a hundred
_GROWTH_OF_LOSS = 1_000.0
# The gradient passes tanh with a factor of 1 - 0.99^2 = 0.02 there. Good policies of some environments switch between
# the bounds; they have actions in between
_SATURATED = 0.9
# Of actions from -1 to 1 without noise: a policy that answers to what it sees has ten times as much and more
_SMALL_SPREAD = 0.01
# Runs on Pendulum-v1 that learn have a sixth to a third. With most units dead, little can be learned (Sokar et al.
# 2023, https://arxiv.org/abs/2302.12902)
_DEAD = 0.5
# Of the noise, in actions from -1 to 1: a hundredth of the range. Usual is 0.1 and more
_SMALL_NOISE = 0.02
# Of the range of all evaluations, which the last quarter gained over the one before
_STILL_IMPROVING = 0.1
# Differences of means count from so many standard errors on
_STANDARD_ERRORS = 2.0
_FIRST_EPISODES = 10  # as good as random actions, in most runs


@dataclass(frozen=True)
class Finding:
    """
    Something that looks wrong.

    :param title: What
    :param evidence: The numbers that say so
    :param remedy: What usually helps
    """

    title: str
    evidence: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.title}: {self.evidence}. {self.remedy}."


def find(run: InspectedRun) -> tuple[Finding, ...]:
    """
    :param run: The numbers of a run
    :return: What looks wrong, of what can be seen in them
    """
    found = [_failed(run), _was_interrupted(run), _is_empty(run), _never_began(run)]
    if _has_learned(run):  # otherwise the rest would be about networks as they were made
        found += [_never_learned(run), _diverges(run), _overestimates(run), _is_saturated(run), _is_constant(run)]
        found += [_is_dead(run, "actor"), _is_dead(run, "critic"), _does_not_explore(run), _still_improves(run)]
    return tuple(finding for finding in found if finding is not None)


def _failed(run: InspectedRun) -> Finding | None:
    if run.error is None:
        return None
    return Finding("It ended with an error", run.error.rstrip("."), "See the documentation, Errors and what to do")


def _was_interrupted(run: InspectedRun) -> Finding | None:
    if run.interrupted is None:
        return None
    steps, planned = run.interrupted
    return Finding(
        "It was interrupted",
        f"it has done {steps:,} of {planned:,} steps",
        "Go on with sb3-ddpg train --resume and its directory",
    )


def _is_empty(run: InspectedRun) -> Finding | None:
    if run.error is not None or run.log or len(run.episodes) or len(run.evaluations):
        return None
    return Finding(
        "Nothing has been recorded yet",
        "there is no finished episode, no evaluation and no log",
        "Look again when an episode has ended",
    )


def _has_learned(run: InspectedRun) -> bool:
    return not run.log or "train/n_updates" in run.log  # without a log, nobody knows


def _never_began(run: InspectedRun) -> Finding | None:
    if _has_learned(run) or run.error is not None:  # which may have come before the first log
        return None
    return Finding(
        "Learning never began",
        "no gradient step was logged",
        "Train for more steps (n_timesteps), or begin to learn earlier (learning_starts)",
    )


def _never_learned(run: InspectedRun) -> Finding | None:
    returns = _returns(run)
    first = run.episodes.values[:_FIRST_EPISODES] if len(run.episodes) >= _FIRST_EPISODES else returns.values[0:1]
    if len(returns) < _ENOUGH:
        return None
    last = returns.end.ravel()
    gain = last.mean() - first.mean()
    if gain > _STANDARD_ERRORS * np.hypot(_standard_error(first), _standard_error(last)):
        return None
    return Finding(
        "It has not learned anything",
        f"the return is {last.mean():.4g} on average in the last quarter of the run, and was {first.mean():.4g} at the "
        "beginning",
        "If the environment allows more: check it (sb3-ddpg check), the scale of its rewards and observations "
        "(normalize: true), the noise and learning_starts; try settings of a similar environment, or sb3-ddpg tune",
    )


def _diverges(run: InspectedRun) -> Finding | None:
    losses = run.logged("train/critic_loss")
    if len(losses) < _ENOUGH:
        return None
    first, last = np.median(losses.beginning), np.median(losses.end)
    if np.isfinite(last) and last < _GROWTH_OF_LOSS * first:
        return None
    return Finding(
        "The critic diverges",
        f"its loss grew from {first:.3g} in the first quarter of the run to {last:.3g} in the last (medians)",
        "Try a lower learning_rate, tau or gamma, or smaller rewards (normalize: true)",
    )


def _overestimates(run: InspectedRun) -> Finding | None:
    if len(run.q_values) < _ENOUGH:
        return None
    expected, obtained = np.nanmean(run.q_values.end), np.nanmean(run.discounted_returns.end)
    if expected - obtained <= _LARGE_BIAS * np.nanmax(np.abs(run.discounted_returns.values)):
        return None
    evidence = (
        f"in the last quarter of the evaluations it expected {expected:.4g} on average, where the discounted return "
        f"was {obtained:.4g}"
    )
    # Values begin near 0, which is above negative returns
    if abs(expected) < abs(obtained) and expected <= np.nanmean(run.q_values.beginning):
        return Finding("The critic lags behind", evidence, "Train for more steps, or try a higher learning_rate or tau")
    return Finding(
        "The critic overestimates",
        evidence,
        "Try what it does not have yet of two critics, whose minimum is the target (policy_kwargs: {n_critics: 2}), "
        "LayerNorm, and a lower learning_rate or tau",
    )


def _is_saturated(run: InspectedRun) -> Finding | None:
    shares = run.logged("train/actor_saturation")
    if len(shares) == 0 or (share := shares.end.mean()) < _SATURATED:
        return None
    return Finding(
        "The actor is saturated",
        f"without noise, {share:.0%} of the components of its actions are at a bound in the last quarter of the run, "
        "where hardly any gradient reaches its weights",
        "Try a lower learning_rate, smaller observations and rewards (normalize: true), or more steps before learning "
        "(learning_starts)",
    )


def _is_constant(run: InspectedRun) -> Finding | None:
    spreads = run.logged("train/actor_spread")
    if len(spreads) == 0 or (spread := spreads.end.mean()) >= _SMALL_SPREAD:
        return None
    return Finding(
        "The actor's actions are constant",
        f"without noise, their standard deviation over the states of a minibatch is {spread:.2g} in the last quarter "
        "of the run, where actions go from -1 to 1",
        "Try normalised observations (normalize: true), a lower learning_rate, or more noise; look whether the "
        "observations say what the reward depends on",
    )


def _is_dead(run: InspectedRun, network: str) -> Finding | None:
    shares = run.logged(f"train/{network}_dead_units")
    if len(shares) == 0 or (share := shares.end.mean()) < _DEAD:
        return None
    return Finding(
        f"Units of the {network} are dead",
        f"{share:.0%} of its ReLU units are 0 for a whole minibatch in the last quarter of the run, and learn nothing",
        "Try a lower learning_rate, LayerNorm, normalised observations (normalize: true), or another activation_fn",
    )


def _does_not_explore(run: InspectedRun) -> Finding | None:
    stds = run.logged("rollout/noise_std")
    # A schedule may well end at 0, but does not begin there
    early = stds.values[stds.steps <= run.length / 2] if stds.values.any() else stds.values
    if len(early) == 0 or (std := early.mean()) >= _SMALL_NOISE:
        return None
    what = "there was no noise" if std == 0 else f"the noise had a standard deviation of only {std:.2g}"
    return Finding(
        "It hardly explores",
        f"{what}, where actions go from -1 to 1, in the first half of the run",
        "Choose a noise (noise_type: ou, normal or pink) with noise_std from 0.1 to 0.5",
    )


def _still_improves(run: InspectedRun) -> Finding | None:
    if len(_returns(run)) < 2 * _ENOUGH:
        return None
    returns = _returns(run).values
    means = returns.mean(axis=1) if returns.ndim == 2 else returns
    quarter = len(means) // 4
    last, before = means[-quarter:], means[-2 * quarter : -quarter]
    gain = last.mean() - before.mean()
    error = np.hypot(_standard_error(last), _standard_error(before))
    if gain <= max(_STILL_IMPROVING * np.ptp(means), _STANDARD_ERRORS * error):
        return None
    return Finding(
        "It was still improving when it ended",
        f"the return was {before.mean():.4g} on average in the third quarter of the run, and {last.mean():.4g} in the "
        "last",
        "Train for more steps (n_timesteps)",
    )


def _returns(run: InspectedRun) -> Series:
    return run.evaluations if len(run.evaluations) else run.episodes


def _standard_error(values: npt.NDArray[np.float64]) -> float:
    return float(values.std(ddof=1) / np.sqrt(values.size)) if values.size > 1 else 0.0
