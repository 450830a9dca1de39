"""The examples in docstrings print what they say, and every public class and equation has one."""

import doctest
import importlib
import inspect
import pkgutil
from typing import Any

import pytest

import sb3_ddpg_ext
from sb3_ddpg_ext import buffers, equations

MODULES = [
    module.name
    for module in pkgutil.walk_packages(sb3_ddpg_ext.__path__, "sb3_ddpg_ext.")
    if module.name != "sb3_ddpg_ext.__main__"
]


def defined_in(module: Any) -> list[Any]:
    public = [item for name, item in vars(module).items() if not name.startswith("_")]
    functions_and_classes = [item for item in public if inspect.isfunction(item) or inspect.isclass(item)]
    return [item for item in functions_and_classes if item.__module__ == module.__name__]


RESULTS = {"ComparisonResult", "TuningResult"}  # the examples of compare and tune return them
NAMES = [name for name in sb3_ddpg_ext.__all__ if name not in RESULTS]
PUBLIC = [*(getattr(sb3_ddpg_ext, name) for name in NAMES), *defined_in(buffers), *defined_in(equations)]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


@pytest.mark.parametrize("item", PUBLIC, ids=lambda item: item.__name__)
def test_has_an_example(item: Any) -> None:
    assert ">>>" in (item.__doc__ or "")
