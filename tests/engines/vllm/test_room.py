"""What vLLM is started with on a machine of these sizes; needs neither vLLM nor a GPU."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arriero.engines.vllm.room import SHARE, LoraRoom, Memory, described, gpus_for, lora_room, memory_share
from arriero.errors import MemoryLimitError

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


def gpus(*free, total=1000):
    return [Memory(amount, total) for amount in free]


@pytest.fixture
def model(tmp_path):
    """A model of 1,000 bytes with twelve attention heads."""
    (tmp_path / "config.json").write_text('{"num_attention_heads": 12}')
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(1000)
    return tmp_path


def test_the_number_of_gpus(model):
    assert gpus_for(model, gpus(*[2000] * 8)) == 1
    assert gpus_for(model, gpus(*[1000] * 8)) == 2
    assert gpus_for(model, gpus(*[600] * 3)) == 2, "the most there are"
    assert gpus_for(model, gpus(*[400] * 8)) == 4
    assert gpus_for(model, gpus(*[300] * 8)) == 4, "12 heads do not divide by 8"


def test_memory_that_others_hold_is_not_counted(model):
    """It went by the size of the first GPU, full or not."""
    assert gpus_for(model, gpus(1600, 1600, total=2000)) == 1
    assert gpus_for(model, gpus(1100, 1600, total=2000)) == 2
    assert memory_share(gpus(1000, 400)) == pytest.approx(0.38)


def test_weights_that_do_not_fit_are_refused_before_vllm_starts(model):
    """It said so after a minute, and on many lines."""
    with pytest.raises(MemoryLimitError, match=r"take 0\.0 GB, and the GPUs have 0\.0 GB free") as caught:
        gpus_for(model, gpus(500, 500))
    assert "nvidia-smi" in caught.value.hint


@given(st.lists(st.tuples(st.integers(1, 10**12), st.integers(0, 10**12)), min_size=1, max_size=8))
def test_vllm_is_never_told_to_take_more_than_is_free(sizes):
    memory = [Memory(free, free + used) for free, used in sizes]
    share = memory_share(memory)
    assert 0 < share <= SHARE
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
