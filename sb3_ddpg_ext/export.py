"""
A trained policy as one file that needs neither this package nor Stable-Baselines3: raw observations in, actions of the
environment out. The file is compared with ``predict`` before it gets its name.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch as th
from gymnasium import spaces
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

from sb3_ddpg_ext.arguments import ExportArgs, ExportFormat
from sb3_ddpg_ext.building import make_env
from sb3_ddpg_ext.errors import SettingsError, one_line, require
from sb3_ddpg_ext.evaluation import find_model
from sb3_ddpg_ext.files import atomic

Observations = dict[str, npt.NDArray[Any]]
"""For each input of the file, in its order, a batch of observations"""

_SUFFIXES: dict[ExportFormat, str] = {"torchscript": ".pt", "onnx": ".onnx"}
_SAMPLES = 64  # random observations, and as many extreme ones
_EXTREME = 1_000.0  # where bounds are wider, or none: of sums of much larger numbers float32 keeps too few digits
TOLERANCE = 1e-4
"""How far an action of the file may be from that of ``predict``, as a part of the action's range"""


class DeterministicPolicy(nn.Module):
    """
    From raw observations to actions of the environment: ``VecNormalize``, and then ``predict(deterministic=True)``.

    :param model: Whose policy acts
    """

    def __init__(self, model: OffPolicyAlgorithm) -> None:
        super().__init__()
        model.policy.set_training_mode(False)
        self.policy = model.policy
        normalize = model.get_vec_normalize_env()
        self.space = model.observation_space if normalize is None else normalize.venv.observation_space
        self.inputs = [*self.space.spaces] if isinstance(self.space, spaces.Dict) else ["observation"]
        self._statistics = {} if normalize is None else _statistics(normalize, self.inputs)
        action_space = model.action_space
        assert isinstance(action_space, spaces.Box)  # the algorithms of this package have no other
        self._low, self._high = th.as_tensor(action_space.low), th.as_tensor(action_space.high)

    def forward(self, *observations: th.Tensor) -> th.Tensor:
        """
        :param observations: A batch for each of :attr:`inputs`, ``[n, ...]``
        :return: Actions, ``[n, actions]``
        """
        parts = {
            name: self._statistics[name](part) if name in self._statistics else part
            for name, part in zip(self.inputs, observations, strict=True)
        }
        observation = parts if isinstance(self.space, spaces.Dict) else parts["observation"]
        actions = self.policy._predict(observation, deterministic=True)
        if self.policy.squash_output:
            return self._low + 0.5 * (actions + 1.0) * (self._high - self._low)
        return th.minimum(th.maximum(actions, self._low), self._high)


def _statistics(normalize: VecNormalize, inputs: Sequence[str]) -> dict[str, Callable[[th.Tensor], th.Tensor]]:
    """For each input that ``VecNormalize`` normalises, a function that does the same, in float64 as it does."""
    if not normalize.norm_obs:
        return {}

    def normalizer(statistics: RunningMeanStd) -> Callable[[th.Tensor], th.Tensor]:
        mean, scale = th.as_tensor(statistics.mean), th.as_tensor(np.sqrt(statistics.var + normalize.epsilon))
        limit = normalize.clip_obs
        return lambda observation: ((observation.double() - mean) / scale).clamp(-limit, limit).float()

    if isinstance(normalize.obs_rms, dict):
        return {name: normalizer(normalize.obs_rms[name]) for name in inputs if name in normalize.obs_rms}
    return {"observation": normalizer(normalize.obs_rms)}


def export(args: ExportArgs) -> tuple[Path, float]:
    """
    Write a policy in another format.

    :param args: Which model, and which format
    :return: The file, and the largest difference between one of its actions and one of the model's, as a part of the
        range of actions
    :raises SettingsError: If the model cannot be loaded or exported, or if the file acts differently
    """
    if args.format == "onnx":
        require("onnx", "export")
        require("onnxruntime", "export")
    saved = find_model(args.run_or_model, args.model, args.algo, args.env, trusted=args.trusted)
    if saved.algo.startswith("sbx_"):
        raise SettingsError(f"{saved.algo} is SBX's, whose policies are JAX's: only those of PyTorch can be exported")
    file = args.output or saved.path.with_suffix(_SUFFIXES[args.format])
    env = make_env(
        saved.env, saved.settings, 1, 0, training=False, vecnormalize=saved.vecnormalize, trusted=args.trusted
    )
    with contextlib.closing(env):
        model = saved.load(env, "cpu", trusted=args.trusted)
        try:
            with atomic(file) as partial:
                write(DeterministicPolicy(model), partial, args.format)
                difference = check(partial, model, args.format)
        except SettingsError as error:
            raise SettingsError(f"{saved.path}: {error}") from error
    return file, difference


def write(policy: DeterministicPolicy, file: Path, format: ExportFormat) -> None:  # noqa: A002
    """
    Write a policy, unchecked.

    :param policy: The policy
    :param file: The file
    :param format: Its format
    :raises SettingsError: If PyTorch cannot write it
    """
    example = tuple(th.as_tensor(part[:2]) for part in observations(policy.space).values())
    try:
        with _quiet_tracing(), th.no_grad():
            if format == "torchscript":
                # Freezing leaves out what does not act, such as the critics
                traced = th.jit.freeze(th.jit.trace(policy.eval(), example, check_trace=False))
                with file.open("wb") as opened:  # a name without a suffix is refused
                    th.jit.save(traced, opened)
            else:
                batches = {name: {0: "batch"} for name in [*policy.inputs, "action"]}
                th.onnx.export(
                    policy.eval(),
                    example,
                    str(file),
                    input_names=policy.inputs,
                    output_names=["action"],
                    dynamic_axes=batches,
                    dynamo=False,
                )
    except OSError:  # such as a full disk
        raise
    except Exception as error:  # what PyTorch raises for operations that a format does not have
        raise SettingsError(f"its policy cannot be written as {format}: {one_line(error)}") from error


@contextlib.contextmanager
def _quiet_tracing() -> Iterator[None]:
    """PyTorch warns that tracing is out of fashion, and wherever SB3 checks something; but the result is compared."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def check(file: Path, model: OffPolicyAlgorithm, format: ExportFormat) -> float:  # noqa: A002
    """
    Compare the actions of a file with those of the model, for random observations and for extreme ones, many at once
    and one alone.

    :param file: The file
    :param model: The model, with its environment
    :param format: ExportFormat of the file
    :return: The largest difference, as a part of the range of actions
    :raises SettingsError: If it is larger than :data:`TOLERANCE`
    """
    normalize = model.get_vec_normalize_env()
    space = model.observation_space if normalize is None else normalize.venv.observation_space
    run, several = _runner(file, format), observations(space)
    action_space: Any = model.action_space
    largest = 0.0
    for batch in (several, {name: part[-1:] for name, part in several.items()}):
        observation: Any = batch if isinstance(space, spaces.Dict) else batch["observation"]
        if normalize is not None:
            observation = normalize.normalize_obs(observation)
        expected, _ = model.predict(observation, deterministic=True)
        found = run(batch)
        if found.shape != expected.shape:
            raise SettingsError(f"the {format} file returns actions of shape {found.shape}, the model {expected.shape}")
        difference = np.abs(found - expected) / (action_space.high - action_space.low)
        if not (difference <= TOLERANCE).all():  # also for NaN
            raise SettingsError(
                f"the {format} file acts differently: by {difference.max():.2g} of the range of actions, where "
                f"{TOLERANCE:g} is allowed; nothing is written"
            )
        largest = max(largest, float(difference.max()))
    return largest


def observations(space: spaces.Space[Any]) -> Observations:
    """
    :param space: Space of the raw observations
    :return: Random observations, then extreme ones; the same at each call
    """
    parts = space.spaces if isinstance(space, spaces.Dict) else {"observation": space}
    rng = np.random.default_rng(0)
    return {name: _batch(part, rng) for name, part in parts.items()}


def _batch(space: spaces.Space[Any], rng: np.random.Generator) -> npt.NDArray[Any]:
    space.seed(int(rng.integers(2**31)))
    batch: npt.NDArray[Any] = np.stack([np.asarray(space.sample(), space.dtype) for _ in range(2 * _SAMPLES)])
    if not isinstance(space, spaces.Box):
        return batch
    low, high = np.clip([space.low, space.high], -_EXTREME, _EXTREME)
    batch[_SAMPLES:] = np.where(rng.random(batch[_SAMPLES:].shape) < 0.5, low, high)
    batch[-2:] = low, high
    clipped: npt.NDArray[Any] = np.clip(batch, low, high)
    return clipped.astype(space.dtype)


def _runner(file: Path, format: ExportFormat) -> Callable[[Observations], npt.NDArray[Any]]:  # noqa: A002
    """:return: The policy of a file, as whoever is given the file would run it"""
    if format == "torchscript":
        with _quiet_tracing():
            module = th.jit.load(str(file))

        def run_module(batch: Observations) -> npt.NDArray[Any]:
            with th.no_grad():
                actions: th.Tensor = module(*map(th.as_tensor, batch.values()))
            return np.asarray(actions)

        return run_module
    import onnxruntime  # an extra, which takes a while to import

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])

    def run_session(batch: Observations) -> npt.NDArray[Any]:
        (actions,) = session.run(["action"], batch)
        return np.asarray(actions)

    return run_session
