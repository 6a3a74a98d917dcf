"""Names and paths that lead nowhere are an error at once, and not after imports that take seconds."""

from __future__ import annotations

from pathlib import Path

from arriero import hub
from arriero.hub.adapter_files import check_config


def check(
    *, data: str | Path | None = None, model: str | Path | None = None, adapter: str | Path | None = None
) -> None:
    """Raise, for what is given and is not there, what the work itself would raise; a name on a hub is fetched."""
    if adapter is not None:
        check_config(hub.adapter(adapter))
    if data is not None:
        from arriero.data import check_source

        check_source(data)
    if model is not None:
        hub.resolve(model)
