"""What has no public name in ray, in one place.

Seen with ray 2.60; tests/cluster/test_compat.py names ray when a newer one has it elsewhere.
"""

from __future__ import annotations

import sys


def reread_environment() -> None:
    """Have an imported ray read RAY_AUTH_MODE again, as ray itself does where it sets the mode."""
    if "ray" in sys.modules:
        sys.modules["ray"]._raylet.Config.initialize("")
