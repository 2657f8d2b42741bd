"""Measure rsseg against its peers: python scripts/bench.py losses|data|train|predict|gpu [key=value ...]"""

import os
import sys
from importlib import import_module

from rsseg.config.arguments import run_command

ROOMS = ("losses", "data", "train", "predict", "gpu")
os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # torch's profiler announces itself otherwise, every time

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in ROOMS:
        sys.exit(f"error: say what to measure: python scripts/bench.py {'|'.join(ROOMS)} [key=value ...]")
    room = import_module(f"bench_{sys.argv[1]}")
    run_command(room.Arguments, room.main, sys.argv[2:])
