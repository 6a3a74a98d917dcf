"""The detokenizer over real vocabularies: of bytes (Llama 3.1, the embedded model) and falling back on bytes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arriero.engines.detokenizer import Detokenizer
from arriero.engines.stopping import StopFilter

# Chinese, emoji joined and coloured, flags, combining marks, right to left, and characters of the highest planes
SAMPLES = "你好，骆驼。 🦙 👩‍🚀 👍🏽 🇧🇴 é नमस्ते שלום \n\t a  b ' s�𠮷𓀀"
texts = st.text(st.sampled_from(SAMPLES) | st.characters(exclude_categories=["Cs"]), max_size=30)


def build_sentencepiece():
    """A vocabulary in the manner of Llama 2: words that begin with ▁, characters, and `<0xE9>` for other bytes."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["▁", "▁a", "▁b", "ab", *"ab.,'s\n\t你好", "▁▁"]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    model = models.BPE(vocabulary, [("▁", "a"), ("▁", "b"), ("a", "b"), ("▁", "▁")], fuse_unk=True, byte_fallback=True)
    backend = Tokenizer(model)
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(steps)
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


@pytest.fixture(scope="module")
def sentencepiece():
    return build_sentencepiece()


@pytest.fixture(scope="module")
def smollm(embedded_model):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(embedded_model, local_files_only=True)


@pytest.fixture(
    scope="module", params=["sentencepiece", "llama_tokenizer", pytest.param("smollm", marks=pytest.mark.model)]
)
def vocabulary(request):
    return request.getfixturevalue(request.param)


def decoded(tokenizer, ids):
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def pieces_of(tokenizer, ids):
    detokenizer = Detokenizer(tokenizer)
    return [detokenizer.push(token) for token in ids] + [detokenizer.flush()]


@settings(max_examples=150)
@given(data=st.data())
def test_joined_pieces_equal_the_decode_of_all_ids(vocabulary, data):
    ids = vocabulary.encode(data.draw(texts), add_special_tokens=False)
    text, pieces = decoded(vocabulary, ids), pieces_of(vocabulary, ids)
    assert "".join(pieces) == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces), "a character was cut in two"


@settings(max_examples=300)
@given(data=st.data())
def test_any_ids_whatever_come_out_as_their_decode(vocabulary, data):
    """Models write broken bytes, special tokens, and ids their vocabulary has no text for."""
    most = len(vocabulary)
    bytes_first = st.integers(0, 300) | st.integers(0, most + 5)
    special = st.sampled_from(sorted(vocabulary.added_tokens_decoder))
    ids = data.draw(st.lists(bytes_first | special, max_size=40))
    known = [token for token in ids if token < most]
    assert "".join(pieces_of(vocabulary, ids)) == decoded(vocabulary, known)


def test_text_comes_as_soon_as_its_characters_are_whole(llama_tokenizer):
    ids = llama_tokenizer.encode("a 🦙骆 b", add_special_tokens=False)
    shown, detokenizer = "", Detokenizer(llama_tokenizer)
    for count, token in enumerate(ids, 1):
        shown += detokenizer.push(token)
        so_far = llama_tokenizer.decode(ids[:count])
        assert shown == so_far or so_far.endswith("\ufffd")


def test_bytes_are_a_character_or_none_only_once_their_run_has_ended(sentencepiece):
    """This kind of vocabulary reads a run of bytes as a whole: one broken byte breaks the characters before it."""
    llama, tail = [3 + byte for byte in "骆".encode()], [3 + 0x80]
    word = sentencepiece.convert_tokens_to_ids("ab")
    assert pieces_of(sentencepiece, [*llama, word]) == ["", "", "", "骆ab", ""]
    assert pieces_of(sentencepiece, [*llama, *tail, word]) == [*[""] * 4, "\ufffd" * 4 + "ab", ""]


class Counting:
    """A tokenizer's backend that counts how many ids it was asked to decode."""

    def __init__(self, backend):
        self.backend, self.decoded = backend, 0
        self.id_to_token = backend.id_to_token

    def decode(self, ids, **options):
        self.decoded += len(ids)
        return self.backend.decode(ids, **options)


@pytest.mark.parametrize("run", ["broken", "special", "unknown", "words"])
def test_long_runs_take_work_in_proportion(vocabulary, run):
    broken = vocabulary.encode("骆", add_special_tokens=False)[-1]
    token = {"broken": broken, "special": vocabulary.eos_token_id, "unknown": len(vocabulary) + 7}.get(run)
    token = vocabulary.convert_tokens_to_ids("ab") if token is None else token
    detokenizer = Detokenizer(vocabulary)
    detokenizer._tokenizer = counting = Counting(vocabulary.backend_tokenizer)
    text = "".join(map(detokenizer.push, [token] * 3000)) + detokenizer.flush()
    expected = decoded(vocabulary, [token] * 3000) if run != "unknown" else ""
    assert text == expected
    assert counting.decoded <= 8 * 3000


@settings(max_examples=150)
@given(data=st.data())
def test_stop_strings_over_tokens_are_never_partly_shown(vocabulary, data):
    ids = vocabulary.encode(data.draw(texts), add_special_tokens=False)
    text = decoded(vocabulary, ids)
    stop = tuple(data.draw(st.lists(st.text(st.sampled_from(text or "a"), min_size=1, max_size=4), max_size=3)))
    cut = StopFilter(stop)
    shown = "".join(cut.push(piece) for piece in pieces_of(vocabulary, ids)) + cut.flush()
    ends = [end for end in range(len(text) + 1) if any(text[:end].endswith(string) for string in stop)]
    if ends:
        first = min(ends)
        assert shown == text[: min(first - len(string) for string in stop if text[:first].endswith(string))]
    else:
        assert shown == text
    assert cut.stopped == bool(ends)
