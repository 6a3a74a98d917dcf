"""What a run would do and cost, without training and without loading the model."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

from arriero import data, hub, runs
from arriero.hardware import machine
from arriero.prompt import PromptSettings
from arriero.runs.state import report_of
from arriero.training.examples import prepare
from arriero.training.options import TrainOptions
from arriero.training.planning.estimate import estimate
from arriero.training.request import resolve_request

# What makes a step of the same model faster or slower.
SPEED = ("precision", "load_in_4bit", "shard", "recompute", "prefix_sharing", "use_dora", "target_modules")


@dataclass(frozen=True, slots=True)
class Forecast:
    """What `train` would do with the same arguments.

    `rows` = `samples` + `held_out` + `dropped`. Tokens are those of all epochs: `tokens` of the samples, of which
    `computed_tokens` are computed where their common prefix is shared. `seconds` of the steps alone, without
    evaluations; `speed_source` says what they were reckoned from, `speed` is in computed tokens per second.
    """

    model: str
    system: str | None
    rows: int
    samples: int
    held_out: int
    dropped: int
    cut: int
    epochs: float
    steps: int
    tokens: int
    computed_tokens: int
    longest: int
    seconds: float
    memory_bytes: int
    speed: float
    speed_source: str


def forecast(
    file: str | Path, options: TrainOptions, *, model: str | Path | None = None, **prompting: Unpack[PromptSettings]
) -> Forecast:
    """Read and render the data as `train` does, and reckon. Raises what `train` raises before it begins."""
    loaded = data.load(file, options)
    resolved, options = resolve_request(options, model, prompting)
    renderer = replace(resolved.renderer, answers=options.answers)
    window = hub.window(resolved.model_dir)
    examples = prepare(loaded, renderer, options, window)
    seen = data.inspect(loaded, renderer, options, window=window, batch_size=options.batch_size, limit=0)
    samples = len(examples.train)
    times = options.epochs * samples / seen.kept  # the held-out rows are taken to be as long as the others
    once = seen.tokens if options.prefix_sharing == "off" else seen.computed_tokens
    computed = round(times * once)
    cost = estimate(
        resolved.model_dir,
        tokens=computed,
        step_tokens=once * min(options.batch_size, samples) // seen.kept,
        longest=seen.longest,
        row_tokens=options.row_tokens,
        in_4bit=options.load_in_4bit,
    )
    before = next(_earlier(hub.fingerprint(resolved.model_dir), options), None)
    if before is None:
        source, speed = "a short measurement of this machine, very roughly", computed / cost.seconds_per_epoch
    else:
        source, speed = f"the run {before[0]} of the same model", before[1]
    return Forecast(
        model=hub.name_of(resolved.model_dir),
        system=renderer.system,
        rows=seen.rows,
        samples=samples,
        held_out=examples.held_out_rows,
        dropped=len(seen.dropped),
        cut=seen.cut,
        epochs=options.epochs,
        steps=math.ceil(options.epochs * math.ceil(samples / options.batch_size)),  # as transformers counts
        tokens=round(times * seen.tokens),
        computed_tokens=computed,
        longest=seen.longest,
        seconds=round(computed / speed, 1),
        memory_bytes=cost.memory_bytes,
        speed=round(speed, 1),
        speed_source=source,
    )


def _earlier(fingerprint: str, options: TrainOptions) -> Iterator[tuple[Path, float]]:
    """Finished runs here of the same weights, computed in the same way: directory, computed tokens per second.

    Of one worker: the speed of several is that of all together. One that was only finished has made no step.
    """
    wished = _speed_options(options.changed)
    for record in runs.listed():
        report = report_of(record)
        same = (report.get("base_fingerprint"), report.get("machine")) == (fingerprint, machine())
        if not same or record.workers > 1 or _speed_options(record.options) != wished:
            continue
        if speed := float(report["result"]["computed_tokens_per_second"]):
            yield record.directory, speed


def _speed_options(options: Any) -> dict[str, Any]:
    """Those of the changed options that matter, as JSON gives them back."""
    matching: dict[str, Any] = json.loads(json.dumps({name: options[name] for name in SPEED if name in options}))
    return matching
