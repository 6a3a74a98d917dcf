"""Load a model's tokenizer, and say which token ids end a turn."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from arriero import hub
from arriero.errors import ArrieroError, UsageError
from arriero.prompt import compat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def load_tokenizer(model_dir: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a model that answers; as `read_tokenizer`, and UsageError when it has no chat template."""
    tokenizer = read_tokenizer(model_dir)
    check_template(tokenizer, model_dir)
    return tokenizer


def check_template(tokenizer: PreTrainedTokenizerFast, model_dir: Path) -> None:
    """Raise UsageError where a tokenizer has no chat template."""
    if not tokenizer.chat_template:
        raise UsageError(
            f"the tokenizer in {model_dir} has no chat template: this is a base model, not an instruct model",
            hint="choose the -Instruct version of the model, or give it one: --chat-template chatml, llama3 or FILE",
        )


def read_tokenizer(model_dir: Path) -> PreTrainedTokenizerFast:
    """The fast tokenizer of a model directory, from disk only, without running code that came with the model.

    Raises ArrieroError when it cannot be read and UsageError when it has no fast version.
    """
    import transformers

    # "import AutoTokenizer" imports torch and every model's configuration: half of the time to a first answer
    kind = transformers.PreTrainedTokenizerFast if _is_plain(model_dir) else transformers.AutoTokenizer
    try:
        tokenizer = kind.from_pretrained(model_dir, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ArrieroError(
            f"the tokenizer in {model_dir} cannot be loaded: {error}", hint="arriero models verify, or download again"
        ) from error
    if not getattr(tokenizer, "is_fast", False):
        raise UsageError(f"the tokenizer in {model_dir} has no fast version; Arriero needs a tokenizer.json")
    loaded: PreTrainedTokenizerFast = tokenizer
    # tokenizer.json carries those of the last call before it was saved, and they would cut or pad prompts
    loaded.backend_tokenizer.no_truncation()
    loaded.backend_tokenizer.no_padding()
    return loaded


def _is_plain(model_dir: Path) -> bool:
    """Whether to choose the class that takes tokenizer.json as it is.

    AutoTokenizer would, too: of every Llama 3, and of Mistral's models unless mistral-common is installed, whose class
    is no fast one. For other architectures that depends on tables inside transformers, which are AutoTokenizer's
    business.
    """
    config = hub.read_json(model_dir / "tokenizer_config.json")
    if "auto_map" in config or not (model_dir / "tokenizer.json").is_file():
        return False
    model_type = hub.read_json(model_dir / "config.json").get("model_type")
    if model_type == "llama":
        return config.get("tokenizer_class") in ("PreTrainedTokenizerFast", "TokenizersBackend")
    return compat.prefers_mistral_common(model_type)


def stop_token_ids(tokenizer: PreTrainedTokenizerFast, model_dir: Path) -> tuple[int, ...]:
    """Every token id that ends a turn, ascending: the tokenizer's and those of generation_config.json and config.json.

    Llama 3.1 lists three (<|end_of_text|>, <|eom_id|>, <|eot_id|>); stopping at one of them only is how replies
    come to run on.
    """
    ids: set[int] = set()
    if tokenizer.eos_token_id is not None:
        ids.add(tokenizer.eos_token_id)
    for name in ("generation_config.json", "config.json"):
        value = hub.read_json(model_dir / name).get("eos_token_id")
        ids.update([value] if isinstance(value, int) else value or ())
    if not ids:
        raise UsageError(f"{model_dir} names no end-of-turn token in its tokenizer or generation config")
    return tuple(sorted(ids))


def token_count(tokenizer: PreTrainedTokenizerFast) -> int:
    """The last token id that text can come to, plus one.

    What stands for a picture or a sound is not counted: Gemma 3's smallest models read text only, yet their tokenizer
    has such a token behind the last row of the embedding.
    """
    kinds = ("image", "video", "audio")
    media = {getattr(tokenizer, f"{kind}_token_id", None) for kind in kinds}
    added = [token for token in tokenizer.added_tokens_decoder if token not in media]
    return int(max([tokenizer.vocab_size, *(token + 1 for token in added)]))


def check_vocabulary(tokenizer: PreTrainedTokenizerFast, model_dir: Path, adapter_dir: Path | None = None) -> None:
    """Raise ArrieroError where the tokenizer has tokens that neither the model nor the adapter has embeddings for."""
    tokens, rows = token_count(tokenizer), hub.vocabulary(model_dir)
    if rows is None or tokens <= max(rows, hub.adapter_rows(adapter_dir) if adapter_dir is not None else 0):
        return
    first = tokenizer.convert_ids_to_tokens(rows)
    raise ArrieroError(
        f"the tokenizer of {model_dir.name} has {tokens} tokens, but its embedding only {rows}: "
        f"{first!r} and whatever follows it cannot be read or answered",
        hint="train with --resize-embeddings and give the adapter, or put the model's own tokenizer back",
    )
