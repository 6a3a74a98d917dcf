"""Names of ray's that are not public: what has moved in a newer one is said here, by name."""

from __future__ import annotations

import pytest

from arriero.cluster.compat import reread_environment


def test_ray_reads_its_environment_again(monkeypatch):
    ray = pytest.importorskip("ray")
    from ray._raylet import AuthenticationMode, get_authentication_mode

    why = f"ray {ray.__version__} takes RAY_AUTH_MODE from elsewhere than its Config: see arriero/cluster/compat.py"
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    reread_environment()
    assert get_authentication_mode() == AuthenticationMode.DISABLED, why
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    reread_environment()
    assert get_authentication_mode() == AuthenticationMode.TOKEN, why
