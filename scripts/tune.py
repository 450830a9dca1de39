"""``python scripts/tune.py --env Pendulum-v1`` is ``sb3-ddpg tune --env Pendulum-v1``."""

import sys

from sb3_ddpg_ext.__main__ import main

if __name__ == "__main__":  # processes that it starts import this file
    sys.argv.insert(1, "tune")
    sys.exit(main())
