"""What the figures of a record depend on: the versions of packages, and the machine."""

import contextlib
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    *("sb3_ddpg_ext", "stable_baselines3", "sb3_contrib", "torch", "gymnasium", "numpy", "mujoco"),
    *("sbx_rl", "jax"),
)


def versions() -> dict[str, str]:
    """:return: The version of Python, and of those of :data:`PACKAGES` that are installed"""
    installed = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            installed[package] = version(package)
    return installed


def machine() -> dict[str, Any]:
    """:return: Operating system, processor and number of cores"""
    return {"system": platform.platform(), "processor": _processor(), "cores": os.cpu_count()}


def _processor() -> str:
    with contextlib.suppress(OSError):  # on Linux, platform.processor() does not know the name
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
