"""adopt(): an adapter that another program trained gets a prompt contract, and so becomes an adapter directory.

PEFT's files say which model they belong to, not which prompt: that is for the one who adopts to know.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path, PurePosixPath
from typing import Unpack

from arriero import hub
from arriero.errors import ArrieroError, NotFoundError, UsageError
from arriero.hub.adapter_files import CONFIG, SAVED, WEIGHTS, check_config, check_fit, check_weights
from arriero.messages import Conversation
from arriero.prompt.contract import CONTRACT_FILE, Contract
from arriero.prompt.options import PromptSettings
from arriero.prompt.resolved import ResolvedModel, resolve

log = logging.getLogger(__name__)
SAMPLE = ({"role": "user", "content": "你是谁？ Who are you?"}, {"role": "assistant", "content": "我是… I am …"})


def adopt(
    adapter: str | Path,
    *,
    model: str | Path | None = None,
    output: Path | None = None,
    **prompting: Unpack[PromptSettings],
) -> ResolvedModel:
    """Write the contract of an adapter that has none: PEFT's directory, or a Trainer's `checkpoint-N`.

    `model` None means the base model that the adapter's own configuration names, by path or by name. `prompting` says
    what it was trained under, where that is not the chat template's own. The contract is written into the directory
    itself, or into `output` beside copies of the adapter's two files. Raises NotFoundError where adapter or model are
    not there, UsageError where there is a contract already, ArrieroError where the adapter is not for this model or is
    no LoRA adapter.
    """
    directory = Path(adapter).expanduser().resolve()
    config = _config(directory)
    if (directory / CONTRACT_FILE).is_file():
        raise UsageError(
            f"{directory} has a prompt contract already",
            hint=f"use it as it is; to adopt it anew, delete its {CONTRACT_FILE} first",
        )
    check_weights(directory)
    resolved = resolve(model if model is not None else _base(config.get("base_model_name_or_path")), **prompting)
    check_fit(directory, resolved.model_dir)
    target = directory if output is None else _copied(directory, output)
    Contract.of(
        resolved.renderer,
        Conversation.of(SAMPLE),
        base_model=hub.name_of(resolved.model_dir),
        base_fingerprint=hub.fingerprint(resolved.model_dir),
        base_path=hub.store.path_of(resolved.model_dir),
    ).save(target)
    _announce_template(directory, resolved)
    return resolve(resolved.model_dir, target)  # it holds


def _announce_template(directory: Path, resolved: ResolvedModel) -> None:
    """Some programs save a chat template beside the adapter; it may be another one than it is prompted with here."""
    file = directory / "chat_template.jinja"
    if file.is_file() and file.read_text(encoding="utf-8") != resolved.renderer.template:
        log.warning(
            "%s has a chat template of its own, and it is prompted with another; if it was trained with its own, "
            "adopt it with --chat-template %s",
            directory.name,
            file,
        )


def _config(directory: Path) -> dict[str, object]:
    """The adapter's configuration, of a kind that answers can be made with."""
    check_config(directory, SAVED)
    config = hub.read_json(directory / CONFIG)
    kind, task = config.get("peft_type"), config.get("task_type")
    if kind != "LORA" or task not in (None, "CAUSAL_LM"):
        raise ArrieroError(
            f"{directory} is an adapter of type {kind} for {task or 'no named task'}; expected LORA for CAUSAL_LM",
            hint="train it again with `arriero train`",
        )
    return config


def _base(name: object) -> Path:
    """The base model that a configuration names: a path, here or on the machine that trained, or a hub's name."""
    if not isinstance(name, str) or not name:
        raise NotFoundError(f"the adapter's {CONFIG} names no base model", hint="give it with --model")
    parts = PurePosixPath(name.replace("\\", "/")).parts
    # ModelScope's client writes the dots of a name as three underscores
    names = [name, *("/".join(parts[-count:]).replace("___", ".") for count in (2, 1) if len(parts) >= count)]
    for candidate in names:
        try:
            return hub.resolve(candidate)
        except NotFoundError:
            continue
    raise NotFoundError(
        f"the adapter's base model {name} is not on disk",
        hint="give its directory with --model, or its name once `arriero download` has fetched it",
    )


def _copied(directory: Path, output: Path) -> Path:
    target = output.expanduser().resolve()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target} exists and is not an empty directory", hint="give another --output")
    target.mkdir(parents=True, exist_ok=True)
    for name in (CONFIG, WEIGHTS):
        shutil.copyfile(directory / name, target / name)
    return target
