"""Users with a token for a Ray cluster and without."""

from __future__ import annotations

import secrets

import pytest

NAMES = (
    "RAY_AUTH_TOKEN",
    "RAY_AUTH_TOKEN_PATH",
    "RAY_AUTH_MODE",
    "RAY_USAGE_STATS_ENABLED",
    "RAY_ENABLE_AUTO_CONNECT",
    "RAY_DISABLE_FAILURE_SIGNAL_HANDLER",
)


@pytest.fixture(scope="session")
def own_token():
    """One for all clusters of this process: Ray goes on using the first that it read."""
    return secrets.token_hex(32)


@pytest.fixture(scope="module")
def own_clusters(own_token):
    """An environment in which `connect("local")` starts a cluster, put back at the module's end."""
    with pytest.MonkeyPatch.context() as patch:
        for name in NAMES:
            patch.setenv(name, "")  # so that what is set meanwhile is undone
            patch.delenv(name)
        patch.setenv("RAY_AUTH_TOKEN", own_token)
        yield patch


@pytest.fixture
def no_token(monkeypatch, tmp_path):
    """A user without a token."""
    for name in NAMES:
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
