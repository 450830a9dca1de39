"""
Compiles sb3_ddpg_ext/fused/kernel.c while the package is built or installed. Where that fails, for lack of a compiler
for example, the package is built without it and works all the same, with PyTorch's kernels.
"""

import os
import platform
import shlex
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# NaN and infinity keep their meaning, so nothing beyond these two
FLAGS = ["-std=gnu11", "-O3", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC", "-Wall", "-Wextra"]
LEVELS = ("x86-64-v4", "x86-64-v3")  # with AVX-512, with AVX2


class CompileKernel(BuildHookInterface):
    """Adds the kernel to a wheel, or to the source tree of an editable installation."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 (hatchling's signature)
        """
        :param version: Whether the installation is editable
        :param build_data: What the wheel is to have
        """
        if platform.machine() not in ("x86_64", "AMD64"):
            return
        directory = Path(self.root) / "sb3_ddpg_ext" / "fused"
        compiled = [level for level in LEVELS if self._compile(directory, level)]
        if compiled:
            tag = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data |= {"pure_python": False, "tag": f"py3-none-{tag}"}
            build_data["artifacts"] += [f"sb3_ddpg_ext/fused/compiled/kernel-{level}.so" for level in compiled]

    def _compile(self, directory: Path, level: str) -> bool:
        """:return: Whether there is a kernel for this level of processors now"""
        return self._tried(directory, level, ["-fopenmp"]) or self._tried(directory, level, [])

    def _tried(self, directory: Path, level: str, options: list[str]) -> bool:
        target = directory / "compiled" / f"kernel-{level}.so"
        target.parent.mkdir(exist_ok=True)
        partial = target.with_suffix(f".{os.getpid()}.tmp")
        compiler = shlex.split(os.environ.get("CC", "cc"))
        options = [*FLAGS, *options, f"-march={level}"]
        command = [*compiler, *options, str(directory / "kernel.c"), "-lm", "-o", str(partial)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            partial.unlink(missing_ok=True)
            target.unlink(missing_ok=True)  # of an earlier version
            reason = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else error
            if "-fopenmp" not in options:  # otherwise it is tried without
                self.app.display_warning(f"The kernel for {level} is not compiled, PyTorch computes instead: {reason}")
            return False
        partial.replace(target)  # in one step: another process may have it loaded
        return True
