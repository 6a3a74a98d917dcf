"""Shared-prefix attention against a dense mask over the whole row, in float64."""

from __future__ import annotations

import sys
import types

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from arriero.training import attention
from arriero.training import layout as layouts
from arriero.training.attention import UnsupportedAttentionError
from arriero.training.kernels import varlen
from arriero.training.kernels.varlen import Sequences
from arriero.training.layout import RowLayout

SCALE = 0.3


def flat(prefix, lengths):
    """A root, if there is any, and segments below it."""
    root = (prefix,) if prefix else ()
    return RowLayout((*root, *lengths), (*(-1 for _ in root), *(len(root) - 1 for _ in lengths)))


def dense(query, key, value, layout):
    """(tokens, heads, dim) by one mask: each segment sees the path down to it, and itself up to the query."""
    tokens = layout.tokens
    owner = [at for at, length in enumerate(layout.lengths) for _ in range(length)]
    above = [{at} for at in range(len(layout.lengths))]
    for at, parent in enumerate(layout.parents):
        above[at] |= above[parent] if parent >= 0 else set()
    causal = torch.arange(tokens)[:, None] >= torch.arange(tokens)
    seen = causal & torch.tensor([[other in above[one] for other in owner] for one in owner])
    group = query.shape[1] // key.shape[1]
    key, value = (part.repeat_interleave(group, 1) for part in (key, value))
    scores = torch.einsum("thd,shd->hts", query, key) * SCALE
    return torch.einsum("hts,shd->thd", scores.masked_fill(~seen, float("-inf")).softmax(-1), value)


def compute(parts, layout):
    heads_first = [part.transpose(0, 1)[None] for part in parts]
    return attention.attention(None, *heads_first, None, row_layout=layout, scaling=SCALE)[0][0]


@st.composite
def trees(draw):
    lengths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=9))
    parents = [draw(st.integers(-1, at - 1)) for at in range(len(lengths))]
    return RowLayout(tuple(lengths), tuple(draw(st.sampled_from([parents, sorted(parents)]))))


@settings(max_examples=80, deadline=None)
@given(
    trees(),
    st.sampled_from([(1, 1), (4, 2), (6, 2), (3, 3)]),
    st.sampled_from([1 << 24, 300, 60]),
    st.sampled_from([0, 3]),
    st.sampled_from([4, 3]),
)
def test_it_is_dense_attention_under_the_mask(layout, heads, largest, kept, value_dim):
    """Also cut into slices (a small LARGEST), with probabilities computed again (KEPT 0), and with smaller values."""
    generator = torch.Generator().manual_seed(layout.tokens)
    shapes = [(layout.tokens, count, dim) for count, dim in zip((*heads, heads[1]), (4, 4, value_dim), strict=True)]
    parts = [torch.randn(s, dtype=torch.float64, generator=generator).requires_grad_() for s in shapes]
    upstream = torch.randn((layout.tokens, heads[0], value_dim), dtype=torch.float64, generator=generator)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layouts, "LARGEST", largest)
        patch.setattr(attention, "KEPT", kept)
        ours = compute(parts, layout)
        our_gradients = torch.autograd.grad((ours * upstream).sum(), parts)
    expected = dense(*parts, layout)
    gradients = torch.autograd.grad((expected * upstream).sum(), parts)
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)
    for own, wanted in zip(our_gradients, gradients, strict=True):
        torch.testing.assert_close(own, wanted, rtol=1e-10, atol=1e-10)


def test_blocks_hold_every_query_once_and_stay_within_the_bound(monkeypatch):
    monkeypatch.setattr(layouts, "LARGEST", 500)
    layout = flat(5, (2, 2, 3, 40, 90))
    gradients = []
    for block in layout.blocks(heads=2):
        gradients += range(block.queries.start, block.queries.stop)
        assert 2 * block.count * (block.last - block.first) * block.keys <= 500
    assert gradients == list(range(layout.tokens))


@pytest.mark.parametrize(
    ("name", "value"), [("softcap", 50.0), ("s_aux", torch.zeros(2)), ("sliding_window", 4), ("dropout", 0.1)]
)
def test_options_whose_meaning_would_be_lost_are_refused(name, value):
    parts = [torch.randn(1, 2, 6, 4)] * 3
    with pytest.raises(UnsupportedAttentionError, match=name):
        attention.attention(None, *parts, None, row_layout=flat(2, (4,)), **{name: value})


def test_a_window_that_every_example_fits_into_is_no_window():
    parts = [torch.randn(1, 2, 8, 4)] * 3
    layout = flat(2, (3, 3))
    windowed = attention.attention(None, *parts, None, row_layout=layout, sliding_window=5)[0]
    assert torch.equal(windowed, attention.attention(None, *parts, None, row_layout=layout)[0])


def test_a_model_that_does_not_hand_options_on_is_refused():
    with pytest.raises(UnsupportedAttentionError, match="hand options on"):
        attention.attention(None, *[torch.randn(1, 2, 8, 4)] * 3, None)


def test_sequences_for_flash_attention_spelled_out():
    """The prefix by itself, then each example with the prefix's keys before its own; queries end where keys end."""
    sequences = Sequences.of(flat(2, (1, 3)))
    assert sequences.index.tolist() == sequences.home.tolist() == [0, 1, 0, 1, 2, 0, 1, 3, 4, 5]
    assert sequences.queries.tolist() == [0, 2, 3, 6]
    assert sequences.keys.tolist() == [0, 2, 5, 10]
    assert (sequences.most_queries, sequences.most_keys) == (3, 5)
    sequences = Sequences.of(flat(0, (2, 1)))
    assert (sequences.index.tolist(), sequences.queries.tolist(), sequences.keys.tolist()) == (
        [0, 1, 2],
        [0, 2, 3],
        [0, 2, 3],
    )


TREE = RowLayout((2, 1, 3, 2, 1, 4), (-1, 0, 0, 2, 2, -1))


def test_sequences_of_a_tree_have_the_keys_of_the_path():
    sequences = Sequences.of(TREE)
    assert sequences.index.tolist() == [
        0,
        1,
        0,
        1,
        2,
        0,
        1,
        3,
        4,
        5,
        *(0, 1, 3, 4, 5, 6, 7),
        *(0, 1, 3, 4, 5, 8),
        *range(9, 13),
    ]
    assert sequences.queries.diff().tolist() == list(TREE.lengths)
    assert sequences.keys.diff().tolist() == [2, 3, 5, 7, 6, 4]


def before_grouped(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1)):
    """The signature of torch 2.11, which takes fewer key heads as they are; computes the attention densely."""
    assert (max_q, max_k) == (int(cu_seq_q.diff().max()), int(cu_seq_k.diff().max()))
    assert window_size == (-1, 0), "causal to the lower right"
    group, parts = query.shape[1] // key.shape[1], []
    for at in range(len(cu_seq_q) - 1):
        own = query[cu_seq_q[at] : cu_seq_q[at + 1]].transpose(0, 1)
        keys, values = (part[cu_seq_k[at] : cu_seq_k[at + 1]].repeat_interleave(group, 1) for part in (key, value))
        seen = torch.ones(own.shape[1], len(keys), dtype=torch.bool).tril(len(keys) - own.shape[1])
        scores = own @ keys.permute(1, 2, 0) * scale
        weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
        parts.append((weights @ values.transpose(0, 1)).transpose(0, 1))
    return torch.cat(parts)


def since_grouped(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1), enable_gqa=False
):
    """The signature of torch 2.13, which has to be asked for fewer key heads."""
    assert enable_gqa or query.shape[1] == key.shape[1], "as many key heads as query heads, without enable_gqa"
    return before_grouped(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, scale=scale, window_size=window_size)


@pytest.mark.parametrize("kernel", [before_grouped, since_grouped])
@pytest.mark.parametrize("layout", [flat(2, (1, 3)), flat(0, (2, 4, 1)), TREE])
def test_flash_attention_of_either_signature_gets_what_it_takes(kernel, layout):
    """Without enable_gqa in its signature the kernel was not used at all, and attention took the slow path."""
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(layout.tokens, count, 4, dtype=torch.float64, generator=generator) for count in (4, 2, 2)]
    ours = varlen.shared_varlen(kernel, *parts, layout, SCALE)
    torch.testing.assert_close(ours, dense(*parts, layout), rtol=1e-10, atol=1e-10)


def causal_at_the_upper_left(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False):
    """The first signature, which cannot start a sequence's queries behind a prefix of keys."""


@pytest.mark.parametrize("kernel", [before_grouped, since_grouped, causal_at_the_upper_left])
def test_a_kernel_is_usable_with_or_without_the_flag(monkeypatch, kernel):
    module = types.ModuleType("torch.nn.attention.varlen")
    module.varlen_attn = kernel
    monkeypatch.setitem(sys.modules, module.__name__, module)
    chosen = varlen.flash.__wrapped__()
    assert chosen is (None if kernel is causal_at_the_upper_left else kernel)


@pytest.fixture
def flash_3():
    """Flash attention 3 as torch's registry knows it, with a registration of our own; what there was comes back."""
    from torch.nn.attention import _registry, register_flash_attention_impl, restore_flash_attention_impl

    own, registered = _registry._FLASH_ATTENTION_IMPLS["FA3"], []

    class Handle:
        def remove(self):
            registered.append("removed")

    def register(module_path="flash_attn_interface"):
        registered.append(module_path)
        return Handle()

    register_flash_attention_impl("FA3", register_fn=register)
    yield registered
    restore_flash_attention_impl()
    register_flash_attention_impl("FA3", register_fn=own)


def test_flash_attention_3_is_chosen_where_it_is_installed_and_only_once(flash_3):
    assert varlen.newest_flash(9) == varlen.newest_flash(9) == "flash attention 3: it is installed"
    assert flash_3 == ["flash_attn_interface"]


def test_flash_attention_3_is_left_alone_on_other_gpus(flash_3):
    assert varlen.newest_flash(8).startswith("flash attention 2: version 3 is for")
    assert flash_3 == []


def test_without_flash_attention_3_it_is_version_2_with_the_reason():
    from torch.nn.attention import current_flash_attention_impl

    assert "flash attention 2: version 3 cannot be used (No module named 'flash_attn" in varlen.newest_flash(9)
    assert current_flash_attention_impl() is None


@pytest.mark.parametrize(
    ("dim", "value_dim", "dtype", "major", "taken"),
    [
        (128, 128, torch.bfloat16, 9, True),
        (256, 256, torch.float16, 8, True),
        (512, 512, torch.bfloat16, 9, False),
        (100, 100, torch.bfloat16, 9, False),
        (192, 128, torch.bfloat16, 9, False),
        (128, 128, torch.float32, 9, False),
        (128, 128, torch.bfloat16, 7, False),
    ],
)
def test_flash_attention_gets_what_it_has_kernels_for(monkeypatch, dim, value_dim, dtype, major, taken):
    """It got all heads in 16 bits and raised, so that the run fell back to padded batches and the model's own code."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (major, 0))
    query, value = (
        types.SimpleNamespace(is_cuda=True, dtype=dtype, shape=(5, 4, size), device="cuda") for size in (dim, value_dim)
    )
    assert varlen.takes(query, value) is taken
