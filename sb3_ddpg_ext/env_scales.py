"""What the scores of the user's environments are measured against: the table, Gymnasium's registry, and the user."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
from pydantic import BaseModel, FiniteFloat, ValidationError

from sb3_ddpg_ext.conversion import why_invalid
from sb3_ddpg_ext.errors import SettingsError
from sb3_ddpg_ext.results.scales import REGISTERED, SCALES, Scale
from sb3_ddpg_ext.settings import read_yaml


class _Entry(BaseModel, extra="forbid"):
    """What the user's file may say about an environment."""

    random: FiniteFloat | None = None
    reference: FiniteFloat | None = None
    source: str | None = None
    threshold: FiniteFloat | None = None


def env_scales(envs: Sequence[str], file: Path | None = None, threshold: float | None = None) -> dict[str, Scale]:
    """
    The scales of environments. What the user says comes first, then the table, then the registry.

    :param envs: Ids of environments
    :param file: YAML, for each environment some of ``random``, ``reference``, ``source`` and ``threshold``
    :param threshold: Return at which each of them counts as solved
    :return: The table with what is known of these environments, by their ids without the package
    :raises SettingsError: If the file or the threshold cannot be used
    """
    scales, given = dict(SCALES), {} if file is None else _read(file)
    for env in envs:
        name = env.split(":")[-1]
        scale = scales.get(name, Scale())
        if scale.threshold is None and (registered := _registered_threshold(env)) is not None:
            scale = replace(scale, threshold=registered, threshold_source=REGISTERED)
        scales[name] = scale
    for name, entry in given.items():
        own: dict[str, Any] = {"source": f"given in {file}"} if "reference" in entry else {}
        own |= {"threshold_source": f"given in {file}"} if "threshold" in entry else {}
        scales[name] = replace(scales.get(name, Scale()), **own | entry)
    if threshold is not None:
        if not math.isfinite(threshold):
            raise SettingsError(f"--threshold: expected a finite number, got {threshold}")
        for env in envs:
            name = env.split(":")[-1]
            scales[name] = replace(scales[name], threshold=threshold, threshold_source="--threshold")
    return scales


def _registered_threshold(env: str) -> float | None:
    try:
        return gym.spec(env).reward_threshold
    except Exception:  # importing its package may raise anything, which is said when the environment is built
        return None


def _read(file: Path) -> Mapping[str, dict[str, Any]]:
    entries: dict[str, dict[str, Any]] = {}
    for name, entry in read_yaml(file).items():
        try:
            given = _Entry.model_validate(entry)
        except ValidationError as error:
            raise SettingsError(f"{file}: {name}: {why_invalid(error)}") from error
        if (given.random is None) != (given.reference is None) or given.random == given.reference is not None:
            raise SettingsError(f"{file}: {name}: random and reference belong together, and differ")
        entries[str(name).split(":")[-1]] = given.model_dump(exclude_none=True)
    return entries
