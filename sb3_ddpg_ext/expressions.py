"""
Text of hyperparameter files -> values. Nothing that a file says is executed: RL Zoo calls ``eval`` on a string such as
``dict(net_arch=[64, 64])``; here it is parsed, and the only names that it can contain are those of one table.
"""

import ast
import re
import reprlib
from collections.abc import Mapping
from typing import Any

import yaml
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common import buffers, torch_layers
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from torch import nn, optim

from sb3_ddpg_ext.errors import SettingsError

_ACTIVATIONS = "ReLU ReLU6 LeakyReLU ELU SELU CELU GELU SiLU Mish Softplus Softsign Tanh Hardtanh Sigmoid Identity"
# Every name that a Python expression in a file may use, and what it stands for.
_NAMES: Mapping[str, Any] = {
    prefix + name: getattr(module, name)
    for prefixes, module, names in (
        (("nn.", "th.nn.", "torch.nn."), nn, _ACTIVATIONS),
        (("optim.", "th.optim.", "torch.optim."), optim, "Adam AdamW Adamax NAdam RAdam Adagrad RMSprop SGD"),
        (("",), torch_layers, "FlattenExtractor NatureCNN CombinedExtractor"),
        (("",), buffers, "ReplayBuffer DictReplayBuffer NStepReplayBuffer"),
    )
    for prefix in prefixes
    for name in names.split()
} | {"RMSpropTFLike": RMSpropTFLike, "HerReplayBuffer": HerReplayBuffer}

# YAML 1.1, which PyYAML reads, takes 1e-3 for a string and only 1.0e-3 for a number.
EXPONENT_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+\Z")


def evaluate(text: str) -> Any:
    """
    :param text: A Python expression made of literals, ``dict(...)`` and the names of :data:`_NAMES`
    :return: Its value
    :raises SettingsError: If it is anything else
    """
    try:
        return _build(ast.parse(text, mode="eval").body)
    except SettingsError:
        raise
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        example = "a mapping or an expression such as dict(net_arch=[64, 64])"
        raise SettingsError(f"expected {example}, got {reprlib.repr(text)}") from error


def _build(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=None | bool() | int() | float() | str() as value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.List(elts=items):
            return [_build(item) for item in items]
        case ast.Tuple(elts=items):
            return tuple(_build(item) for item in items)
        case ast.Dict(keys=keys, values=values) if all(isinstance(key, ast.Constant) for key in keys):
            return {_build(key): _build(value) for key, value in zip(keys, values, strict=True) if key}
        case ast.Call(func=ast.Name(id="dict"), args=[], keywords=items) if all(item.arg for item in items):
            return {item.arg: _build(item.value) for item in items}
        case ast.Name() | ast.Attribute() if ast.unparse(node) in _NAMES:
            return _NAMES[ast.unparse(node)]
    raise SettingsError(
        f"{reprlib.repr(ast.unparse(node))} is not allowed here; expected numbers, strings, lists, dict(...) and names "
        "such as nn.ReLU, th.optim.Adam or HerReplayBuffer"
    )


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader that also reads 1e-3 as a number."""


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", EXPONENT_NUMBER, list("-+.0123456789"))


def parse_yaml(text: str) -> Any:
    """
    :param text: YAML
    :return: Its value
    :raises ValueError: If it is not YAML: one line that says what is wrong, and where
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ValueError(f"{where}{error.problem}") from error
    except (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as e:
        # PyYAML lets the errors of its number and date constructors through
        raise ValueError(" ".join(str(e).split())) from e
