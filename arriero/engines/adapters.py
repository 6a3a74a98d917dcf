"""What an adapter asks of an engine and of the model below it, told from its files without importing an engine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from arriero import hub
from arriero.errors import ArrieroError, NotFoundError

Shape = tuple[int, ...]
WEIGHTS = "adapter_model.safetensors"
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


def check_fit(adapter_dir: Path, model_dir: Path) -> None:
    """Raise for an adapter whose matrices belong to another model; only the files' headers are read.

    Layers of a kind that the base has under no such name, as a quantised base or fused experts, are not compared.
    Raises NotFoundError where the adapter has no safetensors, ArrieroError where they are damaged or do not fit.
    """
    if not (adapter_dir / WEIGHTS).is_file():
        raise NotFoundError(
            f"{adapter_dir} has no {WEIGHTS}; other formats are not loaded",
            hint="give the --output directory of a finished `arriero train`",
        )
    base = {name: shape for file in model_dir.glob("*.safetensors") for name, shape in _shapes(file).items()}
    known = {name.removesuffix(".weight"): shape for name, shape in base.items()}
    wanted = _layers(adapter_dir / WEIGHTS)
    kinds = {layer.rpartition(".")[2] for layer in wanted if layer in known}
    for layer, shape in wanted.items():
        comparable = layer.rpartition(".")[2] in kinds
        if comparable and known.get(layer) not in (shape, shape[::-1]):  # GPT-2 keeps its matrices the other way round
            raise ArrieroError(
                f"the adapter {adapter_dir} was made for another model: at {layer} it wants {shape}, "
                f"and {model_dir.name} has {known.get(layer, 'no such layer')}",
                hint="give the model it was trained on with --model",
            )


def _layers(file: Path) -> dict[str, Shape]:
    """Layer -> (out, in), as the product of an adapter's two matrices has it."""
    found: dict[str, Shape] = {}
    for name, shape in _shapes(file).items():
        layer, _, kind = name.removeprefix("base_model.model.").rpartition(".lora_")
        out, into = found.get(layer, (0, 0))
        if kind in ("A.weight", "B.weight"):
            found[layer] = (out, shape[1]) if kind == "A.weight" else (shape[0], into)
    return found


def _shapes(file: Path) -> dict[str, Shape]:
    try:
        with safe_open(file, framework="numpy") as weights:
            return {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ArrieroError(f"{file} cannot be loaded: {error}", hint="fetch or train it again") from error
