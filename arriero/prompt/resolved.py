"""A base model and, where one is given, an adapter whose contract holds on it. Every surface begins here.

An adapter knows the name of its base model, its system prompt and everything else its contract says; so nothing of
that need be given again, and what is given must agree. A model that an adapter was merged into knows the same by a
contract of its own; it holds wherever the model is used without an adapter, for training a further one too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Unpack

from arriero import hub
from arriero.errors import NotFoundError
from arriero.hub.adapter_files import check_config
from arriero.prompt.contract import CONTRACT_FILE, Contract
from arriero.prompt.options import PromptSettings, ending_of, template_of, variables_of
from arriero.prompt.renderer import Renderer
from arriero.prompt.tokenizer import check_template, check_vocabulary, read_tokenizer, stop_token_ids


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """Directories of the base model and the adapter, and the renderer under which they belong together.

    `adapter_dir` is None without an adapter, `contract` where neither adapter nor model has one.
    """

    model_dir: Path
    adapter_dir: Path | None
    contract: Contract | None
    renderer: Renderer

    @property
    def contract_name(self) -> str | None:
        """The name of the adapter or the model whose contract holds, None where none does."""
        if self.contract is None:
            return None
        return hub.name_of(self.model_dir) if self.adapter_dir is None else self.adapter_dir.name


def resolve(
    model: str | Path | None = None,
    adapter: str | Path | None = None,
    *,
    more_tokens: bool = False,
    **prompting: Unpack[PromptSettings],
) -> ResolvedModel:
    """Find a model by catalogue name, repository id or directory, and check an adapter's contract against it.

    `adapter` is a directory or, as text, also a name on a hub, from where it and its base model are then fetched.
    `model` None means the adapter's own base model, or the default model. `prompting` replaces what otherwise is as the
    adapter was trained with, one merged into the model included: the system prompt, variables of the template one by
    one. Nothing but the tokenizer is loaded. Raises NotFoundError where the model or the adapter is not on disk,
    ContractError where the adapter belongs to another model or prompt, and, unless `more_tokens` are all right, as
    `check_vocabulary` and `hub.download`.
    """
    adapter_dir = hub.adapter(adapter) if adapter is not None else None
    contract = _contract(adapter_dir)
    model_dir = hub.resolve(model) if model is not None or contract is None else _base(contract, adapter_dir)
    if contract is None and (model_dir / CONTRACT_FILE).is_file():
        contract = Contract.load(model_dir)
    renderer = _renderer(model_dir, contract, prompting.get("chat_template"))
    if not more_tokens:
        check_vocabulary(renderer.tokenizer, model_dir, adapter_dir)
    if contract is not None:
        contract.check(renderer, _fingerprint(model_dir, contract))
    variables = variables_of(prompting.get("template", ()))
    renderer = replace(
        renderer,
        system=renderer.system if prompting.get("system") is None else prompting["system"],
        variables={**renderer.variables, **variables},
        frozen=renderer.frozen - variables.keys(),
        fold_system=renderer.fold_system or prompting.get("fold_system", False),
    )
    return ResolvedModel(model_dir, adapter_dir, contract, renderer)


def _renderer(model_dir: Path, contract: Contract | None, chat_template: str | None) -> Renderer:
    """As the contract says, by the chat template that is given, the contract's or the tokenizer's own."""
    tokenizer = read_tokenizer(model_dir)
    given = contract.chat_template if contract is not None else None
    if chat_template is not None:
        given = template_of(chat_template, tokenizer)
    tokenizer.chat_template = tokenizer.chat_template if given is None else given
    check_template(tokenizer, model_dir)
    renderer = Renderer(tokenizer, stop_token_ids(tokenizer, model_dir), given_template=given)
    if contract is not None:
        renderer = replace(
            renderer,
            system=contract.system,
            today=contract.today,
            variables=contract.variables,
            frozen=frozenset(contract.variables),
            fold_system=contract.fold_system,
        )
    return renderer if given is None else _with_its_ending(renderer)


def _with_its_ending(renderer: Renderer) -> Renderer:
    """A base model does not know by which token a template that was given to it ends an answer."""
    ending = ending_of(renderer.chat_template, renderer.tokenizer)
    return replace(renderer, stop_token_ids=tuple(sorted({*renderer.stop_token_ids, *ending})))


def _fingerprint(model_dir: Path, contract: Contract) -> str:
    """That of the model's weights. Without them a merged model's prompt can still be looked at."""
    if contract.merged_adapter is not None and not hub.store.has_weights(model_dir):
        return contract.base_fingerprint
    return hub.fingerprint(model_dir)


def _base(contract: Contract, adapter_dir: Path | None) -> Path:
    """The base model of an adapter: where it was, or by its name in the contract, or fetched as the adapter was."""
    base_path = contract.base_path if adapter_dir is None or not hub.adapters.is_fetched(adapter_dir) else None
    if base_path is not None and hub.store.is_model(Path(base_path)):  # others do not name directories of this machine
        return hub.resolve(base_path)
    try:
        return hub.resolve(contract.base_model)
    except NotFoundError as error:
        if (
            adapter_dir is not None
            and (fetched := hub.adapters.fetch_base(adapter_dir, contract.base_model)) is not None
        ):
            return fetched
        raise NotFoundError(
            f"the adapter's base model is not on disk: {error.message}",
            hint=f"arriero download {contract.base_model}, or give its directory with --model",
        ) from error


def _contract(adapter_dir: Path | None) -> Contract | None:
    if adapter_dir is None:
        return None
    check_config(adapter_dir)
    return Contract.load(adapter_dir)
