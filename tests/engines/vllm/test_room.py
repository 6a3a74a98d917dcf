"""What vLLM is started with on a machine of these sizes; needs neither vLLM nor a GPU."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arriero.engines.vllm.room import (
    SHARE,
    LoraRoom,
    Memory,
    described,
    gpus_for,
    lora_room,
    memory_share,
    weight_bytes,
)
from arriero.errors import MemoryLimitError

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


GB = 10**9


def gpus(*free, total=80):
    """GPUs with so many GB free, of `total`."""
    return [Memory(amount * GB, total * GB) for amount in free]


@pytest.fixture
def model(tmp_path):
    """A model of 16 GB with twelve attention heads."""
    (tmp_path / "config.json").write_text('{"num_attention_heads": 12}')
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(16 * GB)
    return tmp_path


def test_the_number_of_gpus(model):
    assert gpus_for(model, gpus(*[80] * 8)) == 1
    assert gpus_for(model, gpus(*[20] * 8)) == 2
    assert gpus_for(model, gpus(*[10] * 3)) == 2, "the most there are"
    assert gpus_for(model, gpus(*[8] * 8)) == 4
    assert gpus_for(model, gpus(*[6] * 8)) == 4, "12 heads do not divide by 8"
    (model / "config.json").write_text('{"num_attention_heads": 12, "num_key_value_heads": 3}')
    assert gpus_for(model, gpus(*[20] * 8)) == 1, "nor do 3 of keys, and vLLM ended with an assertion"


def test_layers_in_four_bits_take_less(model):
    """Embeddings and head stay as they are: 4 of the 16 GB here."""
    config = {"num_attention_heads": 12, "vocab_size": 100_000, "hidden_size": 10_000}
    (model / "config.json").write_text(json.dumps(config))
    assert weight_bytes(model, "bfloat16") == 16 * GB
    assert weight_bytes(model, "int4") == pytest.approx((4 + 12 * 0.29) * GB)
    assert gpus_for(model, gpus(10, 10), "int4") == 2
    assert gpus_for(model, gpus(13, 13), "int4") == 1
    (model / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "bitsandbytes"}}))
    assert weight_bytes(model, "int4") == 16 * GB, "it is stored so"
    assert gpus_for(model, gpus(20, 20)) == 1, "vLLM cannot divide it"


def test_memory_that_others_hold_is_not_counted(model):
    """It went by the size of the first GPU, full or not."""
    assert gpus_for(model, gpus(40, 40, total=160)) == 1
    assert gpus_for(model, gpus(20, 40, total=160)) == 2
    assert memory_share(gpus(80, 32)) == pytest.approx(0.38)


def test_what_cuda_itself_takes_is_not_counted():
    """5 % of what is free were left for it: of 6 GB less than its context, and vLLM did not start."""
    assert memory_share(gpus(6, total=8)) == pytest.approx(5 / 8)


def test_weights_that_do_not_fit_are_refused_before_vllm_starts(model):
    """It said so after a minute, and on many lines."""
    with pytest.raises(MemoryLimitError, match=r"take 16\.0 GB, and vLLM can use 12\.0 GB here") as caught:
        gpus_for(model, gpus(7, 7))
    assert "nvidia-smi" in caught.value.hint


@given(st.lists(st.tuples(st.integers(1, 10**12), st.integers(0, 10**12)), min_size=1, max_size=8))
def test_vllm_is_never_told_to_take_more_than_is_free(sizes):
    memory = [Memory(free, free + used) for free, used in sizes]
    share = memory_share(memory)
    assert 0 <= share <= SHARE
    assert all(share * gpu.total <= gpu.free for gpu in memory)


def test_room_for_adapters_comes_from_their_configurations(tmp_path):
    def adapter(**config):
        path = tmp_path / str(len(list(tmp_path.iterdir())))
        path.mkdir()
        (path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **config}))
        return path

    assert lora_room([], RANKS) == LoraRoom(rank=32, slots=4)
    assert lora_room([adapter(r=8), adapter(r=4, rank_pattern={"up_proj": 100})], RANKS) == LoraRoom(128, 4)
    assert lora_room([adapter(r=512)] * 7, RANKS) == LoraRoom(512, 7)
    assert lora_room([adapter(r=1)] * 40, RANKS) == LoraRoom(32, 16)


def test_what_it_made_of_its_memory_is_said():
    cache = SimpleNamespace(num_gpu_blocks=100, block_size=16)
    model = SimpleNamespace(max_model_len=1500)
    lora = SimpleNamespace(max_lora_rank=32, max_loras=4)
    short = described(131072, SimpleNamespace(model_config=model, cache_config=cache, lora_config=lora))
    assert short == (
        "a context of 1,500 tokens, since memory does not hold the model's 131,072; "
        "a KV cache of 1,600; adapters up to rank 32, 4 in a step"
    )
    cache.num_gpu_blocks = None
    whole = described(1500, SimpleNamespace(model_config=model, cache_config=cache, lora_config=None))
    assert whole == "a context of 1,500 tokens; no adapters"
