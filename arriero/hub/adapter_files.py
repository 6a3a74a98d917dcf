"""An adapter's weights as its files' headers tell them: whether they are there, and made for a model."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open

from arriero.errors import ArrieroError, NotFoundError

Shape = tuple[int, ...]
CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
TRAINED = "give the --output directory of a finished `arriero train`"
SAVED = "give the directory that PEFT's save_pretrained wrote, or a Trainer's checkpoint-N"


def check_config(adapter_dir: Path, hint: str = f"{TRAINED}; a merged model is given with --model") -> None:
    """Raise NotFoundError, with the hint, where a directory is none of an adapter, or is not there."""
    if not (adapter_dir / CONFIG).is_file():
        reason = f"it has no {CONFIG}" if adapter_dir.is_dir() else "there is no such directory"
        raise NotFoundError(f"{adapter_dir} is not an adapter directory: {reason}", hint=hint)


def check_weights(adapter_dir: Path) -> None:
    """Raise NotFoundError where an adapter's directory has no safetensors."""
    if (adapter_dir / WEIGHTS).is_file():
        return
    hint = TRAINED
    if (adapter_dir / "adapter_model.bin").is_file():
        hint = f"load it with PEFT where you trust it, and save_pretrained() it again: that writes {WEIGHTS}"
    raise NotFoundError(f"{adapter_dir} has no {WEIGHTS}; other formats are not loaded", hint=hint)


def check_fit(adapter_dir: Path, model_dir: Path) -> None:
    """Raise for an adapter whose matrices belong to another model; only the files' headers are read.

    Layers of a kind that the base has under no such name, as a base quantised by GPTQ or fused experts, are not
    compared.
    Raises NotFoundError where the adapter has no safetensors, ArrieroError where they are damaged or do not fit.
    """
    check_weights(adapter_dir)
    base = {name: shape for file in model_dir.glob("*.safetensors") for name, shape in _shapes(file).items()}
    base_shapes = {name.removesuffix(".weight"): shape for name, shape in base.items()}
    adapted = _layers(adapter_dir / WEIGHTS)
    kinds = {layer.rpartition(".")[2] for layer in adapted if layer in base_shapes}
    for layer, shape in adapted.items():
        comparable = layer.rpartition(".")[2] in kinds
        packed = shape[0] * shape[1] // 2, 1  # as bitsandbytes stores 4 bits
        if comparable and base_shapes.get(layer) not in (shape, shape[::-1], packed):  # GPT-2 keeps them transposed
            raise ArrieroError(
                f"the adapter {adapter_dir} was made for another model: at {layer} it wants {shape}, "
                f"and {model_dir.name} has {base_shapes.get(layer, 'no such layer')}",
                hint="give the model it was trained on with --model",
            )


def _layers(file: Path) -> dict[str, Shape]:
    """Layer -> (out, in), as the product of an adapter's two matrices has it."""
    layers: dict[str, Shape] = {}
    for name, shape in _shapes(file).items():
        layer, _, kind = name.removeprefix("base_model.model.").rpartition(".lora_")
        out, into = layers.get(layer, (0, 0))
        if kind in ("A.weight", "B.weight"):  # A is (rank, in), B is (out, rank)
            layers[layer] = (out, shape[1]) if kind == "A.weight" else (shape[0], into)
    return layers


def _shapes(file: Path) -> dict[str, Shape]:
    try:
        with safe_open(file, framework="numpy") as weights:
            return {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118  no mapping
    except (OSError, SafetensorError) as error:
        raise ArrieroError(f"{file} cannot be loaded: {error}", hint="fetch or train it again") from error
