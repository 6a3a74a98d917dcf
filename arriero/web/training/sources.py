"""Which data and models the page offers, and where adapters go."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from arriero import hub, runs, settings
from arriero.runs.registry import Record
from arriero.web.datasets import source

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # what the server lets an adapter be called


def data_files(records: Sequence[Record]) -> list[str]:
    """What was uploaded, the latest first, and what earlier runs were trained on."""
    return list(dict.fromkeys([*source.uploaded(), *(record.data for record in records)]))


def models() -> list[str]:
    """The default model, those on disk, and those earlier runs began with."""
    on_disk = (hub.name_of(model.path) for model in hub.models())
    return list(dict.fromkeys([settings.default_model(), *on_disk, *hub.catalog.CATALOG]))


def free_name(data: str) -> str:
    """A name for a run on this data that no adapter has."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(data).stem).strip("-.")[:48] or "run"
    taken = {record.name for record in runs.listed()}
    names = (stem if number == 1 else f"{stem}-{number}" for number in range(1, 10_000))
    return next(name for name in names if name not in taken and not directory(name).exists())


def directory(name: str) -> Path:
    """The adapter directory of a run that was started here."""
    return settings.home() / "adapters" / name
