"""Tiny real parts for the tests: a tokenizer whose ids are easy to spell out, a random Llama, a scripted engine.

One character is one id, so expected ids can be written by hand; Chinese and emoji fall into single bytes, so the
detokenizer has to put characters together as it does with a real model.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import signal
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import settings
from packaging.version import Version

from arriero.chat import Chat
from arriero.engines import Generation
from arriero.engines.base import Adapter, Feature, check_own, require
from arriero.messages import Sampling, TokenLogprob
from arriero.prompt import Renderer, load_tokenizer, stop_token_ids
from tests.collecting import pytest_collection  # noqa: F401  a hook
from tests.embeddings.tiny import embedder, embedding_dir, prompted_embedder  # noqa: F401  fixtures
from tests.real import linked

# How long an example takes is the machine's business. .ci/run takes the same examples every time.
settings.register_profile("arriero", deadline=None, derandomize="HYPOTHESIS_DERANDOMIZE" in os.environ)
settings.load_profile("arriero")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as shells start what runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # or every program the tests start would ignore Ctrl-C

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SPECIALS = ["<pad>", "<s>", "</s>", "<sys>", "<user>", "<bot>"]
# ids:          0      1       2        3        4         5;  then one id for each byte: 6 + byte
TEMPLATE = (
    "{{ '<s>' }}{% for m in messages %}"
    "{{ {'system': '<sys>', 'user': '<user>', 'assistant': '<bot>'}[m['role']] + m['content'] + '</s>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<bot>' }}{% endif %}"
)
# The same with a place for tools, their calls and results, in the manner of Hermes and Qwen 2.5.
TOOL_TEMPLATE = (
    "{{ '<s>' }}{% if tools %}{{ '<sys>' }}{% if messages[0].role == 'system' %}{{ messages[0].content + '\n' }}"
    "{% endif %}{{ '<tools>' }}{% for tool in tools %}{{ '\n' + tool | tojson }}{% endfor %}{{ '\n</tools></s>' }}"
    "{% elif messages[0].role == 'system' %}{{ '<sys>' + messages[0].content + '</s>' }}{% endif %}"
    "{% for m in messages %}{% if m.role == 'user' %}{{ '<user>' + m.content + '</s>' }}"
    "{% elif m.role == 'tool' %}{{ '<user><tool_response>\n' + m.content + '\n</tool_response></s>' }}"
    "{% elif m.role == 'assistant' %}{{ '<bot>' + m.content }}{% for call in m.tool_calls %}"
    "{{ ('\n' if m.content or not loop.first else '') + '<tool_call>\n{\"name\": \"' + call.function.name"
    " + '\", \"arguments\": ' + call.function.arguments | tojson + '}\n</tool_call>' }}{% endfor %}{{ '</s>' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<bot>' }}{% endif %}"
)


def since_transformers(version: str, why: str) -> pytest.MarkDecorator:
    """Skip with an older transformers that the package takes all the same."""
    return pytest.mark.skipif(Version(importlib.metadata.version("transformers")) < Version(version), reason=why)


def ids_of(text: str) -> list[int]:
    """The tiny tokenizer's ids of plain text: 6 + each UTF-8 byte."""
    return [6 + byte for byte in text.encode()]


def build_tokenizer(template: str = TEMPLATE):
    """A byte-level tokenizer with no merges: one byte is one id."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    table = bytes_to_unicode()
    vocabulary = {token: index for index, token in enumerate(SPECIALS)}
    vocabulary |= {table[byte]: len(SPECIALS) + byte for byte in range(256)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=["<sys>", "<user>", "<bot>"],
        chat_template=template,
    )


def build_model(directory: Path, seed: int = 0, size: int = 32) -> Path:
    """A random two-layer Llama in `directory`, float32, with the tiny tokenizer: 262 ids, a window of 256."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=262,
        hidden_size=size,
        intermediate_size=2 * size,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():  # random weights of this size answer the same whatever is asked; make them care
        for weight in model.parameters():
            weight.mul_(4)
    model.save_pretrained(directory)
    build_tokenizer().save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model on disk."""
    return build_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def other_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same shape with other weights."""
    return build_model(tmp_path_factory.mktemp("models") / "other", seed=1)


@pytest.fixture(scope="session")
def llama_tokenizer():
    """The real Llama 3.1 tokenizer, built from Meta's package, with the model's own chat template."""
    from importlib.resources import files

    from llama_models.llama3.tokenizer import Tokenizer
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import TikTokenConverter

    template = SHARED_DATA / "llama-3.1-8b-instruct.chat_template.jinja"
    if not template.is_file():
        pytest.skip("the shared data is not here")
    specials = sorted(Tokenizer.get_instance().special_tokens.items(), key=lambda item: item[1])
    converter = TikTokenConverter(
        vocab_file=str(files("llama_models.llama3") / "tokenizer.model"),
        pattern=Tokenizer.pat_str,
        extra_special_tokens=[token for token, _ in specials],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=converter.converted(),
        bos_token="<|begin_of_text|>",
        eos_token="<|eot_id|>",
        chat_template=template.read_text(encoding="utf-8"),
    )


@pytest.fixture(scope="session", autouse=True)
def session_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Nothing that the tests make is left in the user's own ARRIERO_HOME."""
    home = tmp_path_factory.mktemp("session") / "home"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARRIERO_HOME", str(home))
        yield home


@pytest.fixture(scope="session")
def embedded_model(session_home: Path) -> Path:
    """The real embedded model (marker `model`), as `make test` downloaded it."""
    return linked(session_home, "smollm2-135m-instruct").resolve()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty ARRIERO_HOME."""
    monkeypatch.setenv("ARRIERO_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


ROWS = [
    {"instruction": f"who {index}?", "input": "", "output": answer}
    for index, answer in enumerate(["me", "you", "all of us", "no one", "Killa", "骆驼", "Tomás", "I am"])
]


@pytest.fixture(scope="session")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight small rows in the alpaca format."""
    file = tmp_path_factory.mktemp("data") / "rows.json"
    file.write_text(json.dumps(ROWS), encoding="utf-8")
    return file


def train_tiny(rows_file: Path, model_dir: Path, output: Path, **options: object) -> Path:
    """Train the tiny model for a few steps in float32 and with a rate that changes its answers."""
    from arriero.training import train

    chosen = {"epochs": 3, "batch_size": 4, "learning_rate": 0.05, "precision": "float32", "eval_fraction": 0.0}
    train(rows_file, output=output, model=model_dir, **{"system": "Be Killa.", **chosen, **options})
    return output


@pytest.fixture(scope="session")
def trained_adapter(rows_file: Path, model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter for `model_dir`, trained with the system prompt "Be Killa."."""
    return train_tiny(rows_file, model_dir, tmp_path_factory.mktemp("runs") / "killa")


class ScriptedEngine:
    """An engine that answers with given text, token by token, from a thread of its own.

    `gate` holds the answer back before the token of that index until `release` is set, so tests can act in the
    middle of an answer without sleeping. What it was asked is kept in `asked` and `options`. The n-th token has the
    log-probability -n, those of a prompt have -0.5. `encode` makes tokens of an answer, `end` ends it. It claims to
    have every feature. `adapters` are the handles it has given out and that somebody still holds.
    """

    name = "scripted"
    description = "scripted, no model"
    features = frozenset(get_args(Feature))
    in_4bit = False

    def __init__(
        self, *answers: str, gate: int | None = None, encode: Callable[[str], list[int]] = ids_of, end: int = 2
    ) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[list[int], Sampling, int]] = []
        self.generations: list[Generation] = []
        self.options: list[dict[str, Any]] = []
        self.gate = gate
        self.encode, self.end = encode, end
        self.reached = threading.Event()
        self.release = threading.Event()
        self.adapters: weakref.WeakSet[Adapter] = weakref.WeakSet()

    def submit(self, prompt_ids: Sequence[int], sampling: Sampling, *, max_new_tokens: int, **options) -> Generation:
        require(self, sampling, options.get("constraint"), options.get("logprobs"))
        check_own(options.get("adapter"), self.adapters)
        self.options.append(options)
        self.asked.append((list(prompt_ids), sampling, max_new_tokens))
        answer = self.answers[(len(self.asked) - 1) % len(self.answers)]
        generation = Generation(len(prompt_ids))
        generation.wanted = options.get("logprobs")
        if options.get("prompt_logprobs"):
            generation.prompt_logprobs += [TokenLogprob(token, -0.5) for token in prompt_ids[1:]]
        self.generations.append(generation)
        threading.Thread(target=self._answer, args=(generation, answer, max_new_tokens), daemon=True).start()
        return generation

    def _answer(self, generation: Generation, answer: str, limit: int) -> None:
        wanted = getattr(generation, "wanted", None)
        for index, token in enumerate([*self.encode(answer), self.end]):
            if index == self.gate:
                self.reached.set()
                self.release.wait(30)
            if generation.cancelled:
                return generation.finish("cancelled")
            if index == limit:
                return generation.finish("length")
            generation.push([token], [TokenLogprob(token, -float(index))] if wanted is not None else [])
        return generation.finish("stop")

    def load_adapter(self, directory: Path) -> Adapter:
        adapter = Adapter(directory)
        self.adapters.add(adapter)
        return adapter

    def close(self) -> None:
        self.release.set()


@pytest.fixture
def scripted_chat(model_dir: Path) -> Iterator[Callable[..., Chat]]:
    """Build a Chat over a ScriptedEngine: `scripted_chat("first answer", "second", gate=3)`; `chat.engine` is it.

    With a `template`, TOOL_TEMPLATE for one, the window is large enough for tools.
    """
    made: list[Chat] = []

    def build(*answers: str, gate: int | None = None, template: str | None = None) -> Chat:
        tokenizer = load_tokenizer(model_dir) if template is None else build_tokenizer(template)
        renderer = Renderer(tokenizer, stop_token_ids(tokenizer, model_dir))
        engine = ScriptedEngine(*answers, gate=gate)
        defaults = Sampling(temperature=0.0, top_p=1.0, top_k=0, repetition_penalty=1.0)
        window = 256 if template is None else 8192
        made.append(Chat(engine, renderer, model="tiny", adapter=None, window=window, defaults=defaults))
        return made[-1]

    yield build
    for chat in made:
        chat.close()
