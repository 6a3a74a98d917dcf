"""A Hugging Face directory -> OpenVINO files, without optimum-intel.

The torch model is traced in a wrapper whose inputs and outputs are plain tensors: ids, attention mask, positions and
one key and one value per layer. The past tensors then become internal state, behind a gather by `beam_idx`, which is
the shape OpenVINO GenAI expects. Weight names survive the trace, so PEFT's safetensors find their layers.
"""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import nncf
import openvino
import torch
from openvino import opset13 as ops
from openvino.passes import MakeStateful, Manager
from transformers import PreTrainedModel
from transformers.cache_utils import Cache
from transformers.pytorch_utils import Conv1D

from arriero import hub
from arriero.engines import compat
from arriero.engines.openvino.cache import MODEL, VOCABULARY
from arriero.engines.registry import openvino_lacks
from arriero.errors import ExportError, MemoryLimitError
from arriero.prompt import read_tokenizer

log = logging.getLogger(__name__)
PROVED = 6  # tokens
LOADED_AS = {"float32": torch.float32, "bfloat16": torch.bfloat16}  # otherwise as the checkpoint is


class _FlatCache(Cache):
    """A KV cache of flat tensors, a key and a value for each layer: (batch, KV heads, past, head size)."""

    def __init__(self, past: tuple[torch.Tensor, ...]) -> None:
        self.past = past
        self.present: list[torch.Tensor] = []
        self.layers: list[object] = []  # `Cache`'s own methods go through these

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append this step's key and value, (batch, KV heads, new, head size), to the layer's past; float32 outside."""
        key = torch.cat([self.past[2 * layer_idx], key_states.float()], 2)
        value = torch.cat([self.past[2 * layer_idx + 1], value_states.float()], 2)
        self.present += [key, value]
        return key.to(key_states.dtype), value.to(value_states.dtype)

    def get_seq_length(self, _: int = 0) -> int:
        """Tokens already cached."""
        return int(self.past[0].shape[2])


class _Flat(torch.nn.Module):
    """The model with plain tensors in and out: ids, mask, positions, past -> logits, present."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, position_ids: torch.Tensor, *past: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """input_ids, position_ids (batch, new); attention_mask (batch, past + new)."""
        keys = torch.arange(attention_mask.shape[1])
        queries = keys[attention_mask.shape[1] - input_ids.shape[1] :]
        causal = keys[None, None, None, :] <= queries[None, None, :, None]  # (1, 1, new, past + new)
        cache = _FlatCache(past)
        output = self.model(
            input_ids=input_ids,
            attention_mask=causal & attention_mask[:, None, None, :].bool(),
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        )
        return (output.logits.float(), *cache.present)


def export(model_dir: Path, target: Path, precision: str = "int8") -> None:
    """Export once into `target`, which appears whole or not at all. Peak memory: about twice the checkpoint.

    `precision` is that of the weights: int8, int4, bfloat16 or float32. Raises ExportError for what cannot be done,
    MemoryLimitError where the weights do not fit.
    """
    started = time.monotonic()
    name = model_dir.name
    log.info("exporting %s for OpenVINO with %s weights (once; later starts take seconds)", name, precision)
    if (reason := openvino_lacks(model_dir)) is not None:
        raise ExportError(f"{name} cannot be answered with OpenVINO: {reason}", hint="use --engine transformers")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=target.parent))
    try:
        with _quiet():
            log.info("exporting, step 1 of 3: reading and tracing the model")
            model = _traced(model_dir, LOADED_AS.get(precision, "auto"))
            log.info("exporting, step 2 of 3: making %s weights", precision)
            model = _compressed(model, precision)
            log.info("exporting, step 3 of 3: writing")
            openvino.save_model(model, partial / MODEL, compress_to_fp16=False)
            _save_vocabulary(model_dir, partial)
        shutil.copy(model_dir / "config.json", partial)
        partial.rename(target)
    except MemoryLimitError:
        raise
    except Exception as error:  # whatever tracing runs into: the libraries raise of their own, and models anything
        raise ExportError(
            f"{name} cannot be exported for OpenVINO: {_reason(error)}", hint="use --engine transformers"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    log.info("exported in %.0f s", time.monotonic() - started)


def _reason(error: Exception) -> str:
    """What an error says in one line; OpenVINO's reports have it at their end, torch's tracer after a heading."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    after = lines[lines.index("Exception:") + 1 :] if "Exception:" in lines else []
    reports = [line for line in lines if line.startswith("-- ")]
    return (reports or after or lines)[0].removeprefix("-- ").partition(". ")[0]


def _compressed(model: openvino.Model, precision: str) -> openvino.Model:
    if precision == "int8":
        return nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)
    if precision == "int4":  # the layers that lose most by it stay at 8 bits, and so do embeddings and the last one
        adjust = nncf.AdvancedCompressionParameters(group_size_fallback_mode=nncf.GroupSizeFallbackMode.ADJUST)
        mode = nncf.CompressWeightsMode.INT4_ASYM
        return nncf.compress_weights(model, mode=mode, ratio=0.8, group_size=32, advanced_parameters=adjust)
    return model


def _save_vocabulary(model_dir: Path, partial: Path) -> None:
    """Write what each id spells, for grammars; nothing where the tokenizer is of a kind that cannot be converted.

    Special tokens spell nothing there: they are no text, and a grammar must not let a model write one as such.
    """
    from openvino_tokenizers import convert_tokenizer

    tokenizer = read_tokenizer(model_dir)
    try:
        _, model = convert_tokenizer(tokenizer, with_detokenizer=True)
    except Exception as error:  # whatever it does not know
        log.warning("no schemas or tool choice with this model: its tokenizer cannot be converted: %s", error)
        return
    decoder = next(node for node in model.get_ops() if node.get_type_name() == "VocabDecoder")
    begins = decoder.input_value(1)
    ends = decoder.input_value(2).get_node().data.copy()
    special = [index for index in tokenizer.all_special_ids if index < len(ends)]
    # a token spells the bytes from its begin to its end in one long string: none, where both are the same
    ends[special] = begins.get_node().data[special]
    decoder.input(2).replace_source_output(ops.constant(ends).output(0))
    openvino.save_model(model, partial / VOCABULARY)


def _traced(model_dir: Path, dtype: torch.dtype | str) -> openvino.Model:
    model = hub.load_weights(model_dir, dtype=dtype, attn_implementation="sdpa").eval()
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    layers = config.num_hidden_layers
    if model.dtype != torch.float32:
        compat.make_16bit_traceable(model)
    if any(isinstance(module, Conv1D) for module in model.modules()):
        raise ExportError("its matrices are stored as GPT-2's are, which adapters would not find")
    _prove(model, heads, head_dim, layers)
    # two sequences with 3 cached and 4 new ids: no size is 1, for which models' code takes ways of its own
    past = [torch.zeros(2, heads, 3, head_dim) for _ in range(2 * layers)]
    example = (torch.ones(2, 4, dtype=torch.long), torch.ones(2, 7, dtype=torch.long), torch.ones(2, 4).long(), *past)
    try:
        with torch.no_grad():
            traced = openvino.convert_model(_Flat(model), example_input=example)
    finally:  # torch.bmm and torch.baddbmm of the whole process are patched too: training would compute nonsense
        compat.restore_torch()
    _name(traced, layers, heads, head_dim)
    _make_stateful(traced, layers, heads, head_dim)
    return traced


def _prove(model: PreTrainedModel, heads: int, head_dim: int, layers: int) -> None:
    """Raise ExportError where the wrapper's logits are not the model's own, over a prompt and a step after it.

    A model may take our mask, positions or cache for something else than they are, and nothing else would say so.
    """
    ids = (torch.arange(1, 1 + PROVED) % model.get_input_embeddings().weight.shape[0])[None]
    mask, positions = torch.ones_like(ids), torch.arange(PROVED)[None]
    past = [torch.zeros(1, heads, 0, head_dim) for _ in range(2 * layers)]
    flat, prefill = _Flat(model), PROVED - 2  # the last two ids are a second step, over the first one's cache
    with torch.no_grad():
        own = model(input_ids=ids, use_cache=False).logits.float()
        try:
            first, *present = flat(ids[:, :prefill], mask[:, :prefill], positions[:, :prefill], *past)
            second, *_ = flat(ids[:, prefill:], mask, positions[:, prefill:], *present)
        except Exception as error:  # whatever its code does with tensors that it did not expect
            raise ExportError("its code does not take a KV cache from outside of the model") from error
    apart = (torch.cat((first, second), 1) - own).abs().max() / own.abs().max()
    # `not <=`, so that NaN is refused too
    if not apart <= (1e-3 if model.dtype == torch.float32 else 0.1):
        raise ExportError(f"with its KV cache outside of the model its logits differ by {apart:.1%}")


def _state_names(layers: int) -> list[tuple[str, str]]:
    kinds = [(layer, kind) for layer in range(layers) for kind in ("key", "value")]
    return [(f"past_key_values.{layer}.{kind}", f"present.{layer}.{kind}") for layer, kind in kinds]


def _name(model: openvino.Model, layers: int, heads: int, head_dim: int) -> None:
    """Give inputs and outputs the names and the dynamic shapes GenAI looks for."""
    names = _state_names(layers)
    inputs = ["input_ids", "attention_mask", "position_ids", *(past for past, _ in names)]
    for parameter, name in zip(model.get_parameters(), inputs, strict=True):
        parameter.output(0).get_tensor().set_names({name})
        parameter.set_friendly_name(name)
        state = name.startswith("past")
        parameter.set_partial_shape(openvino.PartialShape([-1, heads, -1, head_dim] if state else [-1, -1]))
    for output, name in zip(model.outputs, ["logits", *(present for _, present in names)], strict=True):
        output.get_tensor().set_names({name})
    model.validate_nodes_and_infer_types()


def _make_stateful(model: openvino.Model, layers: int, heads: int, head_dim: int) -> None:
    """Turn past inputs into internal state that starts empty: (batch, KV heads, 0, head size).

    input past ─> gather by beam_idx ─> attention ─> output present      becomes
    ReadValue  ─> gather by beam_idx ─> attention ─> Assign              of one variable, named after both
    """
    beam = ops.parameter([-1], openvino.Type.i32, name="beam_idx")
    beam.output(0).get_tensor().set_names({"beam_idx"})
    states = model.get_parameters()[3:]  # after ids, mask and positions, see `_name`
    model.add_parameters([beam])
    for state in states:
        consumers = list(state.output(0).get_target_inputs())
        gathered = ops.gather(state, beam, ops.constant(0, openvino.Type.i32))
        for consumer in consumers:
            consumer.replace_source_output(gathered.output(0))
    model.validate_nodes_and_infer_types()
    manager = Manager()
    manager.register_pass(MakeStateful(dict(_state_names(layers))))
    manager.run_passes(model)
    # a variable starts empty, with as many sequences as the call has
    zero = ops.constant(0, openvino.Type.i64)
    batch = ops.gather(ops.shape_of(model.input("input_ids"), "i64"), ops.constant([0], openvino.Type.i64), zero)
    empty = [batch, *(ops.constant([size], openvino.Type.i64) for size in (heads, 0, head_dim))]
    for node in model.get_ops():
        if node.get_type_name() == "ReadValue":
            start = ops.constant(0.0, node.get_output_element_type(0))
            node.set_arguments([ops.broadcast(start, ops.concat(empty, 0))])
    model.validate_nodes_and_infer_types()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries' tables and tracer warnings away; their bars go to standard error, if that is a terminal."""
    chatty = [logging.getLogger(name) for name in ("nncf", "openvino_tokenizers")]
    levels = [logger.level for logger in chatty]
    for logger in chatty:
        logger.setLevel(logging.ERROR)
    try:
        bars = sys.stderr if sys.stderr.isatty() else io.StringIO()
        with warnings.catch_warnings(), contextlib.redirect_stdout(bars):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(chatty, levels, strict=True):
            logger.setLevel(level)
