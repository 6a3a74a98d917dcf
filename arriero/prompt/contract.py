"""What an adapter was trained under: written beside it as `arriero.json`, checked on load by every surface.

A model that an adapter was merged into keeps that contract in its own directory.
The contract holds a sample conversation with the ids it had in training. Loading renders the sample again with the
tokenizer at hand; a difference is an error that says what differs, before a single token is generated.
"""

from __future__ import annotations

import datetime
import json
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from arriero import hub
from arriero.errors import ContractError, NotFoundError
from arriero.messages import Conversation, Message
from arriero.prompt.renderer import Renderer

CONTRACT_FILE = "arriero.json"
FORMAT = 1
NEWER = 2  # of a contract that says something which older versions do not know
_SINCE_NEWER = frozenset({"fold_system", "chat_template", "base_in_4bit"})


@dataclass(frozen=True, slots=True)
class Contract:
    """The prompt contract. `base_fingerprint` is `hub.fingerprint` of the base model's weights.

    `base_path` is where the base model lay on the machine that wrote this, None where its name finds it. In a merged
    model's directory the fingerprint is that of the merged weights themselves, and `merged_adapter` names
    the adapter in them, which was trained on `base_model`. `fold_system` and `chat_template` are the renderer's.
    `base_in_4bit`: the base's weights were brought to 4 bits when they were loaded for training.
    """

    base_model: str
    base_fingerprint: str
    system: str | None
    template_sha256: str
    today: str
    variables: Mapping[str, Any]
    stop_token_ids: tuple[int, ...]
    sample_messages: Sequence[Mapping[str, Any]]
    sample_ids: tuple[int, ...]
    versions: Mapping[str, str] = field(default_factory=dict)
    format: int = FORMAT
    merged_adapter: str | None = None
    base_path: str | None = None
    fold_system: bool = False
    chat_template: str | None = None
    base_in_4bit: bool = False

    @classmethod
    def of(
        cls,
        renderer: Renderer,
        sample: Conversation,
        *,
        base_model: str,
        base_fingerprint: str,
        base_path: str | None = None,
        base_in_4bit: bool = False,
    ) -> Contract:
        """The contract of training the model with `renderer`; `sample` is one of the training conversations."""
        return cls(
            base_model=base_model,
            base_fingerprint=base_fingerprint,
            base_path=base_path,
            system=renderer.system,
            template_sha256=renderer.template_sha256,
            today=renderer.today,
            variables=dict(renderer.variables),
            stop_token_ids=renderer.stop_token_ids,
            sample_messages=list(map(_plain, sample.messages)),
            sample_ids=renderer.render(sample).ids,
            versions=_versions("arriero", "transformers", "tokenizers", "peft", "torch"),
            fold_system=renderer.fold_system,
            chat_template=renderer.given_template,
            base_in_4bit=base_in_4bit,
        )

    def save(self, directory: Path) -> None:
        """Write `arriero.json` into the directory of an adapter or a merged model, whole and onto the disk, or not."""
        optional = _SINCE_NEWER | {"base_path"}
        document = {name: value for name, value in asdict(self).items() if value or name not in optional}
        document["format"] = NEWER if _SINCE_NEWER & document.keys() else FORMAT
        text = json.dumps(document, ensure_ascii=False, indent=2) + "\n"
        partial = directory / f"{CONTRACT_FILE}.partial"
        try:
            with partial.open("w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            partial.replace(directory / CONTRACT_FILE)
        finally:
            partial.unlink(missing_ok=True)

    @classmethod
    def load(cls, directory: Path) -> Contract:
        """Read `arriero.json`; raises NotFoundError where it is missing and ContractError where it is not one."""
        file = directory / CONTRACT_FILE
        if not file.is_file():
            adopt = f"arriero adopt {shlex.quote(str(directory))}"
            raise NotFoundError(
                f"{directory} has no {CONTRACT_FILE}, so nothing says which prompt this adapter was trained with",
                hint=f"give the --output directory of a finished `arriero train`; an adapter from elsewhere: {adopt}",
            )
        try:
            document = json.loads(file.read_text(encoding="utf-8"))
            stored = document.get("format")
            if stored not in (FORMAT, NEWER):
                raise ContractError(
                    f"{file} has format {stored}, this version reads formats up to {NEWER}", hint="upgrade arriero"
                )
            for name in ("stop_token_ids", "sample_ids"):
                document[name] = tuple(document[name])
            contract = cls(**document)
            datetime.date.fromisoformat(contract.today)
            texts = contract.system, contract.chat_template, contract.base_path
            if not all(isinstance(text, str | None) for text in texts):
                raise ValueError("system, chat_template and base_path must be text")
            if not isinstance(contract.base_model, str):
                raise ValueError("base_model must be text")
            return contract
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            hint = "train the adapter, or merge the model, again"
            raise ContractError(f"{file} is not a prompt contract: {error}", hint=hint) from error

    def check(self, renderer: Renderer, base_fingerprint: str) -> None:
        """Raise ContractError, saying what differs, unless `renderer` and the base model are those of training."""
        differences = []
        if base_fingerprint != self.base_fingerprint:
            whose, then = "the base model's", f"trained on {self.base_model}"
            if self.merged_adapter is not None:
                whose, then = "its", "merged"
            differences.append(f"{whose} weights ({base_fingerprint[:19]}…, {then} {self.base_fingerprint[:19]}…)")
        if renderer.template_sha256 != self.template_sha256:
            differences.append("the chat template")
        if renderer.stop_token_ids != self.stop_token_ids:
            differences.append(f"the stop tokens ({renderer.stop_token_ids}, trained with {self.stop_token_ids})")
        if not differences:
            differences += self._sample_difference(renderer)
        if differences:
            raise self._broken("; ".join(differences))

    def _broken(self, differences: str) -> ContractError:
        if self.merged_adapter is None:
            return ContractError(
                f"the adapter was trained under another contract; what differs: {differences}",
                hint=f"load it on its own base model: --model {self.base_model}",
            )
        return ContractError(
            f"the model has changed since {self.merged_adapter} was merged into it; what differs: {differences}",
            hint=f"merge it again; without its {CONTRACT_FILE} it is loaded as any model, without the adapter's prompt",
        )

    def _sample_difference(self, renderer: Renderer) -> list[str]:
        ids = renderer.render(Conversation.of(self.sample_messages)).ids
        if ids == self.sample_ids:
            return []
        pairs = zip(ids, self.sample_ids, strict=False)
        position = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(ids), len(self.sample_ids)))
        return [
            f"the token ids of the sample conversation, from position {position} "
            f"(now {list(ids[position : position + 5])}, in training {list(self.sample_ids[position : position + 5])})"
        ]


def _plain(message: Message) -> dict[str, str]:
    reasoning = message.reasoning_content
    plain = {"role": message.role, "content": message.content}
    return plain if reasoning is None else plain | {"reasoning_content": reasoning}


def _versions(*packages: str) -> dict[str, str]:
    versions = {}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def trained_in_4bit(adapter_dir: Path) -> bool:
    """Whether an adapter was trained over a base that was brought to 4 bits, as its contract has it."""
    return hub.read_json(adapter_dir / CONTRACT_FILE).get("base_in_4bit") is True
