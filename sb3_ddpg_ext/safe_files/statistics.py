"""VecNormalize statistics as JSON."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_ddpg_ext.errors import SavedFileError, UntrustedFileError
from sb3_ddpg_ext.safe_files.archive import MAX_JSON_BYTES, parse_json, reason
from sb3_ddpg_ext.safe_files.objects import Decoder, Encoder

_FORMAT = 1
_FLAGS = ("training", "norm_obs", "norm_reward")
_NUMBERS = ("clip_obs", "clip_reward", "gamma", "epsilon")


def save_vecnormalize(normalize: VecNormalize, path: str | Path) -> None:
    """
    Save the settings and the statistics of ``VecNormalize`` as plain data.

    >>> import tempfile
    >>> from stable_baselines3.common.env_util import make_vec_env
    >>> from stable_baselines3.common.vec_env import VecNormalize
    >>> env = VecNormalize(make_vec_env("Pendulum-v1"), gamma=0.98)
    >>> _ = env.reset()
    >>> file = tempfile.mkdtemp() + "/vecnormalize.json"
    >>> save_vecnormalize(env, file)
    >>> load_vecnormalize(file, make_vec_env("Pendulum-v1")).gamma
    0.98

    :param normalize: The wrapper
    :param path: The file
    """
    names = [*_FLAGS, *_NUMBERS, "norm_obs_keys", "ret_rms", *(["obs_rms"] if normalize.norm_obs else [])]
    content = {name: getattr(normalize, name) for name in names}
    encoded = Encoder()(content, "VecNormalize")
    document = {"format": _FORMAT, "sha256": _digest(encoded), "vecnormalize": encoded}
    Path(path).write_text(json.dumps(document, allow_nan=False))


def _digest(encoded: Any) -> str:
    return hashlib.sha256(json.dumps(encoded, allow_nan=False).encode()).hexdigest()


def load_vecnormalize(path: str | Path, venv: VecEnv, *, trusted: bool = False) -> VecNormalize:
    """
    Wrap environments in ``VecNormalize`` with the statistics of a file, without running code from it.

    >>> import tempfile
    >>> from stable_baselines3.common.env_util import make_vec_env
    >>> from stable_baselines3.common.vec_env import VecNormalize
    >>> file = tempfile.mkdtemp() + "/vecnormalize.json"
    >>> save_vecnormalize(VecNormalize(make_vec_env("Pendulum-v1"), clip_obs=5.0), file)
    >>> load_vecnormalize(file, make_vec_env("Pendulum-v1")).clip_obs
    5.0

    :param path: A file of :func:`save_vecnormalize`; with ``trusted``, also one of ``VecNormalize.save``
    :param venv: The environments
    :param trusted: Whether code from the file may be run
    :return: The wrapper
    :raises SavedFileError: If the file is damaged, or is for other observations
    :raises UntrustedFileError: If ``VecNormalize.save`` wrote it, and it is not trusted
    """
    with Path(path).open("rb") as file:
        text = file.read(MAX_JSON_BYTES + 1)
    if not text.startswith(b"{"):
        if trusted:
            return VecNormalize.load(str(path), venv)
        raise UntrustedFileError(
            f"{path} was not saved by save_vecnormalize, and loading it as VecNormalize does runs code from the file; "
            "pass trusted=True if you trust whoever made it"
        )
    document = parse_json(text, str(path))
    try:
        if document["format"] != _FORMAT:
            raise ValueError("it was saved by another version of this package")
        if document["sha256"] != _digest(document["vecnormalize"]):
            raise ValueError("it is damaged, for it has another checksum than when it was saved")
        return _build(Decoder()(document["vecnormalize"]), venv)
    except Exception as error:  # what constructors raise for what they cannot take
        raise SavedFileError(f"{path} does not hold VecNormalize statistics for this: {reason(error)}") from error


def _build(content: dict[str, Any], venv: VecEnv) -> VecNormalize:
    for name in _FLAGS:
        if type(content[name]) is not bool:
            raise ValueError(f"{name} must be True or False")
    for name in _NUMBERS:
        if not (isinstance(content[name], (int, float)) and 0 <= content[name] < float("inf")):
            raise ValueError(f"{name} must be a number of 0 or more")
    keys = content["norm_obs_keys"]
    keys = keys if isinstance(venv.observation_space, spaces.Dict) else None
    normalize = VecNormalize(venv, **{name: content[name] for name in [*_FLAGS, *_NUMBERS]}, norm_obs_keys=keys)
    normalize.ret_rms = _statistics(content["ret_rms"], normalize.ret_rms, "returns")
    if normalize.norm_obs:
        own: Any = normalize.obs_rms
        new: Any = content["obs_rms"]
        if isinstance(own, dict):
            if set(new) != set(own):
                raise ValueError(f"the statistics are those of {', '.join(map(str, new))}, not of {', '.join(own)}")
            normalize.obs_rms = {key: _statistics(new[key], own[key], repr(key)) for key in own}
        else:
            normalize.obs_rms = _statistics(new, own, "observations")  # type: ignore[assignment]
    return normalize


def _statistics(new: Any, own: RunningMeanStd, what: str) -> RunningMeanStd:
    if not isinstance(new, RunningMeanStd) or np.shape(new.mean) != own.mean.shape:
        shape = f"of the shape {np.shape(new.mean)}" if isinstance(new, RunningMeanStd) else "missing"
        raise ValueError(f"the statistics of the {what} are {shape}, where {own.mean.shape} is needed")
    return new
