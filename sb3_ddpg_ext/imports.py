"""
Import paths of files -> classes. Importing a module runs it, so it has to be installed, or to lie in the current
folder; nothing but a class of the expected kind is called.
"""

import importlib
import inspect
import re
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from sb3_ddpg_ext.errors import SettingsError, nearest, one_line

T = TypeVar("T")


def import_class(path: str, base: type[T], not_from: Path | None = None) -> type[T]:
    """
    Import a class that a file or a command line names.

    :param path: ``package.module.Class``
    :param base: What the class has to be a subclass of
    :param not_from: A run directory whose files name the class. It may have come from anywhere, so modules are not
        taken from it
    :return: The class
    :raises SettingsError: If it cannot be imported, or is something else
    """
    module, _, attribute = path.rpartition(".")
    if not (module and all(part.isidentifier() for part in path.split("."))):
        raise SettingsError(f"expected an import path such as package.module.Class, got {path!r}")
    check_origin(module, not_from)
    try:
        target = load_attribute(f"{module}:{attribute}")
    except (Exception, SystemExit) as error:  # a module that is imported can raise anything
        raise SettingsError(
            f"cannot import {path!r} ({one_line(error)}); install its package or mend the path"
        ) from error
    if not (isinstance(target, type) and issubclass(target, base)):
        library = base.__module__.split(".")[0]
        raise SettingsError(f"expected a subclass of {library}'s {base.__name__}, got {path!r}")
    return target


def check_origin(module: str, not_from: Path | None) -> None:
    """
    Refuse a module that would be taken from a run directory, or from a package around it.

    :param module: ``package.module``. Nothing of it is imported
    :param not_from: The run directory; None allows everything
    :raises SettingsError: If the module's package lies in the directory, or the directory in the package
    """
    if not_from is None:
        return
    directory = not_from.resolve()
    package = module.split(".")[0]
    for place in _places(package):
        if place.is_relative_to(directory) or directory.is_relative_to(place):
            raise SettingsError(
                f"{module!r} would be imported from {place}, beside the files that name it; if you trust their "
                "author, say --trusted"
            )


def check_env_origin(env_id: str, not_from: Path | None) -> None:
    """
    As :func:`check_origin`, for the module of an environment's id.

    :param env_id: ``Env-v0``, or ``package:Env-v0``, of which Gymnasium imports the package
    :param not_from: The run directory; None allows everything
    :raises SettingsError: As ``check_origin``
    """
    if ":" in env_id:
        check_origin(env_id.split(":")[0], not_from)


def _places(package: str) -> list[Path]:
    """The file of a top-level module, or the folders of a package: several for one without ``__init__.py``."""
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):  # __main__ has no specification
        spec = None
    if spec is None:
        return []
    if spec.submodule_search_locations is not None:
        return [Path(location).resolve() for location in spec.submodule_search_locations]
    return [Path(spec.origin).resolve()] if spec.has_location and spec.origin else []


def load_attribute(location: str) -> Any:
    """
    :param location: ``package.module:name``
    :return: What has that name
    :raises ImportError: If there is no such module
    :raises AttributeError: If there is no such name in it
    """
    module, attribute = location.split(":")
    return getattr(importlib.import_module(module), attribute)


_UNEXPECTED = re.compile(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'")


def why_not_made(error: BaseException, targets: Iterable[Any]) -> str:
    """
    :param error: What was raised while objects were made with the arguments of a file
    :param targets: Their classes; anything else is left out
    :return: In one line, what was wrong; for an argument that a constructor does not have, with the nearest one
    """
    found = _UNEXPECTED.search(str(error))
    for target in targets:
        if found and isinstance(target, type) and found[1] in (cls.__name__ for cls in target.__mro__):
            return f"{found[0]}; {nearest(found[2], parameters_of(target))}"
    return one_line(error)


def parameters_of(target: type) -> dict[str, inspect.Parameter]:
    """:return: The parameters of a class's constructor, and those that it hands on as ``**kwargs``"""
    parameters: dict[str, inspect.Parameter] = {}
    for cls in target.__mro__:
        if "__init__" in vars(cls):
            # `eval_str` resolves annotations that are strings: it runs code of the class, nothing of the entry
            own = list(inspect.signature(cls.__init__, eval_str=True).parameters.values())[1:]  # type: ignore[misc]
            parameters = {p.name: p for p in own if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)} | parameters
            if not any(p.kind is p.VAR_KEYWORD for p in own):
                break
    return parameters
