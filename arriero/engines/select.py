"""Which engine "auto" means on this machine, and why; and loading the one that was selected."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from arriero.engines.base import Engine
from arriero.engines.registry import DEFAULT_OPTIONS, ENTRIES, EngineName, EngineOptions, Entry, Precision, find
from arriero.errors import EngineError, ExportError, UnsupportedError, UsageError
from arriero.hardware import gpu_fault, gpus
from arriero.hub import four_bits
from arriero.prompt.contract import trained_in_4bit

REFERENCE = find("transformers")
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Selection:
    """An engine and the reason it was selected, for people to read."""

    entry: Entry
    reason: str

    @property
    def engine(self) -> str:
        """The engine's name."""
        return self.entry.name


def select_engine(
    engine: EngineName = "auto", model_dir: Path | None = None, options: EngineOptions = DEFAULT_OPTIONS
) -> Selection:
    """Select an engine, for a model if one is given and for what `options` ask of it.

    Raises UsageError where the engine asked for is unknown or not installed, UnsupportedError for a precision that it
    does not do, EngineError where it would get the model, an adapter or another option wrong.
    """
    if engine != "auto":
        return _checked(find(engine), model_dir, options)
    device = "cuda" if gpus() else "cpu"
    none = "no GPU here" if (fault := gpu_fault()) is None else f"no GPU that torch can use: {fault}"
    where = f"a CUDA device is there, {gpus()[0]}" if gpus() else none
    quick = next(entry for entry in ENTRIES if entry.device == device)
    if quick.missing:
        why = f"{where}; {quick.name} {quick.merit}, but {quick.missing}: {quick.install}"
        return _checked(REFERENCE, model_dir, options, why)
    if (reason := quick.lacks(model_dir, options)) is not None:
        return _checked(REFERENCE, model_dir, options, f"{where}, and {quick.name} does not do this: {reason}")
    return Selection(quick, f"{where}, and {quick.name} {quick.merit}")


def _checked(entry: Entry, model_dir: Path | None, options: EngineOptions, why: str = "asked for") -> Selection:
    if options.precision not in ("auto", *entry.precisions):
        able = next((other.name for other in ENTRIES if options.precision in other.precisions), None)
        hint = f"use --engine {able}" if able is not None else f"one of {', '.join(get_args(Precision))}"
        raise UnsupportedError(f"precision {options.precision}", entry.name, hint=hint)
    if entry.missing:
        raise UsageError(f"the {entry.name} engine is not installed: {entry.missing}", hint=entry.install)
    if (reason := entry.lacks(model_dir, options)) is not None:
        raise EngineError(f"the {entry.name} engine does not do this: {reason}", hint=entry.otherwise)
    return Selection(entry, why)


def usable() -> dict[str, str | None]:
    """Every engine, with what keeps it from being used on this machine and what to install; None: nothing does."""
    return {entry.name: f"{entry.missing}: {entry.install}" if entry.missing else None for entry in ENTRIES}


def load_engine(
    model_dir: Path,
    stop_token_ids: Sequence[int],
    engine: EngineName = "auto",
    options: EngineOptions = DEFAULT_OPTIONS,
) -> Engine:
    """Load a model into the selected engine. Announces the selection.

    Generation ends with any of `stop_token_ids`. With the precision "auto" the base is loaded in 4 bits where the first
    adapter there is to be room for was trained so and the engine can. Where "auto" selected an engine that cannot be
    given the model after all, the reference engine gets it. Raises UnsupportedError for a precision that the engine
    does not do, ExportError where the engine asked for cannot be given the model.
    """
    selection = select_engine(engine, model_dir, options)
    log.info("engine: %s (%s)", selection.engine, selection.reason, extra={"model_dir": str(model_dir)})
    try:
        return selection.entry.load(model_dir, stop_token_ids, as_trained(selection.entry, model_dir, options))
    except ExportError as error:
        if engine != "auto" or options.precision == "int4":  # the other engine's int4 is another quantisation
            raise
        log.warning("engine: %s after all, because %s", REFERENCE.name, error.message)
        try:
            return REFERENCE.load(model_dir, stop_token_ids, as_trained(REFERENCE, model_dir, options))
        except UnsupportedError:  # what was asked of the other engine
            raise error from None


def as_trained(entry: Entry, model_dir: Path | None, options: EngineOptions) -> EngineOptions:
    """The options under which an engine's base is as the first adapter was trained, where that is left open to it."""
    adapter = next(iter(options.room_for), None)
    able = entry.nf4 and four_bits.installed() and entry.precision_lacks(model_dir, "int4") is None
    if options.precision != "auto" or adapter is None or not able or not trained_in_4bit(adapter):
        return options
    log.info("precision: int4, as %s was trained (--precision overrides)", adapter.name)
    return replace(options, precision="int4")


def announce_difference(engine: Engine, adapter_dir: Path | None) -> None:
    """Warn where an adapter was trained over other base weights than those that it answers over."""
    if adapter_dir is None or trained_in_4bit(adapter_dir) == engine.in_4bit:
        return
    if engine.in_4bit:
        log.warning("%s was trained over a base with all its bits, and answers over one in 4 bits", adapter_dir.name)
        return
    hint = f"--engine {REFERENCE.name} --precision int4 has those it was trained over"
    if not four_bits.installed():
        hint += f", with {four_bits.INSTALL}"
    log.warning(
        "%s was trained over a base in 4 bits, and answers over other weights (%s): answers may differ. %s",
        adapter_dir.name,
        engine.description,
        hint,
    )
