"""The server that models with a base_url ask."""

from __future__ import annotations

from tests.server.conftest import serve  # noqa: F401  a fixture
