"""What a run is asked to do: its model and options, what makes it another run, what the list of runs keeps of it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from arriero import data, hub
from arriero.prompt import Bound, Prompting, bind
from arriero.prompt.options import as_options
from arriero.runs.registry import Record, absolute
from arriero.training.continued import continued
from arriero.training.options import TrainOptions
from arriero.training.output.directory import Identity


def bound_by(options: TrainOptions, model: str | Path | None, prompting: Prompting) -> tuple[Bound, TrainOptions]:
    """The model, and the options with the LoRA settings of the adapter to go on from. Raises as `bind`, `continued`."""
    bound = bind(model, options.from_adapter, more_tokens=options.resize_embeddings, **prompting)
    return bound, options if bound.adapter_dir is None else continued(options, bound.adapter_dir)


def identity_of(loaded: data.Loaded, bound: Bound, options: TrainOptions, prompting: Prompting) -> Identity:
    """What makes one run another than the one that an output directory holds."""
    return {
        "data": loaded.key,
        "model": hub.name_of(bound.model_dir),
        "fingerprint": hub.fingerprint(bound.model_dir),
        "system": bound.renderer.system,
        "adapter": None if bound.adapter_dir is None else hub.fingerprint(bound.adapter_dir),
        "options": json.loads(json.dumps(asdict(options))) | as_options(prompting),
    }


def record_of(
    file: str | Path,
    output: Path,
    model: str | Path | None,
    prompting: Prompting,
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
