"""Compare losses: python scripts/compare.py runs=runs/sweep/synthetic"""

from rsseg.__main__ import main

if __name__ == "__main__":
    main("compare")
