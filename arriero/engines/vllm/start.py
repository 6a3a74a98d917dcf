"""How vLLM is started: its arguments for a model on this machine, and what its processes are kept from.

It takes neither sampling parameters nor an end of turn from the model's directory; neither Ctrl-C nor the user's own
script reaches its processes.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import secrets
import signal
import sys
import types
from collections.abc import Collection, Iterator, Sequence
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, get_args

import psutil
import torch
from vllm import AsyncEngineArgs, ModelRegistry
from vllm.config import StructuredOutputsConfig
from vllm.config.lora import MaxLoRARanks
from vllm.model_executor.models import supports_lora
from vllm.platforms import current_platform
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.async_llm import AsyncLLM

from arriero import hub
from arriero.engines.base import Precision
from arriero.engines.vllm.room import Memory, gpus_for, lora_room, memory_share
from arriero.errors import ArrieroError, EngineError
from arriero.hardware import free_memory

AS_SERVED = UsageContext.OPENAI_API_SERVER  # else a large GPU computes 128 sequences at once instead of 1,024
KEPT = 1000  # adapters vLLM may hold; beyond, it would read one again from a directory that may have changed


async def start(model_dir: Path, adapters: Sequence[Path], precision: Precision) -> AsyncLLM:
    """A running vLLM with room for these adapters, none loaded yet. It belongs to the loop that awaits this.

    Raises EngineError for a model that vLLM does not do, MemoryLimitError for one whose weights do not fit.
    """
    try:
        arguments = _arguments(model_dir, precision)
        _make_room(arguments, adapters)
        with _sheltered():
            llm = AsyncLLM.from_engine_args(arguments, usage_context=AS_SERVED)
        await llm.get_supported_tasks()
    except Exception as error:
        if isinstance(error, ArrieroError):
            raise
        raise EngineError(
            f"vLLM cannot load {model_dir.name}: {' '.join(str(error).split())}",
            hint="what it wrote above says why; --engine transformers does any model",
        ) from error
    return llm


def interrupt(others: Collection[BaseProcess]) -> None:
    """End a vLLM that is still starting, that is all child processes but `others`; by itself it would start first."""
    for child in multiprocessing.active_children():
        with contextlib.suppress(psutil.NoSuchProcess):
            family: list[Any] = [] if child in others else [*psutil.Process(child.pid).children(recursive=True), child]
            for process in family:
                process.kill()


def _arguments(model_dir: Path, precision: Precision) -> AsyncEngineArgs:
    four_bits = precision == "int4"  # vllm-bnb-plugin's: NF4, scales quantised too, as in training
    by_plugin = four_bits or hub.quantisation(model_dir) == "bitsandbytes"
    arguments = AsyncEngineArgs(
        model=str(model_dir),
        dtype="bfloat16" if four_bits else precision,
        quantization="bitsandbytes" if by_plugin else None,
        load_format="bitsandbytes" if by_plugin else "safetensors",
        max_model_len=-1,  # the model's window, or as much of it as memory holds
        seed=secrets.randbits(31),  # of requests without one; vLLM's own default is the same at every start
        generation_config="vllm",  # the model's own defaults reach the engine through `Sampling`, and only through it
        structured_outputs_config=StructuredOutputsConfig(backend="guidance"),  # llguidance, as everywhere here
        disable_log_stats=True,
    )
    if current_platform.is_cuda():
        gpus = [Memory(*torch.cuda.mem_get_info(index)) for index in range(torch.cuda.device_count())]
        arguments.tensor_parallel_size = gpus_for(model_dir, gpus, precision)
        arguments.gpu_memory_utilization = memory_share(gpus[: arguments.tensor_parallel_size])
    elif current_platform.is_cpu():
        arguments.kv_cache_memory_bytes = free_memory() // 4  # VLLM_CPU_KVCACHE_SPACE says otherwise
    return arguments


def _make_room(arguments: AsyncEngineArgs, adapters: Sequence[Path]) -> None:
    """Reserve room for adapters: for these, and with CUDA also for such as may be added later.

    Not so on a CPU, where vLLM with room for adapters answers at half its speed, nor for float32 with CUDA, for which
    it has no kernels.
    """
    model = arguments.create_model_config()
    able = supports_lora(ModelRegistry.resolve_model_cls(model.architectures, model)[0])
    if current_platform.is_cuda():
        able = able and model.dtype != torch.float32
    if adapters and not able:
        raise EngineError(
            f"vLLM does no adapters for {model.architectures[0]} in {str(model.dtype).removeprefix('torch.')}",
            hint="use --engine transformers",
        )
    if able and (adapters or not current_platform.is_cpu()):
        room = lora_room(adapters, get_args(MaxLoRARanks))
        arguments.enable_lora = True
        arguments.max_lora_rank, arguments.max_loras = room.rank, room.slots
        arguments.max_cpu_loras = KEPT


@contextlib.contextmanager
def _sheltered() -> Iterator[None]:
    """Processes begun within do not import the user's script, which may load a model itself, nor see Ctrl-C."""
    resource_tracker.ensure_running()  # its own start would clear the mask
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    main, sys.modules["__main__"] = sys.modules["__main__"], types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
