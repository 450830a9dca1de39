"""``python -m sb3_ddpg_ext`` and the script ``sb3-ddpg``: the command line, or the line that installs what it needs."""

import sys
from pathlib import Path


def main() -> int:
    """:return: Exit status"""
    # An environment in a file of the current folder can be imported, as with `python -m`; also by worker processes
    sys.path.append(str(Path.cwd()))
    try:
        try:
            from sb3_ddpg_ext.cli import main as cli
        except ModuleNotFoundError as error:
            sys.stderr.write(f"error: {error.name} is not installed: pip install 'sb3_ddpg_ext[train]'\n")
            return 2
        return cli()
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        return 130


if __name__ == "__main__":
    sys.exit(main())
