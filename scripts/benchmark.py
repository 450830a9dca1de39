"""``python scripts/benchmark.py`` is ``sb3-ddpg benchmark``."""

import sys

from sb3_ddpg_ext.__main__ import main

if __name__ == "__main__":  # processes that it starts import this file
    sys.argv.insert(1, "benchmark")
    sys.exit(main())
