"""``python scripts/benchmark.py`` is ``sb3-ddpg benchmark``."""

import sys

from sb3_ddpg_ext.__main__ import main

sys.argv.insert(1, "benchmark")
sys.exit(main())
