"""What an adapter asks of an engine and of the model below it, told from its files without importing an engine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from arriero import hub
from arriero.hub.adapter_files import CONFIG

HARMLESS_STARTS = ("gaussian", "eva", "orthogonal")  # the other named ways to initialise change the base weights
WEIGHTS_AND_CONFIGS = ("*config.json", "*.safetensors")


@dataclass(frozen=True, slots=True)
class AdapterLimits:
    """What of PEFT an engine does not do.

    `undone` are settings of adapter_config.json that it would get wrong. `kinds` are the types of adapters that it
    does, None where it does all but those that lengthen the prompt. `max_rank` is the largest rank there is room for,
    None without such a limit. No engine does an adapter that changes the base model's own weights or biases.
    """

    undone: tuple[str, ...]
    kinds: tuple[str, ...] | None = ("LORA",)
    max_rank: int | None = None

    def lacks(self, adapter_dir: Path) -> str | None:
        """What an adapter needs that the engine would get wrong, by PEFT's names; None when there is nothing."""
        config = hub.read_json(adapter_dir / CONFIG)
        lacking = [setting for setting in self.undone if config.get(setting)]
        kind, start = config.get("peft_type"), config.get("init_lora_weights")
        changes = {
            "peft_type": "num_virtual_tokens" in config or (self.kinds is not None and kind not in self.kinds),
            "bias": config.get("bias") not in (None, "none"),
            "init_lora_weights": isinstance(start, str) and start.lower() not in HARMLESS_STARTS,
        }
        lacking += [f"{name} {config.get(name)}" for name, refused in changes.items() if refused]
        if self.max_rank is not None and (rank := lora_rank(adapter_dir)) > self.max_rank:
            lacking.append(f"rank {rank}, more than {self.max_rank}")
        return f"{', '.join(lacking)}, which the adapter {adapter_dir} needs" if lacking else None


def lora_rank(adapter_dir: Path) -> int:
    """The largest rank of any layer; 0 where the configuration has none."""
    config = hub.read_json(adapter_dir / CONFIG)
    ranks = [config.get("r"), *(config.get("rank_pattern") or {}).values()]
    return max((rank for rank in ranks if isinstance(rank, int)), default=0)


def stamp(file: Path) -> tuple[int, int, int]:
    """What changes when a file is replaced or written: inode, bytes, modification time in nanoseconds."""
    stat = file.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def stamps(directory: Path, *patterns: str) -> dict[str, tuple[int, int, int]]:
    """The stamps, by name, of a directory's files; by default of weights and what says how they are used."""
    files = {file for pattern in patterns or WEIGHTS_AND_CONFIGS for file in directory.glob(pattern)}
    return {file.name: stamp(file) for file in sorted(files) if file.is_file()}
