"""`arriero ask`: what it reads, what it prints, how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from arriero.cli import ask
from arriero.cli.main import main
from arriero.constraint import JsonSchema
from tests.terminal.terminals import Terminal

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def answered(scripted_chat, monkeypatch, capsys):
    """Ask over a scripted chat: exit code, standard output, standard error, what the model was asked."""

    def call(*arguments, answer="one", fed=None):
        call.chat = chat = scripted_chat(answer)
        monkeypatch.setattr(ask, "load_chat", lambda *_: chat)
        read, write = os.pipe()
        os.write(write, fed or b"")
        os.close(write)
        with os.fdopen(read) if fed is not None else Path(os.devnull).open() as stdin:
            monkeypatch.setattr(sys, "stdin", stdin)
            code = main(["ask", *map(str, arguments)])
        captured = capsys.readouterr()
        asked = chat.renderer.tokenizer.decode(chat.engine.asked[0][0]) if chat.engine.asked else None
        return code, captured.out, captured.err, asked and asked.removeprefix("<s><user>").removesuffix("</s><bot>")

    return call


@pytest.mark.parametrize(
    ("arguments", "fed", "asked"),
    [
        (["why?"], None, "why?"),
        (["why", "do", "llamas", "hum?", "--seed", "1"], None, "why do llamas hum?"),
        (["--seed", "1", "why", "not?"], None, "why not?"),
        (["why?"], "骆驼\n".encode(), "骆驼\n\n\nwhy?"),
        (["why?"], b" \n", "why?"),
        ([], b"why?\n", "why?"),
        (["why?", "--file", "a.txt", "--file", "b.txt"], b"c", "File a.txt:\n\nA\n\nFile b.txt:\n\nB\n\nc\n\nwhy?"),
        (["--file", "a.txt"], b"why?", "File a.txt:\n\nA\n\nwhy?"),
    ],
)
def test_question_material_and_files(answered, tmp_path, monkeypatch, arguments, fed, asked):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("A")
    (tmp_path / "b.txt").write_bytes(b"\xef\xbb\xbfB")
    assert answered(*arguments, fed=fed) == (0, "one\n", "", asked)


@pytest.mark.parametrize(
    ("arguments", "fed", "code", "told"),
    [
        ([], None, 2, "the question is empty"),
        ([], b" \n", 2, "the question is empty"),
        (["a", "--file", "none.txt"], None, 4, "no file none.txt"),
        (["a", "--file", "."], None, 2, ". is a directory"),
        (["a", "--file", "latin.txt"], None, 2, "latin.txt is not UTF-8 text, from byte 1 on"),
        (["a", "--file", "zero.bin"], None, 2, "zero.bin is not text: it has a zero byte at position 1"),
        (["a"], b"caf\xe9", 2, "standard input is not UTF-8 text, from byte 3 on"),
        (["a", "--file", "long.txt"], None, 2, "the prompt has 313 tokens"),
        (["a", "--file", "huge.txt"], None, 2, "huge.txt is longer than 16.0 MB"),
        (["a", "--schema", "none.json"], None, 4, "no file none.json"),
        (["a", "--schema", "latin.txt"], None, 2, "not UTF-8"),
        (["a", "--schema", "long.txt"], None, 2, "long.txt is not JSON"),
        (["a", "--schema", "list.json"], None, 2, "must hold a JSON schema, which is an object; got list"),
    ],
)
def test_what_cannot_be_asked(answered, tmp_path, monkeypatch, arguments, fed, code, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "latin.txt").write_bytes(b"a\xe9")
    (tmp_path / "zero.bin").write_bytes(b"a\0")
    (tmp_path / "long.txt").write_text("x" * 290)
    (tmp_path / "list.json").write_text("[]")
    with (tmp_path / "huge.txt").open("wb") as huge:
        huge.truncate(16_000_001)
    result = answered(*arguments, fed=fed)
    assert result[:2] == (code, "")
    assert result[2].startswith("error: ")
    assert told in result[2]


def test_too_long_a_prompt_names_both_numbers(answered, tmp_path):
    (tmp_path / "long.txt").write_text("x" * 290)
    assert "the model's window holds 256" in answered("a", "--file", tmp_path / "long.txt")[2]


def test_the_model_does_not_speak_to_the_terminal(answered):
    assert answered("a", answer="\x1b]0;owned\x07\x9b2Jsafe\r\n")[1] == "]0;owned2Jsafe\n\n"
    document = answered("a", "--json", answer="\x1b\x9b\x7f")[1]
    assert json.loads(document)["text"] == "\x1b\x9b\x7f"
    assert not set(document) & {"\x1b", "\x9b", "\x7f"}


def test_a_cut_answer_says_so(answered):
    code, out, err, _ = answered("a", "--max-new-tokens", 2)
    assert (code, out) == (0, "on\n")
    assert "cut at --max-new-tokens, or where the window ends" in err


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_schema_goes_to_the_engine(answered, tmp_path, options):
    (tmp_path / "schema.json").write_text('{"type": "object"}')
    code, out, _, _ = answered("a", "--schema", tmp_path / "schema.json", *options, answer="{}")
    assert code == 0
    assert (json.loads(out)["text"] if options else out.strip()) == "{}"
    assert answered.chat.engine.options[0]["constraint"] == JsonSchema({"type": "object"})


def test_an_incomplete_json_answer_is_a_failure(answered, tmp_path):
    (tmp_path / "schema.json").write_text('{"type": "object"}')
    arguments = ["a", "--schema", tmp_path / "schema.json", "--max-new-tokens", 3]
    code, out, err, _ = answered(*arguments, answer='{"a": 1}')
    assert (code, out) == (1, "")
    assert "cut before its JSON was complete" in err


def scripted(model_dir, home, gate, *arguments, **options):
    command = [sys.executable, "-m", "tests.cli.scripted", str(model_dir), gate, "abc\nd", "ask", *arguments]
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "ARRIERO_HOME": str(home)}, text=True, **options)


def test_ctrl_c_ends_with_130(model_dir, tmp_path):
    process = scripted(model_dir, tmp_path, "2", "hi", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.read(2) == "ab"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "\n", "error: interrupted\n")


def test_a_reader_who_goes_away_is_no_error(model_dir, tmp_path):
    read, write = os.pipe()
    process = scripted(model_dir, tmp_path, "-", "hi", stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    os.close(read)
    assert process.communicate(timeout=60)[1] == ""
    assert process.returncode == 0


def test_silence_on_standard_input_is_explained(model_dir, tmp_path, monkeypatch):
    process = scripted(
        model_dir, tmp_path, "-", "hi", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert "reading standard input; < /dev/null leaves it out" in process.stderr.readline()
    assert process.communicate("what", timeout=60)[0] == "abc\nd\n"


def test_a_terminal_gets_markdown(model_dir, tmp_path):
    for options, expected in (([], r"(?<!\*)bold(?!\*)"), (["--plain"], r"\*\*bold\*\*")):
        terminal = Terminal("tests.cli.scripted", str(model_dir), "-", "**bold**", "ask", "hi", *options, home=tmp_path)
        terminal.wait(expected)
        assert terminal.end() == 0
        terminal.close()
