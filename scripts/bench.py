"""Measure rsseg against its peers: python scripts/bench.py losses|data|predict|gpu [key=value ...]"""

import os
import sys

os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # torch's profiler announces itself otherwise, every time

import bench_data
import bench_gpu
import bench_losses
import bench_predict

from rsseg.config.arguments import run_script

ROOMS = {"losses": bench_losses, "data": bench_data, "predict": bench_predict, "gpu": bench_gpu}

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in ROOMS:
        sys.exit(f"error: say what to measure: python scripts/bench.py {'|'.join(ROOMS)} [key=value ...]")
    room = ROOMS[sys.argv[1]]
    run_script(room.Arguments, room.main, sys.argv[2:])
