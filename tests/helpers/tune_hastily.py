"""``sb3-ddpg tune`` that takes a worker for dead after seconds, not minutes."""

import sys

from sb3_ddpg_ext.__main__ import main
from sb3_ddpg_ext.tuning import storage

storage.HEARTBEAT_SECONDS, storage.GRACE_SECONDS = 1, 5

if __name__ == "__main__":  # processes that it starts import this file
    sys.argv.insert(1, "tune")
    sys.exit(main())
