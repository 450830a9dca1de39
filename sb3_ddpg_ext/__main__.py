"""``python -m sb3_ddpg_ext`` and the script ``sb3-ddpg``: the command line, or the line that installs what it needs."""

import sys
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run one command.

    :param argv: Its arguments; those of the process if not given
    :return: Exit status
    """
    # An environment in a file of the current folder can be imported, as with `python -m`; also by worker processes
    sys.path.append(str(Path.cwd()))
    try:
        try:
            from sb3_ddpg_ext.cli import parse

            options = parse(argv)
            from sb3_ddpg_ext.terminal import carry_out  # with PyTorch, which takes seconds: `--help` ends before it
        except ModuleNotFoundError as error:
            sys.stderr.write(f"error: {error.name} is not installed: pip install 'sb3_ddpg_ext[train]'\n")
            return 2
        return carry_out(options.command, options.with_traceback)
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        return 130


if __name__ == "__main__":
    sys.exit(main())
