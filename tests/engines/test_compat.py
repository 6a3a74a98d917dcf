"""Private names of other libraries: whichever is gone is named here, with its library."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, MambaForCausalLM, RecurrentGemmaForCausalLM

from arriero.engines import compat
from arriero.engines.openvino import regex
from arriero.engines.openvino.rules import Rules


@pytest.fixture(scope="module")
def llama():
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", vocab_size=16, **sizes))


def test_transformers_has_them(llama):
    assert compat.takes_dynamic_cache(llama), "transformers: _supports_default_dynamic_cache"
    assert not compat.takes_dynamic_cache(RecurrentGemmaForCausalLM), "transformers: RecurrentGemma's _setup_cache"
    assert compat.is_stateful(MambaForCausalLM), "transformers: _is_stateful"
    assert not compat.is_stateful(llama)
    llama.set_attn_implementation("eager")
    assert compat.attention_of(llama) == "eager", "transformers: config._attn_implementation"


def test_openvino_has_them(llama):
    openvino = pytest.importorskip("openvino")
    bmm = torch.bmm
    try:
        compat.make_16bit_traceable(llama.bfloat16())
        assert torch.bmm is not bmm, "openvino: patch_model.__make_16bit_traceable"
    finally:
        compat.restore_torch()
    assert torch.bmm is bmm, "openvino: patch_model._unpatch_torch_functions"
    empty = openvino.Model([], [], "empty")
    with pytest.raises(RuntimeError, match=r"ScaledDotProductAttention|PagedAttention"):
        compat.use_paged_attention(empty)


def test_re_has_its_parser():
    ((opcode, (low, high, _)),) = compat.parse_regex("a{2,}")
    assert (str(opcode), low, str(high)) == ("MAX_REPEAT", 2, "MAXREPEAT"), "re: _parser"
    assert regex.pattern("a{2,}", Rules()), "re: _parser"
