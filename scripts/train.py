"""``python scripts/train.py --env Pendulum-v1`` is ``sb3-ddpg train --env Pendulum-v1``."""

import sys

from sb3_ddpg_ext.__main__ import main

if __name__ == "__main__":  # processes that it starts import this file
    sys.argv.insert(1, "train")
    sys.exit(main())
