"""Remembers the modules of a network, to find out quickly whether any of them was replaced."""

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from sb3_ddpg_ext.fused.identity import Watch


class ModuleTree:
    """
    A list of modules, as they are now.

    :param modules: The modules, such as ``policy.modules()``
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self.modules = list(modules)
        self._attributes = [vars(module) for module in self.modules]
        # A method that is replaced on the object itself (`actor.forward = ...`) is one more attribute
        self._watch = Watch(dicts=[module._modules for module in self.modules], sized=self._attributes)

    def is_current(self) -> bool:
        """:return: Whether all modules still have the same children and the same number of attributes"""
        return bool(self._watch.is_current())

    def set_training_mode(self, mode: bool) -> None:
        """
        Set the mode of all modules, as ``module.train(mode)`` does, but without traversing the tree.

        :param mode: True for training, False for evaluation
        """
        for attributes in self._attributes:
            attributes["training"] = mode

    def overrides(self, name: str, method: Callable[..., Any]) -> bool:
        """
        :param name: Name of a method
        :param method: Its usual implementation
        :return: Whether one of the modules, or its class, has another implementation
        """
        return any(name in vars(module) or getattr(type(module), name, method) is not method for module in self.modules)
