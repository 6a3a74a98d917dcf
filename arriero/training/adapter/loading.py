"""A base model and its adapter in memory, outside the engines, and what a directory says of its own training."""

from __future__ import annotations

import logging
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from arriero import hub
from arriero.data.options import DataOptions
from arriero.errors import ArrieroError
from arriero.hardware import fast_bfloat16, gpus
from arriero.prompt import ResolvedModel
from arriero.prompt.contract import trained_in_4bit
from arriero.training.adapter.options import Precision
from arriero.training.output.directory import REPORT

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)


def compute_type(precision: Precision) -> torch.dtype:
    """The type that a precision means on this machine; announces what auto came to, and why."""
    if precision not in ("auto", "int4"):
        return torch.bfloat16 if precision == "bfloat16" else torch.float32
    fast, where = fast_bfloat16(), "this GPU" if gpus() else "this CPU"
    log.info("precision: %s (%s %s bfloat16)", "bfloat16" if fast else "float32", where, "has" if fast else "lacks")
    return torch.bfloat16 if fast else torch.float32


def wants_4bit(adapter_dir: Path | None, precision: Precision) -> bool:
    """Whether a precision means a base in 4 bits for what an adapter, if any, is evaluated over; announced."""
    trained = adapter_dir is not None and trained_in_4bit(adapter_dir)
    if precision == "auto":
        if trained:
            log.info("the base is loaded in 4 bits, as the adapter was trained (--precision overrides)")
        return trained
    in_4bit = precision == "int4"
    if adapter_dir is not None and in_4bit != trained:
        over, now = ("4 bits", "more") if trained else ("all its bits", "4 bits")
        log.warning("%s was trained over a base in %s, and is evaluated over one in %s", adapter_dir.name, over, now)
    return in_4bit


def load_base(model_dir: Path, dtype: torch.dtype | str, *, in_4bit: bool = False) -> PreTrainedModel:
    """A model alone, computing in `dtype` ("auto": as it is stored), on the GPU where there is one."""
    device_map = hub.placed(model_dir, dtype, in_4bit=in_4bit)
    return hub.load_weights(model_dir, in_4bit=in_4bit, dtype=dtype, device_map=device_map)


def load_model(resolved: ResolvedModel, dtype: torch.dtype, *, in_4bit: bool) -> PreTrainedModel | PeftModel:
    """The model, with the adapter unmerged on it where there is one.

    `dtype` is what the base model computes in; LoRA matrices stay in float32. Raises as `hub.load_weights` and
    `hub.load_adapter`.
    """
    model = load_base(resolved.model_dir, dtype, in_4bit=in_4bit)
    return model if resolved.adapter_dir is None else hub.load_adapter(model, resolved.adapter_dir)


def trained_options(adapter_dir: Path) -> dict[str, Any]:
    """All options an adapter was trained with, by name, as its report has them; empty where it has no report."""
    options = hub.read_json(adapter_dir / REPORT).get("options", {})
    if not isinstance(options, dict):
        raise ArrieroError(f"{adapter_dir / REPORT} is damaged: its options are {type(options).__name__}, not a table")
    return options


def trained_reading(adapter_dir: Path) -> dict[str, Any]:
    """Those of `trained_options` that say how data is read and split."""
    options = trained_options(adapter_dir)
    return {field.name: options[field.name] for field in fields(DataOptions) if field.name in options}
