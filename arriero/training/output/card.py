"""The model card README.md: metadata that hubs read, how to use the adapter, what it was made from and how."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from arriero.hub.catalog import CATALOG
from arriero.templates import render
from arriero.training.output.page import name_of


def card(report: Mapping[str, Any]) -> str:
    """The card of an adapter, from a parsed report.json. It names no path of the machine it was trained on."""
    shared = {**report, **{name: _shareable(report.get(name)) for name in ("model", "data", "options")}}
    base = _repository(str(shared["model"]))
    return render(
        "card.md",
        front_matter=_front_matter(base),
        name=name_of(report),
        report=shared,
        base=base,
    )


def _repository(model: str) -> str:
    """The model's name on Hugging Face where the catalogue has it, else the name it was trained under."""
    origin = CATALOG.get(model)
    return model if origin is None or origin.huggingface is None else origin.huggingface


def _front_matter(base: str) -> str:
    """The metadata as YAML. Hubs refuse a card whose base_model cannot be a repository's name; it is left out then."""
    from huggingface_hub import ModelCardData
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # its documented place

    try:
        validate_repo_id(base)
    except HFValidationError:
        base_model = None
    else:
        base_model = base
    tags = ["lora", "arriero"]
    metadata = ModelCardData(library_name="peft", base_model=base_model, pipeline_tag="text-generation", tags=tags)
    return str(metadata.to_yaml())


def _shareable(value: Any) -> Any:
    """The same document with the last part in place of each absolute path."""
    if isinstance(value, Mapping):
        return {name: _shareable(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_shareable(item) for item in value]
    return PurePath(value).name if isinstance(value, str) and PurePath(value).is_absolute() else value
