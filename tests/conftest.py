"""What holds for all tests."""

from __future__ import annotations

import os
import signal

from hypothesis import settings

# The gate tries the same examples every time; at home, new ones are welcome.
settings.register_profile("gate", derandomize=True, deadline=None)
if os.environ.get("CI"):
    settings.load_profile("gate")

# A shell that starts the suite in the background has it and its children ignore interrupts; some tests send them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
