"""
Compiles the C code of sb3_ddpg_ext/fused while the package is built or installed. Where that fails, for lack of a
compiler for example, the package is built without it and works all the same, with PyTorch's kernels.
"""

import os
import platform
import shlex
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FLAGS = ["-std=gnu11", "-O3", "-shared", "-fPIC", "-Wall", "-Wextra"]
LEVELS = ("x86-64-v4", "x86-64-v3")  # with AVX-512, with AVX2
# NaN and infinity keep their meaning, so nothing beyond these two
KERNEL_FLAGS = ["-fno-math-errno", "-fno-trapping-math", "-lm"]


class CompileCode(BuildHookInterface):
    """Adds the compiled code to a wheel, or to the source tree of an editable installation."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 (hatchling's signature)
        """
        :param version: Whether the installation is editable
        :param build_data: What the wheel is to have
        """
        if platform.machine() not in ("x86_64", "AMD64"):
            return
        directory = Path(self.root) / "sb3_ddpg_ext" / "fused"
        code = {"identity": ("identity.c", [[]])}
        for level in LEVELS:
            flags = [*KERNEL_FLAGS, f"-march={level}"]
            code[f"kernel-{level}"] = ("kernel.c", [["-fopenmp", *flags], flags])
        compiled = [name for name, (source, options) in code.items() if self._compile(directory, source, name, options)]
        if compiled:
            tag = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data |= {"pure_python": False, "tag": f"py3-none-{tag}"}
            build_data["artifacts"] += [f"sb3_ddpg_ext/fused/compiled/{name}.so" for name in compiled]

    def _compile(self, directory: Path, source: str, name: str, options: list[list[str]]) -> bool:
        """:return: Whether it was compiled, with the first of the options with which that was possible"""
        target = directory / "compiled" / f"{name}.so"
        target.parent.mkdir(exist_ok=True)
        partial = target.with_suffix(f".{os.getpid()}.tmp")
        compiler = shlex.split(os.environ.get("CC", "cc"))
        for flags in options:
            command = [*compiler, *FLAGS, str(directory / source), *flags, "-o", str(partial)]
            try:
                subprocess.run(command, check=True, capture_output=True, text=True)
            except (OSError, subprocess.CalledProcessError) as error:
                partial.unlink(missing_ok=True)
                reason = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else error
            else:
                partial.replace(target)  # in one step: another process may have it loaded
                return True
        target.unlink(missing_ok=True)  # of an earlier version
        self.app.display_warning(f"{name} is not compiled, Python or PyTorch computes instead: {reason}")
        return False
