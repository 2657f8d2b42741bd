"""Export a run's model: python scripts/export.py run=runs/... to=onnx"""

from rsseg.__main__ import main

if __name__ == "__main__":
    main("export")
