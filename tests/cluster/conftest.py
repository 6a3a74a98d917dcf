"""Users with a token for a Ray cluster and without."""

from __future__ import annotations

import pytest


@pytest.fixture
def no_token(monkeypatch, tmp_path):
    """A user without a token."""
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE", "RAY_USAGE_STATS_ENABLED"):
        monkeypatch.setenv(name, "")  # so that what is set meanwhile is undone
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / ".ray" / "auth_token"


@pytest.fixture
def token(no_token):
    """As `ray get-auth-token --generate` writes it: everybody may read it."""
    no_token.parent.mkdir()
    no_token.write_text("a" * 64)
    no_token.chmod(0o644)
    return no_token
