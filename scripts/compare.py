"""Compare losses: python scripts/compare.py runs=runs/sweep/synthetic"""

from rsseg.commands.compare import main

if __name__ == "__main__":
    main()
