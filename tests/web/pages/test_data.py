"""The data page as Streamlit's own test harness draws it: what is opened, shown, refused, edited and saved."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from arriero.data import DataOptions
from arriero.data.records import read
from arriero.web import jobs
from arriero.web.datasets import source
from arriero.web.datasets.rows import FEW
from tests.conftest import ROWS
from tests.web.pages.visiting import after_jobs, drawn, opened, text


def visit(file, home):
    """The page on a file, once it is inspected."""
    page = opened("data")
    page.session_state["data_path"] = str(file)
    drawn(page)
    return after_jobs(page, home / "cache" / "page" / "inspected")


@pytest.fixture
def inspected(home, monkeypatch, model_dir):
    """Open the page on a file, inspected for the tiny model."""
    monkeypatch.setenv("ARRIERO_MODEL", str(model_dir))
    return lambda file: visit(file, home)


def rows_of(page):
    page.session_state["data_view"] = "rows"
    return drawn(page)


def mix(file):
    """Thirty rows: a duplicate, an empty output, and the rest."""
    rows = [{"instruction": f"who {n}?", "input": "", "output": f"number {n}"} for n in range(30)]
    rows[7] = rows[3]
    rows[9] = {**rows[9], "output": ""}
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


@pytest.fixture
def mixed(tmp_path):
    return mix(tmp_path / "mixed.jsonl")


@pytest.fixture(scope="module")
def inspected_once(tmp_path_factory):
    """A home for the tests that only look at the mixed rows: the first of them has them inspected."""
    folder = tmp_path_factory.mktemp("looking")
    return mix(folder / "mixed.jsonl"), folder / "home"


@pytest.fixture
def looking(inspected_once, monkeypatch, model_dir):
    """The page on the mixed rows."""
    file, home = inspected_once
    monkeypatch.setenv("ARRIERO_HOME", str(home))
    monkeypatch.setenv("ARRIERO_MODEL", str(model_dir))
    return visit(file, home)


def test_only_an_administrator_sees_the_page_even_by_its_address(home):
    page = opened("data", admin=False)
    assert text(page) == "This page is for administrators."
    assert not page.selectbox


def test_untouched_it_reads_as_training_does(looking):
    """Every row of more turns was left out for a model that reasons, which training takes answer by answer."""
    (about,) = [job.about for folder in source._latest() if (job := jobs.find(folder)) is not None]
    assert DataOptions(**about["options"]) == DataOptions()
    assert looking.selectbox(key="data_answers").options[0] == "all, as the chat template allows"


def test_the_report_tells_what_training_would_see(looking):
    shown = text(looking)
    for name, value in {"Rows": 30, "Kept": 29, "Left out": 1, "Duplicates": 1, "Contradictions": 0}.items():
        assert f"<dt>{name}</dt><dd>{value}</dd>" in shown
    assert "Why rows are left out" in shown
    assert "Rows that repeat" in shown
    assert "mixed.jsonl · alpaca format" in shown


def test_rows_are_drawn_as_tokens_a_page_at_a_time(looking):
    page = rows_of(looking)
    assert "30 of 30 rows" in text(page)
    assert '<span class="p s" title="5">&lt;bot&gt;</span><span class="l" title="116">n</span>' in text(page)
    assert [button.label for button in page.button] == ["Edit"] * 10


@pytest.mark.parametrize(
    ("kind", "search", "found"),
    [("dropped", "", 1), ("repeat", "", 1), ("the output is empty", "", 1), ("", "NUMBER 2", 11), ("kept", "who 9", 0)],
)
def test_rows_are_filtered(looking, kind, search, found):
    page = rows_of(looking)
    page.selectbox(key="data_kind").set_value(kind)
    page.text_input(key="data_text").set_value(search)
    assert f"{found} of 30 rows" in text(drawn(page))


def test_a_row_is_gone_to_by_its_number(looking):
    page = rows_of(looking)
    page.number_input(key="data_jump").set_value(9)
    shown = text(drawn(page))
    assert "Row 9" in shown
    assert "Training leaves this row out" in shown
    assert "the output is empty" in shown


def test_a_long_row_sends_its_beginning_until_all_is_asked_for(inspected, monkeypatch, model_dir, tmp_path):
    """A page of ten rows of a book each froze the browser."""
    import shutil

    wide = shutil.copytree(model_dir, tmp_path / "wide")
    config = json.loads((wide / "config.json").read_text())
    (wide / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4096}))
    monkeypatch.setenv("ARRIERO_MODEL", str(wide))
    file = tmp_path / "long.json"
    file.write_text(json.dumps([{"instruction": "q", "input": "", "output": "x" * 1000}]))
    page = rows_of(inspected(file))
    assert text(page).count("title=") == FEW
    page.toggle[0].set_value(True)
    assert text(drawn(page)).count("title=") == 1000 + 6


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            b'[{"instruction": "a", "output": "b"}, {"instruction"',
            ["row 1", "is not valid JSON", "cut off while copying"],
        ),
        (b"\xff\xfe[", ["is not UTF-16-LE text", "save it as UTF-8"]),
        (b'[{"question": "a"}]', ["none of its 1 rows can be used", "the first: row 0", "expected rows like"]),
    ],
)
def test_a_bad_file_gives_its_error_in_place(inspected, tmp_path, content, said):
    file = tmp_path / "bad.json"
    file.write_bytes(content)
    shown = text(inspected(file)).replace("\\", "")
    assert "Try: " in shown
    for part in ["bad.json", *said]:
        assert part in shown


def test_a_path_that_is_not_there_is_said_and_the_page_stays(inspected, tmp_path):
    page = inspected(tmp_path / "nowhere.json")
    assert f"no file {tmp_path / 'nowhere.json'}" in text(page)
    assert page.selectbox


def test_an_upload_is_opened_and_a_bad_one_explained(inspected, home, rows_file):
    page = opened("data")
    page.file_uploader(key="data_upload").set_value(("rows.json", rows_file.read_bytes(), "application/json"))
    drawn(page)
    assert page.session_state["data_path"] == str(home / "datasets" / "uploads" / "rows.json")
    page.file_uploader(key="data_upload").set_value(("empty.json", b" ", "application/json"))
    assert "empty.json: is empty" in text(drawn(page))


def test_an_edited_row_is_saved_as_a_new_file_which_is_opened(inspected, mixed, home):
    page = rows_of(inspected(mixed))
    page.number_input(key="data_jump").set_value(9)
    drawn(page)
    page.button(key="data_edit_9").click()
    drawn(page)
    page.button(key="data_keep").click()
    assert "the output is empty" in text(drawn(page)), "what training would leave out is refused in the form"
    page.text_area(key="data_text_(0, 9)_('output',)").set_value("mended")
    page.button(key="data_keep").click()
    drawn(page)
    assert "Edited and not saved: 1" in text(page)
    target = mixed.with_name("mixed-edited.jsonl")
    page.button(key="data_save").click()
    drawn(page)
    assert f"Saved 30 rows as {target}." in text(page)
    assert page.session_state["data_path"] == str(target)
    before, after = (list(read(file)) for file in (mixed, target))
    assert [row for row, pair in enumerate(zip(before, after, strict=True)) if pair[0] != pair[1]] == [9]
    assert after[9][1]["output"] == "mended"
    page = after_jobs(page, home / "cache" / "page" / "inspected")
    page.session_state["data_view"] = "report"
    assert "<dt>Left out</dt><dd>0</dd>" in text(drawn(page))


def test_a_file_that_exists_is_asked_for_before_it_is_replaced(inspected, tmp_path):
    file = tmp_path / "rows.json"
    file.write_text(json.dumps(ROWS))
    page = rows_of(inspected(file))
    page.button(key="data_edit_0").click()
    drawn(page)
    page.button(key="data_take_out").click()
    drawn(page)
    page.text_input(key=f"data_target_{file}").set_value(str(file))
    drawn(page)
    page.button(key="data_save").click()
    assert "exists" in text(drawn(page))
    assert json.loads(file.read_text()) == ROWS
    page.checkbox(key="data_replace").set_value(True)
    page.button(key="data_save").click()
    drawn(page)
    assert json.loads(file.read_text()) == ROWS[1:]


def test_the_serving_process_loads_no_model_library_for_the_pages():
    """It decodes ids and reads mapped rows; torch alone would take seconds and 300 MB of every server."""
    rooms = (
        "arriero.web.datasets.rows, arriero.web.datasets.report, arriero.web.shelf.draw, arriero.web.datasets.source"
    )
    check = f"import sys, {rooms}; print({{'torch', 'transformers', 'datasets'}} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_only_the_latest_inspections_stay_on_disk(home):
    """Each is about as large as its file, and nobody removes them by hand."""
    folder = home / "cache" / "page" / "inspected"
    for number in range(source.KEPT + 3):
        about = folder / f"{number:02}" / "about.json"
        about.parent.mkdir(parents=True)
        jobs.write(about, {})
        os.utime(about, (number, number))
    source.tidy()
    assert sorted(path.name for path in folder.iterdir()) == [f"{number:02}" for number in range(3, source.KEPT + 3)]
