"""What an adapter asks of an engine and of the model below it, told from its files without importing an engine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from arriero import hub

HARMLESS_STARTS = ("gaussian", "eva", "orthogonal")  # the other named ways to initialise change the base weights


@dataclass(frozen=True, slots=True)
class AdapterLimits:
    """What of PEFT an engine does not do.

    `undone` are settings of adapter_config.json with which an adapter is more than, or not everywhere, LoRA's sum of
    two products; `max_rank` is the largest rank there is room for, None without such a limit.
    """

    undone: tuple[str, ...]
    max_rank: int | None = None

    def lacks(self, adapter_dir: Path) -> str | None:
        """What an adapter needs that the engine would get wrong, by PEFT's names; None when there is nothing."""
        config = hub.read_json(adapter_dir / "adapter_config.json")
        lacking = [setting for setting in self.undone if config.get(setting)]
        starts = (None, True, False, *HARMLESS_STARTS)
        plain = {"peft_type": ("LORA",), "bias": (None, "none"), "init_lora_weights": starts}
        lacking += [f"{name} {config.get(name)}" for name, allowed in plain.items() if config.get(name) not in allowed]
        if self.max_rank is not None and (rank := lora_rank(adapter_dir)) > self.max_rank:
            lacking.append(f"rank {rank}, more than {self.max_rank}")
        return f"{', '.join(lacking)}, which the adapter {adapter_dir} needs" if lacking else None


def lora_rank(adapter_dir: Path) -> int:
    """The largest rank of any layer; 0 where the configuration has none."""
    config = hub.read_json(adapter_dir / "adapter_config.json")
    ranks = [config.get("r"), *(config.get("rank_pattern") or {}).values()]
    return max((rank for rank in ranks if isinstance(rank, int)), default=0)


def stamp(file: Path) -> tuple[int, ...]:
    """What changes when a file is replaced or written: inode, bytes, modification time in nanoseconds."""
    found = file.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def stamps(directory: Path) -> dict[str, tuple[int, ...]]:
    """The stamps, by name, of a directory's weights and of what says how they are used: a model's or an adapter's."""
    files = [file for pattern in ("*config.json", "*.safetensors") for file in directory.glob(pattern)]
    return {file.name: stamp(file) for file in sorted(files)}
