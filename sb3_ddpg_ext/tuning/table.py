"""
The table of what can be tuned, one row for each hyperparameter.

A row says which values are searched, and how a value is read from and written to an entry of a hyperparameter file.
:mod:`sb3_ddpg_ext.tuning.space` builds the search space of a study from these rows.
"""

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from sb3_ddpg_ext.building import SB3_NOISES
from sb3_ddpg_ext.noise import NOISES
from sb3_ddpg_ext.settings import ALGORITHMS, set_value

Entry = dict[str, Any]
"""The settings of one environment, as a hyperparameter file has them."""

Value = float | int | str | bool | None
"""A value that Optuna can store; see :func:`encode`."""

UNSET = "default"
"""The value of a setting that the entry does not mention."""

_CUSTOM_DDPG_NOISES = ("normal", "ou", "pink")
_NOISE_CLASSES: Mapping[str, Callable[..., Any]] = {**SB3_NOISES, **NOISES}
_TORCH = frozenset(name for name in ALGORITHMS if not name.startswith("sbx_"))
_DETERMINISTIC = frozenset({"custom_ddpg", "ddpg", "td3", "sbx_ddpg", "sbx_td3"})  # explore by action noise only
_CUSTOM = frozenset({"custom_ddpg"})


def encode(value: Any) -> Any:
    """:return: The value in a form that Optuna can store: lists and mappings become JSON text"""
    return json.dumps(value) if isinstance(value, list | dict) else value


def decode(value: Any) -> Any:
    """:return: The value that :func:`encode` was given"""
    return json.loads(value) if isinstance(value, str) and value[:1] in ("[", "{") else value


def remove_value(entry: Entry, path: Sequence[str]) -> None:
    """Remove a value from an entry, together with the mappings that this leaves empty."""
    inner = entry.get(path[0])
    if len(path) == 1:
        entry.pop(path[0], None)
    elif isinstance(inner, dict):
        remove_value(inner, path[1:])
        if not inner:
            del entry[path[0]]


@dataclass(frozen=True)
class Dimension:
    """
    One row of the table.

    :param name: Name of the parameter in the study, in ``--fix`` and in ``--space``
    :param distribution: The values that are searched
    :param key: Key in an entry, with dots for nested mappings; the name if empty
    :param active_if: Name of an earlier dimension, and those of its values with which this one has an effect
    :param algos: Algorithms that have it; if None, those whose constructor has a parameter of this name
    :param is_supported: Whether it can be tuned for an entry
    :param by_default: Whether it is searched in any case; otherwise if the entry has it, or a ``--space`` file names it
    :param default: The value if the entry has none and neither has the constructor
    :param read: Reads the value from an entry that is completed by the constructor's defaults; None means that the
        value cannot be expressed. If not given, the value is looked up by ``key``
    :param write: Writes a value to an entry. If not given, the value is set by ``key``
    """

    name: str
    distribution: BaseDistribution
    key: str = ""
    active_if: tuple[str, tuple[Value, ...]] | None = None
    algos: frozenset[str] | None = None
    is_supported: Callable[[Entry], bool] = lambda _: True
    by_default: bool = True
    default: Value = UNSET
    read: Callable[[Entry], Any] | None = None
    write: Callable[[Entry, Any], None] | None = None

    @property
    def path(self) -> tuple[str, ...]:
        """The key, split at its dots"""
        return tuple((self.key or self.name).split("."))

    def read_from(self, entry: Entry) -> Any:
        """:return: The value in an entry with the constructor's defaults; None if it cannot be expressed"""
        if self.read is not None:
            return encode(self.read(entry))
        value: Any = entry
        for key in self.path:
            value = value.get(key, self.default) if isinstance(value, dict) else self.default
        return encode(value)

    def write_to(self, entry: Entry, value: Any) -> None:
        """Write a value to an entry."""
        if self.write is not None:
            self.write(entry, value)
        else:
            set_value(entry, self.path, value)

    def is_active(self, values: Mapping[str, Value]) -> bool:
        """:return: Whether it has an effect, given the values of the dimensions before it"""
        return self.active_if is None or values.get(self.active_if[0]) in self.active_if[1]


# --- Reading and writing of single settings ---


def _read_learning_rate(entry: Entry) -> Any:
    rate = entry["learning_rate"]
    return float(rate.removeprefix("lin_")) if isinstance(rate, str) else rate


def _read_critic_learning_rate(entry: Entry) -> Any:
    """That of both networks if the critic has none of its own; None for a schedule."""
    rate = entry["critic_learning_rate"]
    return _read_learning_rate(entry) if rate is None else rate if isinstance(rate, int | float) else None


def _or_unset(name: str) -> Callable[[Entry], Any]:
    return lambda entry: UNSET if entry[name] is None else entry[name]


def _read_learning_rate_schedule(entry: Entry) -> str:
    return "linear" if str(entry["learning_rate"]).startswith("lin_") else "constant"


def _write_learning_rate_schedule(entry: Entry, value: str) -> None:
    rate = entry.get("learning_rate")
    if value == "linear" and isinstance(rate, int | float):  # --fix may have set lin_... already
        entry["learning_rate"] = f"lin_{rate}"


def _transitions_per_rollout(entry: Entry) -> Any:
    """Transitions collected between two calls of train(); None if a rollout is counted in episodes."""
    train_freq = entry.get("train_freq", 1)
    return train_freq * (entry.get("n_envs") or 1) if isinstance(train_freq, int) else None


def _read_updates_per_step(entry: Entry) -> float | None:
    gradient_steps, transitions = entry["gradient_steps"], _transitions_per_rollout(entry)
    if transitions is None or gradient_steps == 0:
        return None
    return 1.0 if gradient_steps == -1 else gradient_steps / transitions


def _write_updates_per_step(entry: Entry, value: float) -> None:
    if (transitions := _transitions_per_rollout(entry)) is not None:
        entry["gradient_steps"] = max(round(value * transitions), 1)


def _read_noise_type(entry: Entry) -> str:
    noise: str | None = entry.get("noise_type", entry["action_noise"])
    return "none" if noise is None else noise


def _write_noise_type(entry: Entry, value: str) -> None:
    entry["noise_type"] = None if value == "none" else value
    if value in _NOISE_CLASSES and entry.get("noise_kwargs"):  # drop the arguments that this noise does not have
        accepted = {*inspect.signature(_NOISE_CLASSES[value]).parameters, "schedule"}
        entry["noise_kwargs"] = {name: v for name, v in entry["noise_kwargs"].items() if name in accepted}


def _read_noise_std(entry: Entry) -> float | None:
    """None if each action has a standard deviation of its own."""
    std, noise = entry.get("noise_std"), _read_noise_type(entry)
    if std is None:
        std = inspect.signature(NOISES[noise]).parameters["std"].default if noise in NOISES else 0.1
    return std if isinstance(std, int | float) else None


def _write_noise_schedule(entry: Entry, value: Any) -> None:
    if value != "constant":
        set_value(entry, ("noise_kwargs", "schedule"), value)


def _has_layer_norm(entry: Entry) -> bool:
    """Whether the critic of the entry's policy has LayerNorm if ``policy_kwargs`` do not say so."""
    return entry.get("policy") == "LayerNormPolicy"


def _read_critic_layer_norm(entry: Entry) -> Any:
    return (entry.get("policy_kwargs") or {}).get("critic_layer_norm", _has_layer_norm(entry))


def _write_critic_layer_norm(entry: Entry, value: bool) -> None:
    if value != _has_layer_norm(entry):
        set_value(entry, ("policy_kwargs", "critic_layer_norm"), value)


def _takes_layer_norm(entry: Entry) -> bool:
    names = ("MlpPolicy", "CnnPolicy", "MultiInputPolicy", "LayerNormPolicy")
    return entry.get("policy", "MlpPolicy") in names


def _takes_layers_of_any_size(entry: Entry) -> bool:
    """The residual blocks of SimBa's networks have one width."""
    return entry.get("policy") != "SimbaPolicy"


def _supports_n_steps(entry: Entry) -> bool:
    """n-step returns are set up with some replay buffers only."""
    kwargs = entry.get("replay_buffer_kwargs") or {}  # a mapping, or a string dict(...) as in RL Zoo
    supports = entry.get("replay_buffer_class") in (None, "sb3_ddpg_ext.PrioritizedReplayBuffer")
    return supports and "optimize_memory_usage" not in kwargs and not entry.get("optimize_memory_usage")


def _supports_sb3s_n_steps(entry: Entry) -> bool:
    """SB3 has none for Dict observations."""
    return _supports_n_steps(entry) and entry.get("policy") != "MultiInputPolicy"


# --- The table ---

TABLE: Sequence[Dimension] = (
    Dimension("learning_rate", FloatDistribution(1e-4, 1e-2, log=True), read=_read_learning_rate),
    Dimension(
        "learning_rate_schedule",
        CategoricalDistribution(("constant", "linear")),
        key="learning_rate",
        read=_read_learning_rate_schedule,
        write=_write_learning_rate_schedule,
    ),
    Dimension("batch_size", CategoricalDistribution((32, 64, 128, 256, 512))),
    Dimension("buffer_size", CategoricalDistribution((10_000, 100_000, 1_000_000))),
    Dimension("learning_starts", CategoricalDistribution((100, 1_000, 10_000))),
    Dimension("tau", FloatDistribution(1e-3, 0.1, log=True)),
    Dimension("gamma", CategoricalDistribution((0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9999))),
    Dimension("n_steps", CategoricalDistribution((1, 3, 5)), is_supported=_supports_sb3s_n_steps),
    Dimension("n_steps", CategoricalDistribution((1, 3, 5)), algos=_CUSTOM, is_supported=_supports_n_steps),
    Dimension("train_freq", CategoricalDistribution((1, 2, 4, 8, 16, 32))),
    Dimension(
        "updates_per_step",
        CategoricalDistribution((0.25, 0.5, 1.0, 2.0)),
        key="gradient_steps",
        read=_read_updates_per_step,
        write=_write_updates_per_step,
    ),
    Dimension("policy_delay", CategoricalDistribution((1, 2, 4))),
    Dimension("ent_coef", CategoricalDistribution(("auto", 0.1, 0.03, 0.01, 0.003))),
    Dimension(
        "net_arch",
        CategoricalDistribution(("[64, 64]", "[256, 256]", "[400, 300]")),
        key="policy_kwargs.net_arch",
        is_supported=_takes_layers_of_any_size,
    ),
    Dimension(
        "activation_fn",
        CategoricalDistribution(("nn.ReLU", "nn.Tanh", "nn.ELU")),
        key="policy_kwargs.activation_fn",
        algos=_TORCH,
        default="nn.ReLU",
    ),
    Dimension(
        "critic_layer_norm",
        CategoricalDistribution((False, True)),
        key="policy_kwargs.critic_layer_norm",
        algos=_CUSTOM,
        is_supported=_takes_layer_norm,
        read=_read_critic_layer_norm,
        write=_write_critic_layer_norm,
    ),
    Dimension(
        "noise_type",
        CategoricalDistribution(_CUSTOM_DDPG_NOISES),
        algos=_CUSTOM,
        read=_read_noise_type,
        write=_write_noise_type,
    ),
    Dimension(
        "noise_type",
        CategoricalDistribution(tuple(SB3_NOISES)),
        algos=_DETERMINISTIC - _CUSTOM,
        read=_read_noise_type,
        write=_write_noise_type,
    ),
    Dimension(
        "noise_std",
        FloatDistribution(0.03, 1.0, log=True),
        active_if=("noise_type", tuple(_NOISE_CLASSES)),
        algos=_DETERMINISTIC,
        read=_read_noise_std,
    ),
    Dimension(
        "correlation_time",
        FloatDistribution(2.0, 200.0, log=True),
        key="noise_kwargs.correlation_time",
        active_if=("noise_type", ("ou",)),
        algos=_CUSTOM,
        default=1 / 0.15,
    ),
    Dimension(
        "noise_schedule",
        CategoricalDistribution(("constant", "linear")),
        key="noise_kwargs.schedule",
        active_if=("noise_type", tuple(NOISES)),
        algos=_CUSTOM,
        default="constant",
        write=_write_noise_schedule,
    ),
    # Options that are off by default
    Dimension(
        "critic_learning_rate",
        FloatDistribution(1e-4, 1e-2, log=True),
        algos=_CUSTOM,
        by_default=False,
        read=_read_critic_learning_rate,
    ),
    Dimension(
        "max_grad_norm",
        CategoricalDistribution((UNSET, 0.5, 1.0, 10.0)),
        algos=_CUSTOM,
        by_default=False,
        read=_or_unset("max_grad_norm"),
    ),
    Dimension(
        "huber_delta", CategoricalDistribution((UNSET, 1.0, 10.0)), by_default=False, read=_or_unset("huber_delta")
    ),
    Dimension("pre_activation_coef", CategoricalDistribution((0.0, 1e-5, 1e-3)), by_default=False),
    Dimension("target_policy_noise", CategoricalDistribution((0.0, 0.1, 0.2)), algos=_CUSTOM, by_default=False),
)
"""All that can be tuned. A row comes after the rows that its ``active_if``, ``read`` and ``write`` depend on."""
