"""Loading and rendering on disk: what is kept, dropped, cut, cached; and that nothing but typed errors comes out."""

from __future__ import annotations

import json
import os
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arriero import data
from arriero.data import DataOptions, Dropped, conversations
from arriero.errors import ArrieroError, DataError, NotFoundError
from arriero.prompt import Renderer
from tests.conftest import SHARED_DATA, TEMPLATE, build_tokenizer, ids_of

GOOD = {"instruction": "q", "input": "", "output": "a"}
RENDERER = Renderer(build_tokenizer(), (2,))
OPTIONS = DataOptions()


@pytest.fixture(autouse=True)
def _home(home):
    """Every test has caches of its own."""


def write(tmp_path, rows, name="rows.json"):
    file = tmp_path / name
    file.write_text(json.dumps(rows), encoding="utf-8")
    return file


def test_rows_come_out_as_the_renderer_makes_them(tmp_path):
    loaded = data.load(write(tmp_path, [GOOD, {**GOOD, "output": "骆驼"}]))
    rows = data.render(loaded, RENDERER, OPTIONS, 256)
    assert [rows[i] for i in range(2)] == [RENDERER.examples(loaded.conversation(i)) for i in range(2)]
    assert rows[0][0].ids == (1, 4, *ids_of("q"), 2, 5, *ids_of("a"), 2)
    assert (rows.dropped, rows.cut, int(rows.row_ids[0])) == ((), 0, 0)


def test_unusable_rows_are_listed_with_file_row_and_reason(tmp_path):
    rows = [{**GOOD, "output": ""}, GOOD, {**GOOD, "instruction": "<s>"}, "x", {**GOOD, "output": "a" * 300}, GOOD]
    loaded = data.load(write(tmp_path, rows))
    rendered = data.render(loaded, RENDERER, OPTIONS, 256)
    assert list(rendered.table["row"]) == [1, 5]
    assert rendered.row_ids[0] == 0, "the first kept row is the first that could be read"
    assert [(drop.row, drop.file) for drop in rendered.dropped] == [(row, "rows.json") for row in (0, 2, 3, 4)]
    reasons = [drop.reason for drop in rendered.dropped]
    assert reasons[0] == "the output is empty"
    assert reasons[1].startswith("the user's message holds the special token <s>")
    assert reasons[2] == "a row must be an object, got text"
    assert reasons[3] == "306 tokens, the limit is 256"


def test_lone_surrogates_are_dropped(tmp_path):
    file = tmp_path / "x.json"
    file.write_text('[{"instruction": "q", "output": "a\\ud800"}, {"instruction": "q", "output": "a"}]')
    (drop,) = data.load(file).dropped
    assert drop == Dropped(0, r"is not Unicode text: a lone surrogate '\ud800'", "x.json")


def test_cutting_on_request_keeps_the_end_token(tmp_path):
    loaded = data.load(write(tmp_path, [GOOD, {**GOOD, "output": "b" * 300}, {**GOOD, "instruction": "c" * 300}]))
    rows = data.render(loaded, RENDERER, DataOptions(too_long="cut", max_length=20), 256)
    assert (len(rows), rows.cut) == (2, 1)
    assert len(rows[1][0].ids) == 20
    assert rows[1][0].ids[-2:] == (*ids_of("b"), 2)
    assert rows[1][0].loss_spans == ((5, 20),)
    assert rows.dropped[0].row == 2, "a prompt that leaves no room for an answer cannot be cut"


def test_only_the_last_answer_on_request(tmp_path):
    file = write(tmp_path, [{**GOOD, "history": [["x", "y"]]}])
    last = Renderer(build_tokenizer(), (2,), answers="last")
    assert len(data.render(data.load(file), RENDERER, OPTIONS, 256)[0][0].loss_spans) == 2
    assert len(data.render(data.load(file), last, OPTIONS, 256)[0][0].loss_spans) == 1


def test_a_directory_counts_rows_by_file(tmp_path):
    write(tmp_path, [GOOD, "x"], "a.json")
    write(tmp_path, ["x", GOOD], "b.json")
    loaded = data.load(tmp_path)
    assert loaded.files == ("a.json", "b.json")
    assert [(drop.file, drop.row) for drop in loaded.dropped] == [("a.json", 1), ("b.json", 0)]


def test_mixed_formats_are_reported(tmp_path):
    file = write(tmp_path, [GOOD, GOOD, {"prompt": "q", "completion": "a"}])
    assert len(data.load(file).table) == 3
    (drop,) = data.load(file, DataOptions(format="alpaca")).dropped
    assert drop.reason == "is in the prompt-completion format, the data in alpaca"
    with pytest.raises(DataError, match="none of its 3 rows"):
        data.load(write(tmp_path, [GOOD, GOOD, 3]), DataOptions(format="sharegpt"))


def test_format_and_unused_fields_are_announced(tmp_path, caplog):
    caplog.set_level("INFO")
    data.load(write(tmp_path, [{**GOOD, "label": 1}]))
    assert "rows.json: 1 rows in the alpaca format" in caplog.text
    assert "fields that are not used: label" in caplog.text


def test_both_steps_are_cached_until_something_that_matters_changes(tmp_path, home):
    file = write(tmp_path, [GOOD] * 3)

    def made():
        return {path: path.stat().st_mtime_ns for path in (home / "cache").rglob("*.arrow")}

    data.render(data.load(file), RENDERER, OPTIONS, 256)
    first = made()
    data.render(data.load(file), RENDERER, OPTIONS, 256)
    assert made() == first
    for other in (
        Renderer(build_tokenizer(TEMPLATE + "\n"), (2,)),
        RENDERER.with_system("s"),
        Renderer(build_tokenizer(), (2,), variables={"x": 1}),
        Renderer(build_tokenizer(), (2,), answers="last"),
    ):
        before = len(made())
        data.render(data.load(file), other, OPTIONS, 256)
        assert len(made()) == before + 1
    write(tmp_path, [GOOD] * 4)
    assert len(data.render(data.load(file), RENDERER, OPTIONS, 256)) == 4


def test_whoever_reads_the_same_files_later_leaves_what_is_there(tmp_path, home):
    """The second of two processes removed the folder in which the first one was rendering."""
    file = write(tmp_path, [GOOD])
    loaded = data.load(file)
    (folder,) = (home / "cache" / "data").iterdir()
    (folder / "rendered-x.arrow").touch()
    conversations._read_into(folder, [file], loaded.files, OPTIONS)
    assert (folder / "rendered-x.arrow").exists()
    assert list(folder.parent.iterdir()) == [folder]


def test_what_killed_processes_leave_is_not_in_the_way(tmp_path, home):
    file = write(tmp_path, [GOOD])
    key = data.load(file).key
    (folder,) = (home / "cache" / "data").iterdir()
    (folder / "rows.json").unlink()
    folder.with_name(f"{key}.{os.getpid()}.partial").mkdir()
    assert len(data.load(file).table) == 1


def test_a_cached_file_that_was_cut_off_is_made_again(tmp_path, home):
    loaded = data.load(write(tmp_path, [GOOD] * 3))
    data.render(loaded, RENDERER, OPTIONS, 256)
    (cached,) = (home / "cache").rglob("rendered-*.arrow")
    whole = cached.read_bytes()
    cached.write_bytes(whole[: len(whole) // 2])
    assert len(data.render(loaded, RENDERER, OPTIONS, 256)) == 3


def test_processes_give_what_one_gives(tmp_path, monkeypatch):
    rows = [{**GOOD, "instruction": f"question {i}"} for i in range(2500)] + [{**GOOD, "output": "x" * 300}]
    loaded = data.load(write(tmp_path, rows))
    alone = data.render(loaded, RENDERER, OPTIONS, 256)
    monkeypatch.setattr("arriero.data.rendering.IN_PROCESS", 10)
    environment, before = os.environ, dict(os.environ)
    together = data.render(loaded, RENDERER.with_system(None), DataOptions(max_length=255), 256)
    assert os.environ is environment, "Dataset.map put a copy in its place, and later changes went to the wrong one"
    assert dict(os.environ) == before
    assert list(together.table["ids"]) == list(alone.table["ids"])
    assert [drop.row for drop in together.dropped] == [drop.row for drop in alone.dropped] == [2500]


def test_as_many_processes_render_as_the_containers_quota_allows(tmp_path, home, monkeypatch):
    """There were as many as CPUs by affinity: dozens in a container that may use two."""
    loaded = data.load(write(tmp_path, [{**GOOD, "instruction": f"question {i}"} for i in range(50)]))
    monkeypatch.setattr("arriero.data.rendering.IN_PROCESS", 10)
    allowed = len(os.sched_getaffinity(0)) + 1
    for cores, files in ((allowed, allowed), (1, 1)):
        monkeypatch.setattr("arriero.hardware.cores", lambda cores=cores: cores)
        data.render(loaded, RENDERER.with_system(f"for {cores}"), OPTIONS, 256)
        written = sorted((home / "cache").rglob("rendered-*.arrow"))
        assert len(written) == files, "each process writes a file of its own"
        for file in written:
            file.unlink()


def test_a_template_without_a_stop_token_teaches_nothing(tmp_path):
    """The model would never learn to stop."""
    endless = Renderer(build_tokenizer(TEMPLATE.replace("+ '</s>'", "")), (2,))
    with pytest.raises(DataError, match="no stop token after message 1"):
        data.render(data.load(write(tmp_path, [GOOD])), endless, OPTIONS, 256)


def test_nothing_left(tmp_path):
    with pytest.raises(DataError, match="no row is left of 2; the first: 7 tokens, the limit is 5"):
        data.render(data.load(write(tmp_path, [GOOD, GOOD])), RENDERER, DataOptions(max_length=5), 256)
    for rows in ([], [1, 2], [{"texts": "x"}]):
        with pytest.raises(DataError, match=f"none of its {len(rows)} rows can be used"):
            data.load(write(tmp_path, rows))


def test_a_missing_file_is_no_data_set_s_name(tmp_path):
    for name in (tmp_path / "none.json", "dataset/none.jsonl", "./none"):
        with pytest.raises(NotFoundError, match="no file"):
            data.load(name)
    with pytest.raises(NotFoundError, match="not a data set's name"):
        data.load("no such thing")


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="the shared data is not here")
def test_a_real_file_with_two_bad_rows():
    loaded = data.load(SHARED_DATA / "xiyouji.json")
    assert len(loaded.table) == 322
    assert [(drop.row, drop.reason) for drop in loaded.dropped] == [
        (28, "the instruction is empty"), (38, "the output is empty"),
    ]  # fmt: skip


def broken(rng: random.Random) -> tuple[str, bytes]:
    """A file that somebody or something has damaged."""
    rows = [dict(GOOD, instruction=f"问题 {i} 🦙") for i in range(rng.randrange(1, 6))]
    name = rng.choice(["x.json", "x.jsonl", "x.csv", "x.parquet"])
    text = json.dumps(rows, ensure_ascii=False) if name == "x.json" else "\n".join(map(json.dumps, rows))
    content = bytearray(text.encode())
    for _ in range(rng.randrange(1, 5)):
        at = rng.randrange(len(content) + 1)
        match rng.randrange(5):
            case 0:
                del content[at:]
            case 1:
                content[at:at] = rng.randbytes(rng.randrange(1, 4))
            case 2:
                content[at : at + rng.randrange(1, 9)] = b""
            case 3:
                content[at:at] = rng.choice([b"null", b"NaN", b"{", b"}", b"]", b'"', b"\\ud800", b"\x00", b"1e999"])
            case _:
                content[at:at] = content[max(0, at - 30) : at]
    return name, bytes(content)


@given(st.integers(0, 2**32))
def test_a_damaged_file_gives_rows_or_a_typed_error(tmp_path_factory, seed):
    name, content = broken(random.Random(seed))
    file = tmp_path_factory.mktemp("broken") / name
    file.write_bytes(content)
    try:
        loaded = data.load(file)
        rows = data.render(loaded, RENDERER, OPTIONS, 256)
    except ArrieroError:
        pass
    else:
        assert len(rows) >= 1
        assert all(drop.reason and drop.file == name for drop in rows.dropped)


keys = st.lists(st.sampled_from([1, -5, 2**62, 0, -(2**63), 77]), max_size=40)


@given(keys, st.floats(0, 0.99), st.integers(0, 5), st.randoms())
def test_no_prompt_stands_on_both_sides_and_order_does_not_matter(asked, fraction, seed, rng):
    column = np.array(asked, dtype=np.int64)
    train, held_out = data.split(column, fraction, seed)
    assert sorted([*train, *held_out]) == list(range(len(asked)))
    assert not set(column[train]) & set(column[held_out])
    shuffled = list(asked)
    rng.shuffle(shuffled)
    other = np.array(shuffled, dtype=np.int64)
    assert set(other[data.split(other, fraction, seed)[1]]) == set(column[held_out])


def test_fraction_is_met_on_many_prompts_and_the_seed_matters():
    column = np.arange(20_000, dtype=np.int64)
    first, second = data.split(column, 0.1, 0)[1], data.split(column, 0.1, 1)[1]
    assert 1800 < len(first) < 2200
    assert list(first) != list(second)
    assert len(data.split(column, 0.0, 0)[1]) == 0


def test_equal_prompts_have_equal_keys(tmp_path):
    loaded = data.load(write(tmp_path, [GOOD, {**GOOD, "output": "b"}, {**GOOD, "instruction": "p"}, GOOD]))
    prompts, rows = list(loaded.table["prompt_key"]), list(loaded.table["key"])
    assert prompts[0] == prompts[1] == prompts[3] != prompts[2]
    assert rows[0] == rows[3] != rows[1]
