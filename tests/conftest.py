"""What holds for all tests."""

from __future__ import annotations

import os

from hypothesis import settings

# The gate tries the same examples every time; at home, new ones are welcome.
settings.register_profile("gate", derandomize=True, deadline=None)
if os.environ.get("CI"):
    settings.load_profile("gate")
