"""The modules of a network, remembered so that a change of any of them is noticed at next to no cost."""

from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

from torch import nn


class ModuleTree:
    """
    Modules as they are now.

    :param modules: The modules, such as ``policy.modules()``
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self.modules = list(modules)
        self._attributes = [vars(module) for module in self.modules]
        self._containers = [module._modules for module in self.modules if module._modules]
        self._seen = self._look()

    def _look(self) -> list[object]:
        return [
            *chain.from_iterable(map(dict.values, self._containers)),
            # A method that is replaced on the object itself, such as `actor.forward = ...`, is one attribute more
            *map(len, self._attributes),
        ]

    def is_current(self) -> bool:
        """:return: Whether the same modules are in them, and they have as many attributes"""
        return self._look() == self._seen

    def set_training_mode(self, mode: bool) -> None:
        """
        What ``module.train(mode)`` does to each of them, without a walk from one to the next.

        :param mode: True for training, False for evaluation
        """
        for attributes in self._attributes:
            attributes["training"] = mode

    def overrides(self, name: str, method: Callable[..., Any]) -> bool:
        """
        :param name: Name of a method
        :param method: What it usually is
        :return: Whether one of the modules has another one, of its class or its own
        """
        return any(name in vars(module) or getattr(type(module), name, method) is not method for module in self.modules)
