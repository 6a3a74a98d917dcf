"""Continued training of an adapter: its LoRA settings are the run's, for they are the shape of its matrices."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arriero import hub
from arriero.errors import UsageError
from arriero.hub.adapter_files import CONFIG
from arriero.prompt.contract import trained_in_4bit
from arriero.training.options import TrainOptions

if TYPE_CHECKING:
    from peft import LoraConfig

log = logging.getLogger(__name__)
NAMES = {  # ours: PEFT's
    "rank": "r",
    "alpha": "lora_alpha",
    "use_rslora": "use_rslora",
    "use_dora": "use_dora",
    "target_modules": "target_modules",
}
UNDONE = ("modules_to_save", "trainable_token_indices", "target_parameters", "layer_replication", "lora_bias")


def continued(options: TrainOptions, adapter_dir: Path) -> TrainOptions:
    """The options with the LoRA settings that the adapter has, over a base in 4 bits where it was trained so.

    Raises UsageError where another value was given for one of them, or the adapter has weights besides LoRA's matrices.
    """
    config = hub.read_json(adapter_dir / CONFIG)
    undone = [name for name in UNDONE if config.get(name)]
    undone += ["bias"] if config.get("bias") not in (None, "none") else []
    if undone:
        raise UsageError(
            f"{adapter_dir.name} has more than LoRA's matrices ({', '.join(undone)}), which are not trained further",
            hint="train a new adapter, without --from-adapter",
        )
    settings: dict[str, Any] = {ours: config[theirs] for ours, theirs in NAMES.items() if theirs in config}
    targets = settings["target_modules"]
    settings["target_modules"] = (targets,) if isinstance(targets, str) else tuple(sorted(targets))
    given = options.changed
    if "target_modules" in given:
        given["target_modules"] = tuple(sorted(given["target_modules"]))
    for name in settings.keys() & given.keys():
        if settings[name] != given[name]:
            raise UsageError(
                f"{name} is {given[name]}, and the adapter {adapter_dir.name} has {settings[name]}",
                hint="leave the option out, or train a new adapter, without --from-adapter",
            )
    if trained_in_4bit(adapter_dir) and not options.load_in_4bit:
        log.info("the base is loaded in 4 bits, as %s was trained", adapter_dir.name)
        settings["load_in_4bit"] = True
    elif options.load_in_4bit and not trained_in_4bit(adapter_dir):
        log.warning("%s was not trained over a base in 4 bits; it is trained further over one", adapter_dir.name)
    return replace(options, from_adapter=str(adapter_dir), **settings)


def config_of(options: TrainOptions) -> LoraConfig:
    """The configuration of the adapter to continue, with this run's dropout."""
    from peft import LoraConfig

    config: LoraConfig = LoraConfig.from_pretrained(str(options.from_adapter), local_files_only=True)
    config.inference_mode = False
    config.lora_dropout = options.dropout
    return config
