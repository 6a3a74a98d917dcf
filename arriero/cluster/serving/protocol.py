"""What crosses between the process that serves and its replicas: pickled by Ray, all of it frozen.

No names, texts or keys: prompt ids and how to sample go there, ids come back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from arriero import hub
from arriero.constraint import Constraint
from arriero.engines.base import Feature
from arriero.errors import ContractError, NotFoundError
from arriero.hub.adapter_files import CONFIG, WEIGHTS
from arriero.messages import FinishReason, Sampling, TokenLogprob


@dataclass(frozen=True, slots=True)
class AdapterFiles:
    """An adapter's directory, the same on every node, and the SHA-256 of what an engine reads of it.

    A directory that holds another adapter by now is thereby another one.
    """

    directory: str
    digest: str

    @classmethod
    def of(cls, directory: Path) -> Self:
        """Those of a directory here; NotFoundError where there is no adapter in it."""
        digest = hashlib.sha256()
        for name in (CONFIG, WEIGHTS):
            try:
                with (directory / name).open("rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
            except OSError as error:
                raise NotFoundError(
                    f"{directory} has no {name} that can be read", hint="adapters lie at the same path on every node"
                ) from error
        return cls(str(directory), digest.hexdigest())

    def find(self) -> Path:
        """The directory; ContractError where it is not the same as where it was named first."""
        directory = Path(self.directory)
        if self.of(directory) != self:
            raise ContractError(
                f"{directory} holds another adapter than on the machine that serves, or than when it was loaded",
                hint="copy it to every node, or use a shared disk; then load it again",
            )
        return directory


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model by directory, by name where a node has it elsewhere, and by the fingerprint of its weights."""

    directory: str
    name: str
    fingerprint: str

    @classmethod
    def of(cls, directory: Path) -> Self:
        """Those of a directory here."""
        return cls(str(directory), hub.name_of(directory), hub.fingerprint(directory))

    def find(self) -> Path:
        """Its directory on this node; NotFoundError where it is not there, ContractError where it is another model."""
        directory = Path(self.directory)
        if not directory.is_dir():
            try:
                directory = hub.resolve(self.name)
            except NotFoundError as error:
                raise NotFoundError(
                    f"there is no {self.directory}, and {error.message}",
                    hint=f"there: arriero download {self.name}, or have the directory at the same path",
                ) from error
        if hub.fingerprint(directory) != self.fingerprint:
            raise ContractError(f"{directory} holds other weights than on the machine that serves")
        return directory


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What `Engine.submit` is given, and how many seconds chunks are apart at the least."""

    prompt_ids: Sequence[int]
    sampling: Sampling
    max_new_tokens: int
    adapter: AdapterFiles | None = None
    constraint: Constraint | None = None
    logprobs: int | None = None
    prompt_logprobs: bool = False
    interval: float = 0.0

    @property
    def resumable(self) -> bool:
        """Whether the ids that are still to come depend on prompt and ids so far alone.

        A grammar and the penalties on the answer begin anew with a prompt, and so does a seed's sequence.
        """
        sampling = self.sampling
        penalties = bool(sampling.presence_penalty or sampling.frequency_penalty)
        return self.constraint is None and not penalties and (not sampling.temperature or sampling.seed is None)

    def continued(self, ids: Sequence[int]) -> Request:
        """What to ask for once `ids` have come."""
        if not ids:
            return self
        prompt_ids, remaining = [*self.prompt_ids, *ids], self.max_new_tokens - len(ids)
        return replace(self, prompt_ids=prompt_ids, max_new_tokens=remaining, prompt_logprobs=False)


@dataclass(frozen=True, slots=True)
class Chunk:
    """The ids since the last chunk, with their log-probabilities if asked for; the last one has the finish reason.

    `prompt_logprobs` come with the first one.
    """

    ids: Sequence[int] = ()
    logprobs: Sequence[TokenLogprob] = ()
    prompt_logprobs: Sequence[TokenLogprob] = ()
    finish_reason: FinishReason | None = None


@dataclass(frozen=True, slots=True)
class Description:
    """What an engine says of itself; `config_hash` is equal for replicas that were made alike."""

    config_hash: str
    name: str
    description: str
    features: frozenset[Feature]
    in_4bit: bool
