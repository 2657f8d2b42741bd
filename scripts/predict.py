"""Map scenes: python scripts/predict.py run=runs/... scene=big.tif"""

from rsseg.__main__ import main

if __name__ == "__main__":
    main("predict")
