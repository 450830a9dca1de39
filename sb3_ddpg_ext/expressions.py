"""
Text of hyperparameter files -> values. Nothing that a file says is executed: RL Zoo calls ``eval`` on a string such as
``dict(net_arch=[64, 64])``; here it is parsed, and the only names that it can contain are those of one table. Nor does
a small file become a huge value: sizes are limited before anything is built.
"""

import ast
import re
import reprlib
from collections.abc import Mapping
from typing import Any, cast

import yaml
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common import buffers, torch_layers
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from torch import nn, optim

from sb3_ddpg_ext import prioritized
from sb3_ddpg_ext.errors import SettingsError

_ACTIVATIONS = "ReLU ReLU6 LeakyReLU ELU SELU CELU GELU SiLU Mish Softplus Softsign Tanh Hardtanh Sigmoid Identity"
# Every name that a Python expression in a file may use, and what it stands for.
_NAMES: Mapping[str, Any] = {
    prefix + name: getattr(module, name)
    for prefixes, module, names in (
        (("nn.", "th.nn.", "torch.nn."), nn, _ACTIVATIONS),
        (("th.optim.", "optim.", "torch.optim."), optim, "Adam AdamW Adamax NAdam RAdam Adagrad RMSprop SGD"),
        (("",), torch_layers, "FlattenExtractor NatureCNN CombinedExtractor"),
        (("",), buffers, "ReplayBuffer DictReplayBuffer NStepReplayBuffer"),
        (("sb3_ddpg_ext.",), prioritized, "PrioritizedReplayBuffer"),
    )
    for prefix in prefixes
    for name in names.split()
} | {"RMSpropTFLike": RMSpropTFLike, "HerReplayBuffer": HerReplayBuffer}

_CLASS_NAMES = {
    cls: name for name, cls in reversed([*_NAMES.items()])
}  # the first of its names, which RL Zoo knows, too

# YAML 1.1, which PyYAML reads, takes 1e-3 for a string and only 1.0e-3 for a number.
EXPONENT_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+\Z")


MAX_BYTES = 2**18
"""Size of a file. The longest of RL Zoo's files has a twentieth of it."""
_MAX_EXPRESSION = 10_000  # characters
_MAX_VALUES, _MAX_DEPTH = 50_000, 50  # of a YAML file, with all aliases written out


def is_name(text: str) -> bool:
    """:return: Whether this is one of the names that an expression may use"""
    return text in _NAMES


def evaluate(text: str) -> Any:
    """
    :param text: A Python expression made of literals, ``dict(...)`` and the names of :data:`_NAMES`
    :return: Its value
    :raises SettingsError: If it is anything else
    """
    if len(text) > _MAX_EXPRESSION:
        raise SettingsError(f"expected an expression of at most {_MAX_EXPRESSION} characters, got {len(text)}")
    try:
        return _build(ast.parse(text, mode="eval").body)
    except SettingsError:
        raise
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        example = "a mapping or an expression such as dict(net_arch=[64, 64])"
        raise SettingsError(f"expected {example}, got {reprlib.repr(text)}") from error


def as_data(value: Any) -> Any:
    """
    :param value: What :func:`evaluate` has built
    :return: The same as a file can hold it in mappings: names of classes, and lists in place of tuples
    """
    if isinstance(value, dict):
        return {key: as_data(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return list(map(as_data, value))
    return _CLASS_NAMES[value] if isinstance(value, type) else value


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
    """PyYAML's safe loader that also reads 1e-3 as a number, and limits what becomes of a file."""

    def get_single_node(self) -> Any:
        """
        :return: The nodes of the file, before values are made of them
        :raises ValueError: If it is too large or too deep, or has a key twice in one mapping, which means nothing
        """
        node = super().get_single_node()
        if node is not None and _measure(node, {}, 0)[0] > _MAX_VALUES:
            raise ValueError(f"it has more than {_MAX_VALUES} values, with those that its aliases repeat")
        return node


def _measure(node: yaml.Node, measured: dict[yaml.Node, tuple[int, int] | None], depth: int) -> tuple[int, int]:
    """The number of values and of levels with all aliases written out. Quick, for each node is looked at once."""
    if node not in measured:
        measured[node] = None  # until it is measured to its end
        children: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            children = node.value
        elif isinstance(node, yaml.MappingNode):
            _refuse_repeated_keys(node)
            children = [child for pair in node.value for child in pair]
        sizes = [_measure(child, measured, depth + 1) for child in children] if depth < _MAX_DEPTH else [(0, depth)]
        measured[node] = 1 + sum(values for values, _ in sizes), 1 + max((levels for _, levels in sizes), default=0)
    size = measured[node]
    if size is None:
        raise ValueError(f"{_place(node)}it contains itself")
    if size[1] > _MAX_DEPTH:
        raise ValueError(f"{_place(node)}it is nested more than {_MAX_DEPTH} levels deep")
    return size


def _refuse_repeated_keys(node: yaml.MappingNode) -> None:
    seen: set[tuple[str, str]] = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):
            if (key.tag, key.value) in seen:
                raise ValueError(f"{_place(key)}the key {reprlib.repr(key.value)} is there twice")
            seen.add((key.tag, key.value))


def _place(node: yaml.Node) -> str:
    return f"line {node.start_mark.line + 1}, column {node.start_mark.column + 1}: "


def _pairs(loader: _Loader, node: yaml.Node) -> Any:
    """RL Zoo writes its files as an ``OrderedDict``, whose pairs are data; other arguments of Python's are refused."""
    if not isinstance(node, yaml.SequenceNode):
        raise yaml.constructor.ConstructorError(None, None, "expected the pairs of an OrderedDict", node.start_mark)
    (pairs,) = loader.construct_sequence(node, deep=True)
    return dict(pairs)


def _name(_: _Loader, path: str, node: yaml.Node) -> str:
    """A class that RL Zoo has written into its files: its name, if a file may use it at all, and no import."""
    known = {f"{c.__module__}.{c.__qualname__}": name for name, c in _NAMES.items()}
    if path not in known:
        raise yaml.constructor.ConstructorError(None, None, f"{path} is not allowed here", node.start_mark)
    return known[path]


_PYTHON = "tag:yaml.org,2002:python/"
_Loader.add_constructor(f"{_PYTHON}object/apply:collections.OrderedDict", _pairs)
_Loader.add_constructor(f"{_PYTHON}tuple", cast(Any, yaml.SafeLoader.construct_yaml_seq))
_Loader.add_multi_constructor(f"{_PYTHON}name:", _name)
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", EXPONENT_NUMBER, list("-+.0123456789"))


def parse_yaml(text: str) -> Any:
    """
    :param text: YAML
    :return: Its value
    :raises ValueError: If it is not YAML, or too large: one line that says what is wrong, and where
    """
    if len(text) > MAX_BYTES:
        raise ValueError(f"it is longer than {MAX_BYTES // 1024} KiB")
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ValueError(f"{where}{error.problem}") from error
    except (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as e:
        # PyYAML lets the errors of its number and date constructors through
        raise ValueError(" ".join(str(e).split())) from e
