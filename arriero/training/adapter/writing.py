"""A model directory as any program reads it: the base model's own files around other weights; whole or not at all."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from transformers import GenerationConfig

from arriero import hub
from arriero.errors import ArrieroError, UsageError
from arriero.hub import store
from arriero.locks import held
from arriero.prompt import CONTRACT_FILE
from arriero.training.output.directory import refuse, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

RECEIPT = "merge.json"
FLOATS = (torch.bfloat16, torch.float16, torch.float32)
# what is copied from the base model: tokenizer, chat template, generation defaults, licence; never code or weights
COPIED = ("*.json", "*.jinja", "*.model", "*.tiktoken", "*.txt", "LICENSE*", "NOTICE*", "USE_POLICY*")
NOT_COPIED = ("config.json", RECEIPT, store.MANIFEST, CONTRACT_FILE)


@dataclass(frozen=True, slots=True)
class Types:
    """The floating-point type of each of a model's tensors as it is stored, and that of nearly all."""

    common: torch.dtype
    by_name: dict[str, torch.dtype]

    @classmethod
    def of(cls, model: PreTrainedModel) -> Types:
        """Quantised tensors count as the type the model computes in."""
        common = model.dtype if model.dtype in FLOATS else torch.bfloat16
        return cls(common, {name: tensor.dtype for name, tensor in model.state_dict().items()})

    def __getitem__(self, name: str) -> torch.dtype:
        dtype = self.by_name.get(name, self.common)
        return dtype if dtype in FLOATS else self.common

    @property
    def name(self) -> str:
        """The common type's name."""
        return str(self.common).removeprefix("torch.")


def check_free(target: Path, model_dir: Path) -> None:
    """Refuse what would overwrite something, or certainly not fit."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target} exists and is not an empty directory", hint="give another --output")
    disk = next(path for path in target.parents if path.exists())
    needed = sum(file.stat().st_size for file in model_dir.glob("*.safetensors"))
    if (free := shutil.disk_usage(disk).free) < needed:
        raise ArrieroError(
            f"the merged model takes {needed / 1e9:.1f} GB, {disk} has {free / 1e9:.1f} GB left",
            hint="make room, or give an --output on another disk",
        )


@contextlib.contextmanager
def appears_whole(target: Path) -> Iterator[Path]:
    """A directory beside `target` to write into, which takes its name in the end or goes away.

    Raises UsageError where another process writes `target`, ArrieroError where it cannot be written.
    """
    partial = target.with_name(f".{target.name}.partial")
    try:
        with held(target.with_name(f".{target.name}.lock"), lambda holder: refuse(target, holder)):
            try:
                shutil.rmtree(partial, ignore_errors=True)  # left by a process that was killed
                partial.mkdir()
                yield partial
                partial.replace(target)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        raise ArrieroError(
            f"the merged model cannot be written to {target}: {error}",
            hint="check its permissions and the disk's space",
        ) from error


def save(model: PreTrainedModel, types: Types, model_dir: Path, partial: Path) -> None:
    """Write the model, each tensor rounded once to its type, among copies of the base model's other files."""
    for name, tensor in model.state_dict(keep_vars=True).items():
        if tensor.is_floating_point() and tensor.dtype != types[name]:
            tensor.data = tensor.data.to(types[name])
            if not torch.isfinite(tensor.data).all():
                raise ArrieroError(f"merged, {name} holds values too large for {types[name]}", hint="train it again")
    if (model_dir / "generation_config.json").is_file():
        model.generation_config = GenerationConfig()  # a model's own may be one that transformers refuses to write
    model.save_pretrained(partial)
    for file in sorted({file for pattern in COPIED for file in model_dir.glob(pattern)}):
        if file.is_file() and file.name not in NOT_COPIED and not file.name.endswith(".index.json"):
            shutil.copyfile(file, partial / file.name)
    write_json(partial / "config.json", _config(model, types, model_dir))
    for file in partial.glob("*.safetensors"):
        shutil.copymode(partial / "config.json", file)  # safetensors makes files that only their owner can read


def _config(model: PreTrainedModel, types: Types, model_dir: Path) -> dict[str, Any]:
    """The base model's config.json with what merging changed, for other programs read it too and know its words."""
    config = hub.read_json(model_dir / "config.json")
    if config.pop("quantization_config", None) is not None:
        config["torch_dtype" if "torch_dtype" in config else "dtype"] = types.name
    if (rows := model.get_input_embeddings().weight.shape[0]) != hub.vocabulary(model_dir):
        hub.language_section(config)["vocab_size"] = rows
    if not model.config.tie_word_embeddings:
        config["tie_word_embeddings"] = False
    return config
