"""Real models as the user has them, for tests that are marked `model`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

USER_HOME = os.environ.get("ARRIERO_HOME")  # before the tests set their own


def linked(session_home: Path, name: str) -> Path:
    """A real model as the user has it, downloaded if it is not there yet; under the tests' home by a link."""
    from arriero import hub

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("ARRIERO_HOME")
        if USER_HOME is not None:
            patch.setenv("ARRIERO_HOME", USER_HOME)
        path = hub.resolve(name).resolve()
    link = session_home / "models" / path.name
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.exists():  # two tests may want the same
        link.symlink_to(path)
    return link
