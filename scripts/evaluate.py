"""Score a run: python scripts/evaluate.py run=runs/... split=test"""

from rsseg.__main__ import main

if __name__ == "__main__":
    main("evaluate")
