"""What vLLM is started with on a GPU that is pretended; the real vLLM makes its configuration of it, and no more."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from arriero.engines import EngineOptions, load_engine
from arriero.errors import EngineError, MemoryLimitError
from tests.engines.vllm.support import OTHERS_WARNINGS

pytest.importorskip("vllm", reason="there is no vLLM here: benchmarks/vllm_engine.sh")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(400), OTHERS_WARNINGS]
GB = 10**9


@pytest.fixture
def started(tiny_dir, monkeypatch):
    """What an engine would start vLLM with: `started(precision)` is its arguments and how they are to be used."""
    from vllm.v1.engine.async_llm import AsyncLLM

    def start(precision="auto"):
        taken = []
        monkeypatch.setattr(
            AsyncLLM, "from_engine_args", lambda *given, **named: taken.append((*given, named)) or 1 / 0
        )
        with pytest.raises(EngineError, match="division by zero"):
            load_engine(tiny_dir, (2,), "vllm", EngineOptions(precision=precision))
        return taken[0]

    return start


@pytest.fixture
def gpus(monkeypatch):
    """Pretend GPUs with so many GB free, of 80 each."""
    import torch

    from arriero.engines.vllm import start

    def put(*free):
        monkeypatch.setattr(start, "current_platform", SimpleNamespace(is_cuda=lambda: True, is_cpu=lambda: False))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(free))
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (int(free[index] * GB), 80 * GB))

    return put


def test_as_many_are_computed_together_as_by_vllm_serve(started, monkeypatch):
    """Started as a library it takes 128 sequences and 2,048 tokens of prompts in a step, on the largest GPU too."""
    from vllm import AsyncEngineArgs
    from vllm.usage.usage_lib import UsageContext

    large = {UsageContext.OPENAI_API_SERVER: 8192}, {UsageContext.OPENAI_API_SERVER: 1024}
    monkeypatch.setattr(AsyncEngineArgs, "get_batch_defaults", classmethod(lambda *_: large))
    arguments, named = started()
    scheduler = arguments.create_engine_config(**named).scheduler_config
    assert (scheduler.max_num_seqs, scheduler.max_num_batched_tokens) == (1024, 8192)


def test_memory_and_adapters_on_a_gpu(started, gpus):
    gpus(80, 80)
    arguments, _ = started()
    assert (arguments.tensor_parallel_size, arguments.gpu_memory_utilization) == (1, 0.9)
    assert (arguments.enable_lora, arguments.max_lora_rank, arguments.max_loras) == (True, 32, 4)
    assert arguments.kv_cache_memory_bytes is None
    gpus(41, 80)
    assert started("bfloat16")[0].gpu_memory_utilization == pytest.approx(0.95 * 41 / 80)


def test_float32_has_no_room_for_adapters_on_a_gpu(started, gpus):
    gpus(80)
    assert not started("float32")[0].enable_lora


def test_four_bits_on_a_gpu(started, gpus):
    pytest.importorskip("vllm_bnb_plugin")
    gpus(80)
    arguments, _ = started("int4")
    assert (arguments.quantization, arguments.load_format) == ("bitsandbytes", "bitsandbytes")
    assert arguments.dtype == "bfloat16"
    assert arguments.enable_lora


def test_a_gpu_that_is_full_is_said_before_vllm_starts(tiny_dir, gpus):
    gpus(0.5)
    with pytest.raises(MemoryLimitError, match=r"can use 0\.0 GB"):
        load_engine(tiny_dir, (2,), "vllm")
