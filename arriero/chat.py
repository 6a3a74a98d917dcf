"""Chat: model + adapter + prompt contract -> a stream of text pieces. The one answering interface.

Terminal, LangChain, server and web page all go through here, so they all send the engine the same ids for the same
conversation, stop at the same tokens and cut at the same stop strings.
"""

from __future__ import annotations

import copy
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Self, Unpack, cast

from arriero import hub
from arriero.constraint import Constraint
from arriero.engines import Adapter, Engine, Generation, announce_difference, load_engine
from arriero.engines.registry import EngineName as EngineName
from arriero.engines.sampling import default_sampling
from arriero.engines.unloaded import rehearsed
from arriero.errors import ContextLengthError, UsageError
from arriero.loading import Loading as Loading
from arriero.loading import LoadPlan
from arriero.messages import Message, Sampling, Tool, ToolChoice
from arriero.prompt import ChatTemplateOptions, OutputSpec, Prompt, PromptSettings, Reasoning, Renderer, resolve
from arriero.prompt.resolved import ResolvedModel
from arriero.stream import Reply as Reply
from arriero.stream import Stream as Stream

Messages = Iterable[Message | Mapping[str, Any]]
MAX_ALTERNATIVES = 20  # as OpenAI's top_logprobs


class PromptOptions(ChatTemplateOptions, total=False):
    """What may be given to `Chat.render` besides the messages."""

    tools: Iterable[Tool | Mapping[str, Any]]
    tool_choice: ToolChoice | Mapping[str, Any]
    schema: Mapping[str, Any] | None
    parallel_tool_calls: bool


class Options(PromptOptions, total=False):
    """What may be given to `Chat.stream` besides messages and sampling, and to what goes through it."""

    logprobs: int | None


class Chat:
    """A loaded model that answers conversations. Build one with `load`; use it from any number of threads.

    `model` is the model's name, `window` the context size in tokens. `adapter` is a handle of the engine's, None
    without one: it and `renderer`, which has the contract it was trained under, are held together, so that no weights
    are ever asked with another adapter's prompt. Chats over the same engine differ in these and in `defaults`.
    """

    def __init__(
        self,
        engine: Engine,
        renderer: Renderer,
        *,
        model: str,
        adapter: Adapter | None,
        window: int,
        defaults: Sampling,
    ) -> None:
        self.engine = engine
        self.renderer = renderer
        self.model = model
        self.adapter = adapter
        self.window = window
        self.defaults = defaults

    @property
    def adapter_name(self) -> str | None:
        """The last part of the adapter's directory, for people to read; two adapters may share it."""
        return self.adapter.directory.name if self.adapter is not None else None

    def with_adapter(self, directory: Path | None, **prompting: Unpack[PromptSettings]) -> Self:
        """The same model with another adapter, or with none, under that adapter's contract, prompt and sampling.

        `prompting` is as in `load`, but without an adapter a `chat_template` that is left out stays what it is. Raises
        NotFoundError and ContractError as `resolve` does, EngineError where the engine cannot do the adapter.
        """
        if directory is None and "chat_template" not in prompting:
            prompting["chat_template"] = self.renderer.given_template  # a base model has no other
        resolved = resolve(self.renderer.tokenizer.name_or_path, directory, **prompting)
        chat = copy.copy(self)
        chat.adapter = self.engine.load_adapter(resolved.adapter_dir) if resolved.adapter_dir is not None else None
        announce_difference(self.engine, resolved.adapter_dir)
        chat.renderer = resolved.renderer
        chat.defaults = default_sampling(resolved.model_dir, resolved.adapter_dir)
        return chat

    def render(self, messages: Messages, **form: Unpack[PromptOptions]) -> list[int]:
        """The exact prompt ids the engine receives for these messages; `stream` says what there is besides."""
        return self._prompt(messages, _output_spec(form), form).ids

    def _prompt(self, messages: Messages, output: OutputSpec, form: PromptOptions) -> Prompt:
        options = {name: form.get(name) for name in ChatTemplateOptions.__annotations__}
        return self.renderer.asked(messages, output, **cast(ChatTemplateOptions, options))

    def stream(self, messages: Messages, sampling: Sampling | None = None, **options: Unpack[Options]) -> Stream:
        """Answer piece by piece; the last piece carries finish reason and usage. Breaking off stops the engine.

        Where the last message is an assistant's text, the answer continues it, and what comes is what follows.
        `continue_final_message` false, or `add_generation_prompt` true, begin a new answer after it; both false add
        nothing at all to the messages. `chat_template_kwargs` are further variables of the chat template, such as
        `enable_thinking`. (The names are those of transformers' apply_chat_template, and of vLLM.)

        Where the template sets reasoning apart, it comes first (`Piece.reasoning`); all else is about what follows.
        `tools` (ours, or OpenAI's objects) may be called as `tool_choice` says: "none", "auto", "required", or one by
        name. The last two are constraints on the engine, so they always hold, and mean exactly one call. With "none"
        the model is not shown the tools; without `parallel_tool_calls` the answer ends with its first call. `schema` is
        a JSON schema that the answer fits, by constraint too; the model is shown it at the end of the system prompt.
        `{"type": "object"}` is any JSON object. With tools and a schema the answer is a call or fits the schema.
        `logprobs` asks for the log-probabilities of the text's tokens, with that many alternatives for each, 0 to 20.

        An answer ends by itself, at `max_new_tokens`, or where the window ends; `Stream.clamped` is set where that is
        less than was asked for. Bad messages, a prompt that does not fit the window, and what the model or the engine
        cannot do raise here and not at the first piece.
        """
        logprobs = options.pop("logprobs", None)
        form: PromptOptions = options
        output = _output_spec(form)
        prompt = self._prompt(messages, output, form)
        return self._start(prompt.ids, sampling, output, logprobs, reasoning=prompt.reasoning)

    def stream_ids(
        self,
        prompt_ids: Sequence[int],
        sampling: Sampling | None = None,
        *,
        logprobs: int | None = None,
        prompt_logprobs: bool = False,
    ) -> Stream:
        """Continue prompt ids as they are, without the chat template; otherwise as `stream`.

        `prompt_logprobs` asks for the log-probabilities of the prompt too, see `Stream.prompt_logprobs`.
        """
        self._check_prompt(prompt_ids)
        return self._start(list(prompt_ids), sampling, OutputSpec(), logprobs, prompt_logprobs=prompt_logprobs)

    def score_ids(self, prompt_ids: Sequence[int], *, logprobs: int = 0) -> Stream:
        """The log-probabilities of prompt ids, with that many alternatives for each, and no answer.

        They are the stream's `prompt_logprobs` once it has ended. Raises as `stream_ids`.
        """
        self._check_prompt(prompt_ids)
        sampling = Sampling(temperature=0.0).over(self.defaults)
        self._check(sampling, logprobs)
        if len(prompt_ids) > self.window:
            raise ContextLengthError(len(prompt_ids), 0, self.window)
        submit = partial(self.engine.submit, list(prompt_ids), sampling, adapter=self.adapter)
        request = partial(submit, max_new_tokens=0, logprobs=logprobs, prompt_logprobs=True)
        return Stream(self._submit(len(prompt_ids), request), self.renderer, (), OutputSpec())

    def _check_prompt(self, prompt_ids: Sequence[int]) -> None:
        if not prompt_ids:
            raise UsageError("a prompt needs at least one token")
        self.check_ids(prompt_ids)

    def check_ids(self, ids: Sequence[int]) -> None:
        """Raise UsageError for what is no token of this model."""
        vocabulary = len(self.renderer.tokenizer)
        if not all(type(token) is int and 0 <= token < vocabulary for token in ids):
            raise UsageError(f"token ids go from 0 to {vocabulary - 1} here, got {reprlib.repr(list(ids))}")

    def _start(
        self,
        prompt_ids: list[int],
        sampling: Sampling | None,
        output: OutputSpec,
        logprobs: int | None,
        *,
        reasoning: Reasoning | None = None,
        prompt_logprobs: bool = False,
    ) -> Stream:
        chosen = (sampling or Sampling()).over(self.defaults)
        self._check(chosen, logprobs)
        constraint = self._constraint(output, reasoning, chosen.max_reasoning_tokens)
        limit = self._limit(len(prompt_ids), chosen.max_new_tokens)
        submit = partial(self.engine.submit, prompt_ids, chosen, adapter=self.adapter, constraint=constraint)
        request = partial(submit, max_new_tokens=limit, logprobs=logprobs, prompt_logprobs=prompt_logprobs)
        stream = Stream(self._submit(len(prompt_ids), request), self.renderer, chosen.stop, output, reasoning)
        stream.clamped = limit if limit < (chosen.max_new_tokens or 0) else None
        return stream

    def _constraint(self, output: OutputSpec, reasoning: Reasoning | None, limit: int | None) -> Constraint | None:
        """What the engine is held to. One that cannot begin after reasoning holds from the start, if it is free."""
        answer = output.constraint(self.renderer.tool_call_format if output.tools else None)
        needed = reasoning is not None and (limit is not None or reasoning.begins == "opened")
        if reasoning is None or not (needed or "constraint_after_reasoning" in self.engine.features):
            return answer
        return reasoning.constraint(answer, None if limit is None else min(limit, self.window))

    def _submit(self, prompt_tokens: int, request: Callable[[], Generation]) -> Generation:
        """Hand a request to the engine; a subclass may do so later, and gives a generation of its own until then."""
        return request()

    def astream(self, messages: Messages, sampling: Sampling | None = None, **options: Unpack[Options]) -> Stream:
        """`stream` for async code; the event loop is free while the engine works."""
        return self.stream(messages, sampling, **options)

    def complete(self, messages: Messages, sampling: Sampling | None = None, **options: Unpack[Options]) -> Reply:
        """The whole answer at once; takes what `stream` takes."""
        return Reply.of(list(self.stream(messages, sampling, **options)))

    async def acomplete(
        self, messages: Messages, sampling: Sampling | None = None, **options: Unpack[Options]
    ) -> Reply:
        """`complete` for async code."""
        return Reply.of([piece async for piece in self.astream(messages, sampling, **options)])

    def spell(self, token_id: int) -> bytes:
        """The bytes that a token stands for, perhaps a part of a character. The first call takes half a second."""
        return bytes(self._spelling.decode_bytes([token_id]))

    @cached_property
    def _spelling(self) -> Any:
        from llguidance.hf import from_tokenizer

        return from_tokenizer(self.renderer.tokenizer)

    def close(self) -> None:
        """Free the model."""
        self.engine.close()

    def _check(self, sampling: Sampling, logprobs: int | None) -> None:
        vocabulary = len(self.renderer.tokenizer)
        if unknown := [token for token, _ in sampling.logit_bias if token >= vocabulary]:
            raise UsageError(
                f"logit_bias names the token ids {unknown}, but the model's vocabulary ends at {vocabulary - 1}"
            )
        if logprobs is not None and (type(logprobs) is not int or not 0 <= logprobs <= MAX_ALTERNATIVES):
            raise UsageError(f"logprobs must be a whole number from 0 to {MAX_ALTERNATIVES}, got {logprobs!r}")

    def _limit(self, prompt_tokens: int, asked: int | None) -> int:
        """How many tokens may be generated: what the window has room for, or fewer where fewer are asked for."""
        room = self.window - prompt_tokens
        if room < 1:
            raise ContextLengthError(prompt_tokens, 1, self.window)
        return room if asked is None else min(asked, room)


def _output_spec(form: PromptOptions) -> OutputSpec:
    """What the answer must be; raises TypeError for an unknown option, as for any unknown keyword."""
    if unknown := sorted(form.keys() - PromptOptions.__annotations__.keys()):
        raise TypeError(f"unexpected options: {', '.join(unknown)}")
    tools, choice, schema = form.get("tools", ()), form.get("tool_choice", "auto"), form.get("schema")
    return OutputSpec.of(tools, choice, schema, parallel=form.get("parallel_tool_calls", True))


def load(
    model: str | Path | None = None,
    *,
    adapter: str | Path | None = None,
    rehearse: Callable[[Chat], object] | None = None,
    **settings: Unpack[Loading],
) -> Chat:
    """Load a model, and an adapter if one is given, ready to answer.

    `model` is a catalogue name, a repository id or a directory; None means the adapter's own base model, or the
    embedded model. The `settings` override the prompt the adapter was trained under (see `prompt.PromptSettings`),
    and: `engine` ("auto") and `precision` ("auto"), that of the weights. With `deterministic` (False) a greedy answer
    does not depend on what is computed beside it, which costs speed. With `process` (False) the transformers engine
    computes in a process of its own, as the others do anyhow. `cuda_graphs` ("auto"): with "off" no step of the
    transformers engine is captured, with "on" it is an error where none can be. `room_for` are adapters that will come
    with `Chat.with_adapter`: the engine is chosen, and started, so that it can do them too. Raises ContractError when
    the adapter belongs to another model or prompt. `rehearse` is called first, with a Chat that computes nothing: what
    that refuses of a request, such as a schema that the engine cannot guarantee, is refused before the model is loaded.
    """
    plan = LoadPlan.of(model, adapter, settings)
    model_dir, options = plan.resolved.model_dir, plan.options
    defaults = default_sampling(model_dir, plan.resolved.adapter_dir)
    if rehearse is not None:
        options = rehearsed(
            lambda unloaded: rehearse(over(unloaded, plan.resolved, defaults)), plan.engine, model_dir, options
        )
    engine = load_engine(model_dir, plan.resolved.renderer.stop_token_ids, plan.engine, options)
    announce_difference(engine, plan.resolved.adapter_dir)
    return over(engine, plan.resolved, defaults)


def over(engine: Engine, resolved: ResolvedModel, defaults: Sampling | None = None) -> Chat:
    """A Chat over an engine that has the model; the engine is closed where the adapter cannot be loaded."""
    try:
        return Chat(
            engine,
            resolved.renderer,
            model=hub.name_of(resolved.model_dir),
            adapter=engine.load_adapter(resolved.adapter_dir) if resolved.adapter_dir is not None else None,
            window=hub.window(resolved.model_dir),
            defaults=defaults or default_sampling(resolved.model_dir, resolved.adapter_dir),
        )
    except BaseException:
        engine.close()
        raise
