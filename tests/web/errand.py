"""A module whose process does as it is asked, for the tests of jobs."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from arriero.errors import NotFoundError
from arriero.web.jobs import Tell, work


def do(about: Mapping[str, Any], folder: Path, tell: Tell) -> dict[str, Any]:
    """Announce itself, then end as `about["how"]` says."""
    child = subprocess.Popen(["sleep", "600"]) if about["how"] == "wait" else None
    tell({"pid": os.getpid(), "child": child.pid if child is not None else None})
    match about["how"]:
        case "fail":
            raise NotFoundError("no camel", hint="look in the stable")
        case "break":
            raise ZeroDivisionError("a defect")
        case "die":
            os._exit(3)
        case "wait":
            signal.pause()
    return {"said": about["said"]}


if __name__ == "__main__":
    work(do)
