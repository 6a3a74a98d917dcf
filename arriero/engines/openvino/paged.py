"""An exported model as OpenVINO itself runs it, with a paged KV cache that is ours: token ids in, all logits out.

GenAI keeps logits to itself. Here they come out, for samplers and for scoring prompts: the exported graph goes through
the transformation that GenAI uses too (vLLM's paged attention, https://arxiv.org/abs/2309.06180), so that sequences of
any lengths are computed in one call without padding.

    sequence   cached ids   block table (32 ids a block)   a call that adds 3 ids to a and 1 to b
    a          40           3, 0                           input_ids a a a b, past_lens 40 7, subsequence_begins 0 3 4
    b          7            1                              block_indices 3 0 1, block_indices_begins 0 2 3

Invariant: a block belongs to one sequence or is free, and a sequence's blocks hold room for all its ids.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino import opset13 as ops

from arriero.engines.compat import use_paged_attention
from arriero.engines.openvino.adapter import LINEAR, Weights, matrices

KEPT = 16  # blocks that stay allocated when no sequence needs any
SELECTED = "selected_positions"


@dataclass(eq=False, slots=True)
class BlockTable:
    """Where one sequence is in the KV cache: how many of its ids are cached, and in which blocks, in order."""

    length: int = 0
    blocks: list[int] = field(default_factory=list)


class Chunk(NamedTuple):
    """Ids to add to a sequence, and whether to return the logits after each of them, or only after the last."""

    table: BlockTable
    ids: Sequence[int]
    all_logits: bool = False


class PagedModel:
    """A compiled model and the KV cache of all its sequences. One thread uses it.

    `properties` are the plugin's. With an adapter, its matrices are beside the layers': W x + scale B A x.
    """

    def __init__(self, file: Path, properties: Mapping[str, str], adapter: Weights | None = None) -> None:
        core = openvino.Core()
        model = core.read_model(file)
        if adapter is not None:
            _add_lora(model, adapter)
        use_paged_attention(model)
        self._selects = _select(model)
        compiled = core.compile_model(model, "CPU", dict(properties))
        self._request = compiled.create_infer_request()
        self._caches = {port.get_any_name(): port for port in compiled.inputs if "_cache." in port.get_any_name()}
        shape = next(iter(self._caches.values())).get_partial_shape()
        self._block_size: int = shape[2].get_length()  # a cache is (blocks, KV heads, ids of a block, head size)
        self._tensors: dict[str, openvino.Tensor] = {}
        self._total = 0
        self._free: list[int] = []
        self._resize(KEPT)

    def forward(self, chunks: Sequence[Chunk]) -> list[NDArray[np.float32]]:
        """Add ids to sequences; for each the logits it asks for: (ids or 1, vocabulary), valid until the next call.

        Raises MemoryError where the KV cache does not fit.
        """
        for chunk in chunks:
            self._reserve(chunk.table, len(chunk.ids))
        counts = [len(chunk.ids) for chunk in chunks]
        ends = np.cumsum(counts)  # the sequences lie one after the other: chunk i is rows ends[i - 1] to ends[i]
        rows = [
            np.arange(end - (count if chunk.all_logits else 1), end)
            for chunk, count, end in zip(chunks, counts, ends, strict=True)
        ]
        lengths = [chunk.table.length for chunk in chunks]
        blocks = [chunk.table.blocks for chunk in chunks]
        inputs = {
            "input_ids": np.concatenate([np.asarray(chunk.ids, np.int64) for chunk in chunks]),
            "position_ids": np.concatenate([np.arange(at, at + n) for at, n in zip(lengths, counts, strict=True)]),
            "past_lens": np.array(lengths, np.int32),
            "subsequence_begins": np.array([0, *ends], np.int32),
            "block_indices": np.array([block for each in blocks for block in each], np.int32),
            "block_indices_begins": np.cumsum([0, *map(len, blocks)], dtype=np.int32),
            "max_context_len": np.array(max(map(operator.add, lengths, counts)), np.int32),
        }
        if self._selects:
            inputs[SELECTED] = np.concatenate(rows)
        for name, value in inputs.items():
            self._request.set_tensor(name, openvino.Tensor(value))
        self._request.infer()
        for chunk in chunks:
            chunk.table.length += len(chunk.ids)
        logits: NDArray[np.float32] = self._request.get_tensor("logits").data[:, 0]
        if not self._selects:
            return [logits[each] for each in rows]
        # only the selected rows came out, in the order of `rows`
        return np.split(logits, np.cumsum([len(each) for each in rows])[:-1])

    def free(self, table: BlockTable) -> None:
        """Give a sequence's blocks back; memory too, where it was the last."""
        self._free += table.blocks
        table.blocks = []
        if len(self._free) == self._total > KEPT:  # nobody has a block, so nothing has to be copied
            self._total, self._free, self._tensors = 0, [], {}
            self._resize(KEPT)

    def _reserve(self, table: BlockTable, count: int) -> None:
        """Blocks for `count` more ids of a sequence."""
        missing = -(-(table.length + count) // self._block_size) - len(table.blocks)
        if missing > len(self._free):
            # doubling, so that a long answer copies the cache a few times and not at every block
            self._resize(max(2 * self._total, self._total + missing))
        for _ in range(missing):
            table.blocks.append(self._free.pop())

    def _resize(self, total: int) -> None:
        """Buffers of `total` blocks, with the old ones' content: layer by layer, so that little is there twice."""
        for name, port in self._caches.items():
            _, *shape = (dimension.get_length() if dimension.is_static else 0 for dimension in port.get_partial_shape())
            grown = openvino.Tensor(port.get_element_type(), [total, *shape])
            if name in self._tensors:
                grown.data[: self._total] = self._tensors[name].data
            self._tensors[name] = grown
            self._request.set_tensor(name, grown)
        self._free += range(self._total, total)
        self._total = total


def _add_lora(model: openvino.Model, adapter: Weights) -> None:
    """Add an adapter to the linear layers that it changes; the names were compared when it was loaded."""
    layers = {match[1]: node for node in model.get_ops() if (match := LINEAR.fullmatch(node.get_friendly_name()))}
    for layer, (a, b) in matrices(Path(adapter.file)).items():
        linear = layers[layer]
        consumers = list(linear.output(0).get_target_inputs())
        # x (batch, ids, in), A (rank, in) and B (out, rank), both transposed; the factor is multiplied into B once
        low = ops.matmul(linear.input_value(0), ops.constant(a), False, True)
        change = ops.matmul(low, ops.constant(b * np.float32(adapter.scale)), False, True)
        changed = ops.add(linear.output(0), change)
        for consumer in consumers:  # listed before the sum became a consumer too, or it would feed itself
            consumer.replace_source_output(changed.output(0))
    model.validate_nodes_and_infer_types()


def _select(model: openvino.Model) -> bool:
    """Have the last layer compute only the positions in the input SELECTED; False where it is not recognised.

    Over the whole of a prompt it would take a third of a small model's time.
    """
    node = model.output("logits").get_node().input_value(0).get_node()
    while node.get_type_name() in ("Convert", "Add", "Multiply", "Divide", "Tanh"):  # after it, a soft cap for one
        node = node.input_value(0).get_node()
    if node.get_type_name() != "MatMul":
        return False
    hidden = node.input_value(0)
    consumers = list(hidden.get_target_inputs())
    selected = ops.parameter([-1], openvino.Type.i64, name=SELECTED)
    selected.output(0).get_tensor().set_names({SELECTED})
    chosen = ops.gather(hidden, selected, ops.constant(0, openvino.Type.i32))
    for consumer in consumers:
        consumer.replace_source_output(chosen.output(0))
    model.add_parameters([selected])
    model.validate_nodes_and_infer_types()
    return True
