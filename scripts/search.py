"""Search for settings: python scripts/search.py loss=ce_dice 'loss.terms.dice.weight=tag(log,interval(0.01,10))'"""

from rsseg.__main__ import main

if __name__ == "__main__":
    main("search")
