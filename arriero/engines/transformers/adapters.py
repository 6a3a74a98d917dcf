"""PEFT adapters on one model: unmerged, any number of them, one in force at a time.

Every loaded directory gets a name of its own inside PEFT, so two of them are never taken for each other. Nothing here
may touch the base model's own weights: what would is refused by name, see the engine's entry in registry.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arriero import hub
from arriero.engines.registry import find
from arriero.errors import EngineError
from arriero.hub.adapter_files import CONFIG

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


class Adapters:
    """The adapters of a model. Only one thread may use it, the one that calls the model.

    `on_growth` is called when an adapter has brought embeddings for tokens that the model had none for: the model's
    are in another place in memory then.
    """

    def __init__(self, model: PreTrainedModel, on_growth: Callable[[], None] = lambda: None) -> None:
        self._model, self._on_growth = model, on_growth
        self._peft: PeftModel | None = None
        self._numbers = itertools.count(1)
        self._in_force: str | None = None

    @property
    def names(self) -> list[str]:
        """Those that are loaded."""
        return list(self._peft.peft_config) if self._peft is not None else []

    @property
    def vocabulary(self) -> int:
        """How many ids the model takes, those that adapters have brought included."""
        return int(self._model.get_input_embeddings().weight.shape[0])

    def load(self, directory: Path) -> str:
        """Load an adapter; returns the name that `use` and `delete` want.

        Raises EngineError for a kind that cannot be unmerged exactly, NotFoundError or ArrieroError where the
        directory cannot be loaded; the others are as before then.
        """
        find("transformers").check_adapter(directory)
        self._check_readable(directory)
        name = f"a{next(self._numbers)}"
        self.use(None)
        before = self.vocabulary
        try:
            self._peft = hub.load_adapter(self._peft or self._model, directory, name)
        except BaseException:
            self._undo(name)
            raise
        finally:
            if self.vocabulary > before:  # also where what came after that has failed
                self._on_growth()
        self._peft.eval()
        self._peft.base_model.disable_adapter_layers()
        return name

    def delete(self, name: str) -> None:
        """Free an adapter's memory."""
        self.use(None)
        if self._peft is None:
            return
        if list(self._peft.peft_config) == [name]:
            self._strip()
        else:
            self._peft.delete_adapter(name)
            self._peft.base_model.disable_adapter_layers()

    def use(self, name: str | None) -> None:
        """Put an adapter in force, None for the base model. Costs some 10 ms when it changes."""
        if self._peft is None or name == self._in_force:
            return
        tuner = self._peft.base_model
        if name is None:
            tuner.disable_adapter_layers()
        else:
            if self._in_force is None:
                tuner.enable_adapter_layers()
            tuner.set_adapter(name, inference_mode=True)
        self._in_force = name

    def _check_readable(self, directory: Path) -> None:
        """Keep weights in 4 bits readable for an adapter that reads them, as DoRA does; EngineError if too late."""
        config = hub.read_json(directory / CONFIG)
        if config.get("peft_type") == "LORA" and not config.get("use_dora"):
            return
        if hub.four_bits.is_packed(self._model):
            raise EngineError(
                f"{directory.name} reads the base's weights (DoRA, or no LoRA), and those in 4 bits are packed by now",
                hint="load it before anything is answered, or with --precision bfloat16",
            )
        hub.four_bits.keep_weights(self._model)

    def _undo(self, name: str) -> None:
        """Remove what a failed load has left in the model."""
        if self._peft is None:
            self._strip()
        elif name in self._peft.peft_config:
            self._peft.delete_adapter(name)
            self._peft.base_model.disable_adapter_layers()

    def _strip(self) -> None:
        """Put the model's own layers back where PEFT has wrapped them."""
        from peft.tuners.tuners_utils import BaseTunerLayer
        from peft.utils.other import AuxiliaryTrainingWrapper

        wrapped: list[tuple[str, Any]] = [
            (path, module)
            for path, module in self._model.named_modules()
            if isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper))
        ]
        for path, module in wrapped:
            parent, _, last = path.rpartition(".")
            own = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module.original_module
            setattr(self._model.get_submodule(parent), last, own)
        if hasattr(self._model, "peft_config"):
            del self._model.peft_config
        self._peft = None
