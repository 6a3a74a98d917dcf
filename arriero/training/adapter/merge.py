"""merge(): an adapter and its base model -> one ordinary Hugging Face model directory, with a receipt.

    base, as stored ──> float32 (exact) ──+ adapter, float32──> rounded once to the stored type ──> safetensors

Everything that is not a weight is the base model's own file, byte for byte; only config.json may say something new (no
quantisation, embeddings no longer tied, or more of them), and a chat template that was given for training is added.
The adapter's contract goes into the directory, so the merged model is prompted as the adapter was. The directory
appears whole, contract and receipt included, or not at all.
"""

from __future__ import annotations

import gc
import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from arriero import data, hub
from arriero.data import DataOptions
from arriero.errors import ArrieroError, MemoryLimitError, UsageError
from arriero.messages import Conversation
from arriero.prompt import Contract, Rendered, ResolvedModel, resolve
from arriero.prompt.contract import trained_in_4bit
from arriero.training.adapter.evaluate import held_out
from arriero.training.adapter.loading import load_base, trained_options, trained_reading
from arriero.training.adapter.receipt import Difference, difference, logits_of
from arriero.training.adapter.writing import RECEIPT, Types, appears_whole, check_free, save
from arriero.training.compat import forget_weight_conversions
from arriero.training.output.directory import write_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeReceipt(Difference):
    """What was merged, and what merging changed: see `Difference`.

    `model` and `adapter` are names. `dtype` is the type that the weights are stored in and both models were computed
    in. `quantised_base`: the base was stored in fewer bits, or the adapter was trained on it so. `system` is the prompt
    the adapter was trained under; the merged directory's contract has it too. `bytes` is the directory's size.
    """

    model: str
    adapter: str
    system: str | None
    dtype: str
    quantised_base: bool
    bytes: int


def merge(
    adapter: str | Path,
    output: str | Path,
    *,
    model: str | Path | None = None,
    file: str | Path | None = None,
    rows: int = 16,
    allow_quantised: bool = False,
) -> MergeReceipt:
    """Write adapter and base model as one model to the directory `output`, which must not hold anything yet.

    The receipt compares on the contract's sample conversation and, where `file` is given, on up to `rows` rows of it:
    those that training held out, or the first where it held out none. It is written as merge.json too. Memory: the
    base model in float32. Raises as `resolve`; UsageError where the output is taken or the base is quantised and that
    is not allowed; ArrieroError where it cannot be merged or written.
    """
    resolved = resolve(model, adapter)
    adapter_dir, contract = _adapter_of(resolved)
    if rows < 1:
        raise UsageError(f"rows must be at least 1, got {rows}")
    target = Path(output).expanduser().resolve()
    check_free(target, resolved.model_dir)
    quantised = _check_quantised(resolved.model_dir, adapter_dir, allowed=allow_quantised)
    examples = _examples(resolved, file, rows)
    with appears_whole(target) as partial:
        log.info("reading what the unmerged adapter predicts")
        base = load_base(resolved.model_dir, "auto")
        types = Types.of(base)
        if quantised and trained_in_4bit(adapter_dir):
            base = _in_4bit(resolved.model_dir, base, types)
        before = _computed(hub.load_adapter(base, adapter_dir), examples)
        del base
        gc.collect()  # PEFT leaves a model in a cycle, and there is to be memory for one only
        log.info("merging in float32, rounding to %s", types.name)
        save(_merged(resolved.model_dir, adapter_dir), types, resolved.model_dir, partial)
        _write_template(contract, partial)
        merged = replace(contract, base_fingerprint=hub.fingerprint(partial), merged_adapter=adapter_dir.name)
        replace(merged, base_path=None, base_in_4bit=False).save(partial)
        resolve(partial)  # the contract holds on what was written
        log.info("comparing with the merged model as it was written")
        change = difference(before, _computed(load_base(partial, "auto"), examples))
        receipt = MergeReceipt(
            model=contract.base_model,
            adapter=adapter_dir.name,
            system=contract.system,
            dtype=types.name,
            quantised_base=quantised,
            bytes=sum(file.stat().st_size for file in partial.rglob("*") if file.is_file()),
            **asdict(change),
        )
        write_json(partial / RECEIPT, asdict(receipt))
    return receipt


def _in_4bit(model_dir: Path, base: PreTrainedModel, types: Types) -> PreTrainedModel:
    """The base as the adapter was trained over it, which is what the receipt compares with."""
    if not hub.four_bits.installed():
        log.warning("comparing with the adapter over all the base's bits: %s", hub.four_bits.INSTALL)
        return base
    return load_base(model_dir, types.common, in_4bit=True)


def _write_template(contract: Contract, partial: Path) -> None:
    """Give other programs the chat template that the adapter brought, and the token with which it ends answers."""
    if contract.chat_template is None:
        return
    (partial / "chat_template.jinja").write_text(contract.chat_template, encoding="utf-8")
    file = partial / "generation_config.json"
    write_json(file, hub.read_json(file) | {"eos_token_id": list(contract.stop_token_ids)})


def _adapter_of(resolved: ResolvedModel) -> tuple[Path, Contract]:
    if resolved.adapter_dir is None or resolved.contract is None:
        raise UsageError("there is no adapter to merge", hint="give the --output directory of a finished training")
    return resolved.adapter_dir, resolved.contract


def _check_quantised(model_dir: Path, adapter_dir: Path, *, allowed: bool) -> bool:
    """Whether the adapter was trained on weights of few bits; raises UsageError unless that is `allowed`.

    Stored ones are turned back into floating point and merged into. Where only training loaded them so, the adapter has
    learned to make up for rounding errors that the stored weights do not have.
    """
    if (method := hub.quantisation(model_dir)) is not None:
        reason = f"the base model is stored quantised ({method})"
    elif trained_in_4bit(adapter_dir) or trained_options(adapter_dir).get("load_in_4bit"):
        reason = "the adapter was trained on its base model in 4 bits (load_in_4bit)"
    else:
        return False
    if not allowed:
        raise UsageError(
            f"{reason}; merged into weights of full precision it would be neither as small nor exactly what "
            "was trained",
            hint="--allow-quantised merges all the same; or use the adapter unmerged",
        )
    log.warning("%s; merging into weights of full precision all the same", reason)
    return True


def _examples(resolved: ResolvedModel, file: str | Path | None, limit: int) -> list[Rendered]:
    """The contract's sample conversation, and up to `limit` rows of a data file, held out ones where there are any."""
    adapter_dir, contract = _adapter_of(resolved)
    examples = [resolved.renderer.render(Conversation.of(contract.sample_messages))]
    if file is None:
        return examples
    trained = trained_reading(adapter_dir)
    options = DataOptions(**trained)
    renderer = replace(resolved.renderer, answers=options.answers)
    rows = data.render(data.load(file, options), renderer, options, hub.window(resolved.model_dir))
    rows.announce("--json")
    if trained.get("eval_fraction"):
        rows = held_out(rows, options, file)
    return examples + [example for index in range(min(limit, len(rows))) for example in rows[index]][:limit]


def _computed(model: torch.nn.Module, examples: list[Rendered]) -> list[torch.Tensor]:
    """`logits_of`, with typed errors."""
    try:
        return logits_of(model, examples)
    except torch.OutOfMemoryError as error:
        raise MemoryLimitError(f"out of memory while comparing: {error}", hint="merge without --data") from error
    except RuntimeError as error:  # kernels of quantised weights that this machine has not
        raise ArrieroError(f"the model cannot be computed here: {error}", hint="merge on another machine") from error


def _merged(model_dir: Path, adapter_dir: Path) -> PreTrainedModel:
    """Base and adapter as one model in float32 on the CPU."""
    base = hub.load_weights(model_dir, dtype=torch.float32)
    try:
        if getattr(base, "hf_quantizer", None) is not None:
            base = base.dequantize(torch.float32)
            forget_weight_conversions(base)
        tuned = hub.load_adapter(base.to("cpu", torch.float32), adapter_dir)
        _untie(base)
        merged: PreTrainedModel = tuned.merge_and_unload(safe_merge=True)
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        raise ArrieroError(
            f"{adapter_dir.name} cannot be merged into {model_dir.name}: {error}", hint="use the adapter unmerged"
        ) from error
    return merged


def _untie(base: PreTrainedModel) -> None:
    """Give the output layer weights of its own where it shares them with the embedding and one of them has LoRA.

    PEFT would add the one's change to the shared weights, and so to the other.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    pair = base.get_input_embeddings(), base.get_output_embeddings()
    if None in pair or pair[0].weight is not pair[1].weight:
        return
    if any(isinstance(layer, BaseTunerLayer) for layer in pair):
        layer = pair[1].get_base_layer() if isinstance(pair[1], BaseTunerLayer) else pair[1]
        layer.weight = torch.nn.Parameter(layer.weight.detach().clone(), requires_grad=False)
