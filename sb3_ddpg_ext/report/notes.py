"""What is missing, broken, unequal or left out in a comparison: what the reader has to know about its numbers."""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from sb3_ddpg_ext.report.analysis import SCORES, Comparison, Group, common, conditions
from sb3_ddpg_ext.results.records import AXES
from sb3_ddpg_ext.results.scales import scale_of

_TIMES = "Seconds are not comparable between them."
_BUSY = 1.5  # times its CPU seconds: a run that took longer has waited
_CONSEQUENCES: Mapping[str, str] = {
    "threads": _TIMES,
    "device": _TIMES,
    "machine": _TIMES,
    "versions": "Some differences may be those of the libraries.",
    "final episodes": "Their final scores are not of the same episodes.",
}


def notes(comparison: Comparison) -> tuple[str, ...]:
    """
    Say what is missing, broken, unequal or left out.

    :param comparison: The comparison
    :return: A sentence or two for each thing
    """
    environments = [
        note
        for env in comparison.envs
        for note in itertools.chain(_runs(comparison, env), _seeds(comparison, env), _evaluations(comparison, env))
    ]
    return (*_not_counted(comparison), *environments, *_aggregates(comparison), *_conditions(comparison))


def _not_counted(comparison: Comparison) -> Iterator[str]:
    for run in comparison.runs:
        if not run.is_finished:
            yield f"{run.name}: {run.status} ({run.reason}). It is in no statistic."
    if any(run.status == "failed" for run in comparison.runs):
        yield "Failed runs have no scores: an algorithm that fails at times is shown by its better runs."
    counted = {run.name for group in comparison.groups.values() for run in group.runs}
    for run in comparison.runs:
        if run.is_finished and run.name not in counted:
            yield f"{run.name}: seed {run.seed} of {run.label} on {run.env} is there twice. This one does not count."


def _here(comparison: Comparison, env: str) -> dict[str, Group]:
    return {label: group for (where, label), group in comparison.groups.items() if where == env}


def _runs(comparison: Comparison, env: str) -> Iterator[str]:
    budget = comparison.budgets[env]
    for label, group in _here(comparison, env).items():
        if len(group.runs) == 1:
            yield f"{env}: {label} has one run, so its intervals are not defined."
        if not any(run.updates for run in group.runs):
            yield f"{env}: {label} did not learn: no run made a single update. Does learning start after the last step?"
        if any(run.settings != group.runs[0].settings for run in group.runs):
            yield f"{env}: the runs of {label} were not all made with the same settings."
        for run in group.runs:
            done = f"{run.length:,}" + (f" of {run.planned_steps:,}" if run.length < run.planned_steps else "")
            differs = f"{run.name}: {done} steps, where the budget is {budget:,}."
            if run.length < budget:
                yield f"{differs} It has a curve but no scores."
            elif run.length > budget:
                yield f"{differs} It is scored up to there, without a final score and without its speed."
            if run.evaluations is None or len(run.evaluations.steps) < 2:
                yield f"{run.name}: fewer than two evaluations. It has no curve and no areas."


def _seeds(comparison: Comparison, env: str) -> Iterator[str]:
    here = _here(comparison, env)
    seeds = {run.seed for group in here.values() for run in group.runs}
    if absent := [label for label in comparison.labels if label not in here]:
        yield f"{env}: no finished runs of {'; '.join(absent)}."
    for label, group in here.items():
        missing = sorted(seeds - {run.seed for run in group.runs})
        if missing:
            named = f"seed{'s' * (len(missing) > 1)} {', '.join(map(str, missing))}"
            yield (
                f"{env}: {label} has no finished run with {named}, others have. "
                "Nothing is paired by seed: its other runs are compared all the same."
            )


def _evaluations(comparison: Comparison, env: str) -> Iterator[str]:
    here = _here(comparison, env)
    protocols = [
        (f"{e.returns.shape[0]} x {e.returns.shape[1]} episodes", label)
        for label, group in here.items()
        for e in group.evaluations
    ]
    if seen := _differing(protocols):
        yield (
            f"{env}: not all runs have the same evaluations: {seen}. "
            "Fewer of them find a threshold later; of fewer episodes, by luck."
        )
    waited = Counter(
        label for label, group in here.items() for run in group.runs if run.seconds.train > _BUSY * run.seconds.cpu
    )
    if waited:
        yield (
            f"{env}: {', '.join(f'{n} of {label}' for label, n in waited.items())} took more than {_BUSY} times their "
            "CPU seconds. If they waited for busy cores, and not for their environment, these may be up to a quarter "
            "longer for it."
        )
    _, end = comparison.windows[env]["seconds"]
    late = Counter(
        label for label, group in here.items() for e in group.evaluations if len(e.steps) > 1 and e.cpu_seconds[0] > end
    )
    if late:
        yield (
            f"{env}: {', '.join(f'{n} of {label}' for label, n in late.items())} had no evaluation yet when the "
            f"fastest was done, after {end:.3g} CPU seconds: their areas over seconds are their first evaluations."
        )
    for label, group in here.items():
        for axis, x in AXES.items():
            low, high = common(group.curves, x)
            if group.curves and not low < high:
                what = "CPU seconds" if axis == "seconds" else axis
                yield f"{env}: the runs of {label} have no {what} in common, so it has no curve over them."
    scale = scale_of(env)
    if scale is None:
        yield (
            f"{env} is not in the normalisation table. Scores of all environments together are without it, "
            "probabilities of improvement, which need no scale, are with it."
        )
    elif scale.threshold is None:
        yield f"{env}: nobody has set a threshold, so there are no times to it."


def _aggregates(comparison: Comparison) -> Iterator[str]:
    if len(comparison.envs) < 2:
        return
    ran = {label: [env for env in comparison.envs if (env, label) in comparison.groups] for label in comparison.labels}
    if absent := [label for label, envs in ran.items() if len(envs) < len(comparison.envs)]:
        yield f"Left out where environments are taken together that they were not run on: {'; '.join(absent)}."
    without = [env for env in comparison.envs if env not in ran[comparison.baseline]]
    if without:
        yield (
            f"{comparison.baseline}, the baseline, was not run on {', '.join(without)}: nothing is compared with it "
            "there, nor on all environments together."
        )
    for label, here in ran.items():
        scores: dict[str, list[str]] = {}
        for score, title in SCORES.items():
            lacking = [env for env in here if not comparison.strata(score, label, [env])]
            scores.setdefault(", ".join(lacking), []).append(title.lower())
        for envs, titles in scores.items():
            if envs:
                yield (
                    f"{label} has no {' and no '.join(titles)} on {envs}: it is left out where environments that it "
                    "lacks are taken together with others."
                )


def _conditions(comparison: Comparison) -> Iterator[str]:
    finished = [run for run in comparison.runs if run.is_finished]
    for condition, consequence in _CONSEQUENCES.items():
        if seen := _differing([(conditions(run)[condition], run.label) for run in finished]):
            yield f"Not all runs have the same {condition}: {seen}. {consequence}"


def _differing(values: Sequence[tuple[str, str]]) -> str:
    """The values and how many runs of which label have each, empty if all have the same."""
    if len({value for value, _ in values}) < 2:
        return ""
    counts: dict[str, Counter[str]] = {}
    for value, label in values:
        counts.setdefault(value, Counter())[label] += 1
    return "; ".join(
        f"{value} ({', '.join(f'{n} of {label}' for label, n in labels.items())})" for value, labels in counts.items()
    )
