"""The processes that download a model or verify one: minutes of work, which outlive the page that asked for it.

A download's progress says how many bytes there will be; how many there are is seen on disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from arriero import hub
from arriero.web.jobs import Tell, work


def fetch_or_verify(about: Mapping[str, Any], _: Path, tell: Tell) -> dict[str, Any]:
    """`about` has do ("download" or "verify") and name; a download also source."""
    if about["do"] == "verify":
        return {"faults": hub.verify(hub.store.find(about["name"]))}
    expected = hub.download(about["name"], source=about["source"], dry_run=True)
    tell({"path": expected.path, "bytes": expected.bytes, "source": expected.source})
    return asdict(hub.download(about["name"], source=about["source"]))


if __name__ == "__main__":
    work(fetch_or_verify)
