"""Score a run: python scripts/evaluate.py run=runs/... split=test"""

from rsseg.commands.evaluate import main

if __name__ == "__main__":
    main()
