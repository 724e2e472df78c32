"""Models with data to judge them by, one module each, for `quality_structured.py`."""
