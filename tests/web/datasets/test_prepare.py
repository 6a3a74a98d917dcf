"""What the page reads of an inspected file: every row, in order, with what training makes of it."""

from __future__ import annotations

import json

import pytest

from arriero.data import DataOptions, inspect, load
from arriero.errors import DataError, UsageError
from arriero.prompt import resolve
from arriero.web import jobs
from arriero.web.datasets import source
from arriero.web.datasets.prepare import kind_of, prepare
from arriero.web.datasets.prepared import Prepared
from tests.conftest import ROWS, ids_of

FAULTY = [
    json.dumps(ROWS[0]),
    '{"instruction": "",',
    json.dumps(ROWS[0]),
    json.dumps({**ROWS[0], "output": "somebody else, 骆驼"}),
    json.dumps({"instruction": "who?", "output": " "}),
    json.dumps({"instruction": "long", "output": "x" * 300}),
]


@pytest.fixture
def faulty(tmp_path):
    file = tmp_path / "faulty.jsonl"
    file.write_text("\n".join(FAULTY), encoding="utf-8")
    return file


def prepared(folder, file, model_dir, **options) -> Prepared:
    folder.mkdir()
    about = {"source": str(file), "model": str(model_dir), "system": "Be Killa.", "options": options}
    stages: list[dict] = []
    report = prepare(about, folder, stages.append)
    assert [stage["stage"] for stage in stages] == ["reading", "rendering", "writing"]
    jobs.write(folder / "result.json", report)
    return Prepared(folder, json.loads((folder / "result.json").read_text()))


def test_every_row_of_the_file_is_there_with_what_becomes_of_it(home, tmp_path, faulty, model_dir):
    outcome = prepared(tmp_path / "job", faulty, model_dir)
    rows = [outcome.row(index) for index in range(len(outcome.table))]
    assert [row.row for row in rows] == list(range(6))
    records = [None if line.endswith(",") else json.loads(line) for line in FAULTY]
    assert [row.record for row in rows] == records
    assert [bool(row.reason) for row in rows] == [False, True, False, False, True, True]
    assert [row.flags for row in rows] == [
        ("contradiction",),
        (),
        ("repeat", "contradiction"),
        ("contradiction",),
        (),
        (),
    ]
    assert outcome.report["dropped"] == 3
    assert sum(number for _, number in outcome.report["faults"]) == 3


def test_ids_and_loss_are_those_of_training(home, tmp_path, rows_file, model_dir):
    outcome = prepared(tmp_path / "job", rows_file, model_dir)
    row = outcome.row(5)
    renderer = resolve(model_dir, system="Be Killa.").renderer
    expected = inspect(load(rows_file), renderer, DataOptions(), window=256, limit=6).examples[5]
    assert (list(row.ids), row.mask) == (expected.ids, expected.mask)
    assert outcome.decode(list(row.ids)) == expected.text
    assert [token for token, loss in zip(row.ids, row.mask, strict=True) if loss] == [*ids_of("骆驼"), 2]
    assert outcome.specials == renderer.special_ids


@pytest.mark.parametrize(
    ("kind", "text", "indices"),
    [
        ("", "", [0, 1, 2, 3, 4, 5]),
        ("kept", "", [0, 2, 3]),
        ("dropped", "", [1, 4, 5]),
        ("repeat", "", [2]),
        ("contradiction", "", [0, 2, 3]),
        ("the output is empty", "", [4]),
        ("… tokens, the limit is …", "", [5]),
        ("", "骆驼", [3]),
        ("", "SOMEBODY", [3]),
        ("dropped", "who", [4]),
        ("", "instruction", []),  # the names of fields are no text
        ("cut", "", []),
    ],
)
def test_rows_are_found_by_kind_and_text(home, tmp_path, faulty, model_dir, kind, text, indices):
    assert prepared(tmp_path / "job", faulty, model_dir).matching(kind, text) == indices


def test_reasons_that_differ_in_a_number_or_a_name_are_one_kind():
    assert kind_of("300 tokens, the limit is 256") == kind_of("9 tokens, the limit is 8")
    assert kind_of("the name 'a' stands twice") == kind_of("the name 'it\\'s' stands twice")


def test_a_file_that_changes_or_is_read_otherwise_is_another_job(home, rows_file, tmp_path):
    file = tmp_path / "rows.json"
    file.write_bytes(rows_file.read_bytes())
    asked = [
        source.job_of(str(file), "m", None, DataOptions()),
        source.job_of(str(file), "m", "", DataOptions()),
        source.job_of(str(file), "n", None, DataOptions()),
        source.job_of(str(file), "m", None, DataOptions(answers="last")),
    ]
    file.write_text(json.dumps([*ROWS, ROWS[0]]))
    asked.append(source.job_of(str(file), "m", None, DataOptions()))
    assert len({folder for folder, _ in asked}) == len(asked)
    assert source.job_of(str(file), "m", None, DataOptions()) == asked[-1]


def test_an_upload_is_kept_under_its_name_and_never_over_another(home):
    first = source.keep("../../etc/my rows.json", b"[1]")
    assert first == home / "datasets" / "uploads" / "my_rows.json"
    second = source.keep("my rows.json", b"[2]")
    assert source.keep("my rows.json", b"[1]") == first
    assert (first.read_bytes(), second.read_bytes()) == (b"[1]", b"[2]")
    assert source.keep(".json.json", b"[1]").name == "json.json"
    assert {str(first), str(second)} <= set(source.offered())


@pytest.mark.parametrize(("name", "content", "error"), [("a.exe", b"x", UsageError), ("a.json", b" \n", DataError)])
def test_an_upload_that_is_no_data_is_refused(home, name, content, error):
    with pytest.raises(error):
        source.keep(name, content)
    assert not source.uploads().exists()
