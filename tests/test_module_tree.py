"""A tree of modules notices what is put into it, and sets their modes."""

import pytest
from torch import nn

from sb3_ddpg_ext.module_tree import ModuleTree


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.ReLU(), nn.Linear(3, 1)))


def replace_a_module(net: nn.Sequential) -> None:
    net[1][0] = nn.ReLU()


def insert_a_module(net: nn.Sequential) -> None:
    net[1].insert(1, nn.Dropout())


def delete_a_module(net: nn.Sequential) -> None:
    del net[1][1]


def replace_a_method(net: nn.Sequential) -> None:
    net[1][0].forward = lambda x: x


@pytest.mark.parametrize("change", [replace_a_module, insert_a_module, delete_a_module, replace_a_method])
def test_changes_are_noticed(change: object) -> None:
    net = network()
    tree = ModuleTree(net.modules())
    assert tree.is_current()
    net.train()
    net[0].weight.data.zero_()
    assert tree.is_current()
    change(net)
    assert not tree.is_current()
    assert ModuleTree(net.modules()).is_current()


def test_modes() -> None:
    net = network()
    ModuleTree(net.modules()).set_training_mode(False)
    assert not any(module.training for module in net.modules())
    ModuleTree(net[1].modules()).set_training_mode(True)
    assert [module.training for module in net.modules()] == [False, False, True, True, True]


def test_methods_that_are_overridden() -> None:
    class Frozen(nn.Linear):
        def train(self, mode: bool = True) -> "Frozen":
            return self

    net = network()
    assert not ModuleTree(net.modules()).overrides("train", nn.Module.train)
    net[0].train = lambda mode=True: net[0]
    assert ModuleTree(net.modules()).overrides("train", nn.Module.train)
    assert ModuleTree([Frozen(1, 1)]).overrides("train", nn.Module.train)
