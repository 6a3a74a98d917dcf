"""What a run is asked to do: its model and options, what makes it another run, what the list of runs keeps of it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from arriero import data, hub
from arriero.prompt import PromptSettings, ResolvedModel, resolve
from arriero.prompt.options import as_options
from arriero.runs.registry import Record, absolute
from arriero.training.continued import continued
from arriero.training.options import TrainOptions
from arriero.training.output.directory import Identity


def resolve_request(
    options: TrainOptions, model: str | Path | None, prompting: PromptSettings
) -> tuple[ResolvedModel, TrainOptions]:
    """The model, and the options with the LoRA settings of the continued adapter. Raises as `resolve`, `continued`."""
    resolved = resolve(model, options.from_adapter, more_tokens=options.resize_embeddings, **prompting)
    return resolved, options if resolved.adapter_dir is None else continued(options, resolved.adapter_dir)


def identity_of(
    loaded: data.Loaded, resolved: ResolvedModel, options: TrainOptions, prompting: PromptSettings
) -> Identity:
    """What makes one run another than the one that an output directory holds."""
    return {
        "data": loaded.key,
        "model": hub.name_of(resolved.model_dir),
        "fingerprint": hub.fingerprint(resolved.model_dir),
        "system": resolved.renderer.system,
        "adapter": None if resolved.adapter_dir is None else hub.fingerprint(resolved.adapter_dir),
        "options": json.loads(json.dumps(asdict(options))) | as_options(prompting),
    }


def record_of(
    file: str | Path,
    output: Path,
    model: str | Path | None,
    prompting: PromptSettings,
    options: TrainOptions,
    workers: int,
) -> Record:
    """What the list of runs keeps."""
    return Record(
        directory=output,
        data=absolute(file),
        model=None if model is None else absolute(model),
        system=prompting.get("system"),
        options=options.changed | as_options(prompting),
        workers=workers,
    )
