"""Put an adapter into a repository on a hub: what others need to use it, and nothing of the machine it is from.

adapter_model.safetensors   as it is
adapter_config.json         the base model by its name on that hub, not by a path
arriero.json                the prompt contract, without the path of the base model
README.md                   the card, in which the adapter has its name
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from arriero.errors import AccessError, UsageError
from arriero.hub.access import LOGIN, TOKENS
from arriero.hub.adapter_files import CONFIG, TRAINED, WEIGHTS, check_config, check_weights
from arriero.hub.catalog import CATALOG, REPOSITORY
from arriero.hub.sources import allow, endpoint, page
from arriero.hub.weights import read_json

Hub = Literal["huggingface", "modelscope"]
CONTRACT = "arriero.json"


@dataclass(frozen=True, slots=True)
class Pushed:
    """What was uploaded, or would be (`dry_run`): the page it is at, and the size of each file in bytes."""

    page: str
    private: bool
    dry_run: bool
    files: dict[str, int]


def push(adapter_dir: Path, repository: str, *, to: Hub, private: bool = True, dry_run: bool = True) -> Pushed:
    """Upload an adapter to the repository `owner/name`, which is made, `private` or not, where there is none.

    Raises NotFoundError where the directory is no adapter, UsageError, AccessError without a token that may write,
    OfflineError or DownloadError.
    """
    if REPOSITORY.fullmatch(repository) is None:
        raise UsageError(f"{repository} is not a repository's name", hint="give owner/name; the owner is your account")
    check_config(adapter_dir, TRAINED)
    check_weights(adapter_dir)
    with tempfile.TemporaryDirectory() as stage:
        files = _staged(adapter_dir, Path(stage), repository, to)
        if not dry_run:
            allow(f"pushing to {repository}")
            _upload(Path(stage), repository, to, private=private)
    return Pushed(page(to, repository), private, dry_run, files)


def _staged(adapter_dir: Path, stage: Path, repository: str, to: Hub) -> dict[str, int]:
    """Fill `stage` with what is uploaded; returns the sizes in bytes."""
    contract = read_json(adapter_dir / CONTRACT)
    contract.pop("base_path", None)
    config = read_json(adapter_dir / CONFIG)
    base = _on_hub(str(contract.get("base_model") or config.get("base_model_name_or_path")), to)
    _write(stage / CONFIG, {**config, "base_model_name_or_path": base})
    if contract:
        _write(stage / CONTRACT, contract)
    card = adapter_dir / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else _card(base)
    (stage / card.name).write_text(_named(text, repository, to), encoding="utf-8")
    (stage / WEIGHTS).symlink_to((adapter_dir / WEIGHTS).resolve())
    return {file.name: file.stat().st_size for file in sorted(stage.iterdir())}


def _on_hub(model: str, to: Hub) -> str:
    """A model's id on the hub where the catalogue has it; otherwise its name, without the directory it was in."""
    origin = CATALOG.get(model)
    repository = getattr(origin, to, None)
    return str(repository or (model if REPOSITORY.fullmatch(model) else Path(model).name))


def _write(file: Path, document: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(document, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _named(card: str, repository: str, to: Hub) -> str:
    """A card that `arriero train` wrote, with the adapter's name where it could only say DIRECTORY."""
    name = repository if to == "huggingface" else f"{to}:{repository}"
    card = card.replace("--adapter DIRECTORY", f"--adapter {name}")
    card = card.replace("DIRECTORY is the one this file is in. `arriero.json` beside it", "`arriero.json` here")
    return card.replace('ADAPTER = "DIRECTORY"', f'ADAPTER = "{repository}"')


def _card(base: str) -> str:
    metadata = ["library_name: peft", "pipeline_tag: text-generation", "tags: [lora, arriero]"]
    metadata += [f"base_model: {base}"] if REPOSITORY.fullmatch(base) else []
    front = "\n".join(metadata)
    return f"---\n{front}\n---\n\nA LoRA adapter for {base}.\n\n    arriero chat --adapter DIRECTORY\n"


def _upload(stage: Path, repository: str, to: Hub, *, private: bool) -> None:
    from arriero.hub.remote import translated
    from arriero.hub.transfer.clients import modelscope_api

    message = "An adapter, uploaded with Arriero"
    try:
        with translated(to, repository), contextlib.redirect_stdout(sys.stderr):  # ModelScope's client prints
            if to == "modelscope":
                api = modelscope_api()
                if not api.repo_exists(repository, "model"):
                    api.create_repo(repository, "model", visibility="private" if private else "public", license="other")
                api.upload_folder(
                    repository, "model", stage, commit_message=message, use_cache=False, disable_tqdm=True
                )
            else:
                from huggingface_hub import HfApi

                HfApi().create_repo(repository, private=private, exist_ok=True)
                HfApi().upload_folder(repo_id=repository, folder_path=stage, commit_message=message)
    except AccessError as error:
        raise AccessError(
            f"{to} does not let you write to {repository}",
            hint=f"make a token that may write at {endpoint(to)}/{TOKENS[to]}, then run: {LOGIN[to]}",
        ) from error
