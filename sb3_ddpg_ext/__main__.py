"""``python -m sb3_ddpg_ext`` and the script ``sb3-ddpg``: the command line, or the line that installs what it needs."""

import sys


def main() -> int:
    """:return: exit status"""
    try:
        from sb3_ddpg_ext.cli import main as cli

        return cli()
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("sb3_ddpg_ext"):
            raise
        sys.stderr.write(f"error: {error.name} is not installed: pip install 'sb3_ddpg_ext[train]'\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        return 130


if __name__ == "__main__":
    sys.exit(main())
