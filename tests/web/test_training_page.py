"""The train page as Streamlit's own test harness draws it, over real runs."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from streamlit.testing.v1 import AppTest

import arriero.web
from arriero.runs import Record, listed, state_of
from arriero.web.datasets import source
from arriero.web.state import Site, Visitor, set_site
from arriero.web.training import sources
from tests.conftest import train_tiny

PAGE = Path(arriero.web.__file__).with_name("pages") / "train.py"


@pytest.fixture
def opened(home):
    """Draw the page for an administrator, without a browser; `run` is the record of the run that is looked at."""

    def visit(run: Record | None = None, *, admin: bool = True, adopt=None) -> AppTest:
        set_site(Site(SimpleNamespace(), lambda _: Visitor(admin=admin), adopt=adopt))
        page = AppTest.from_file(PAGE, default_timeout=60)
        if run is not None:
            page.query_params["run"] = run.folder.name
        return checked(page.run())

    return visit


def checked(page: AppTest) -> AppTest:
    assert not page.exception, page.exception
    return page


def chosen(page: AppTest, rows_file: Path) -> AppTest:
    """The page with a data file in its form."""
    page.session_state["train_data"] = str(rows_file)
    return checked(page.run())


def errors(page: AppTest) -> list[str]:
    return [error.value.replace("\\", "") for error in page.error]


def test_only_an_administrator_sees_more_than_a_word(opened):
    page = opened(admin=False)
    assert [info.value for info in page.info] == [
        "Training is for administrators: open the page on the machine itself, or with the administrator's key."
    ]
    assert not page.button
    assert not page.selectbox


def test_every_option_has_a_widget_with_its_default(opened):
    from dataclasses import asdict

    from arriero.training import TrainOptions

    page = opened()
    for name, default in asdict(TrainOptions()).items():
        shown = page.session_state[f"train_{name}"]
        assert (tuple(shown) if isinstance(default, tuple) else shown) == default, name


def test_the_form_makes_the_record_that_the_command_line_would_be_given(opened, rows_file, model_dir):
    page = chosen(opened(), rows_file)
    assert page.text_input(key="train_name").value == "rows"
    page.selectbox(key="train_model").set_value("smollm2-135m-instruct")
    page.text_area(key="train_system").set_value("Be Killa.")
    page.number_input(key="train_epochs").set_value(1.5)
    page.number_input(key="train_max_length").set_value(100)
    page.selectbox(key="train_keep").set_value("best")
    page = checked(page.run())
    assert errors(page) == []
    assert not page.button[-1].disabled
    from arriero.web.training import form

    assert form.DATA in page.session_state


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("batch_size", 0, "batch_size must be at least 1, got 0"),
        ("learning_rate", 2.0, "learning_rate must be less than 1, got 2.0"),
        ("eval_fraction", 1.0, "eval_fraction must be at least 0 and less than 1, got 1.0"),
    ],
)
def test_a_wrong_option_is_refused_in_the_command_lines_words_and_nothing_can_be_planned(
    opened, rows_file, name, value, told
):
    page = chosen(opened(), rows_file)
    page.number_input(key=f"train_{name}").set_value(value)
    page = checked(page.run())
    assert errors(page) == [told]
    assert page.button[-1].disabled


def test_a_name_that_is_taken_or_no_name_is_refused(opened, rows_file):
    page = chosen(opened(), rows_file)
    sources.directory("mine").mkdir(parents=True)
    for name, told in (("mine", "There is a run called mine"), ("../mine", "A name has 1 to 64 letters")):
        page.text_input(key="train_name").set_value(name)
        page = checked(page.run())
        assert told in errors(page)[0]
        assert page.button[-1].disabled


def test_an_upload_stays_beside_another_one_of_its_name(home):
    first, second = source.keep("../a b.json", b"[1]"), source.keep("a b.json", b"[2]")
    assert first == home / "datasets" / "uploads" / "a_b.json"
    assert (first.read_bytes(), second.read_bytes()) == (b"[1]", b"[2]")
    assert source.keep("a b.json", b"[1]") == first
    assert set(sources.data_files([])) == {str(first), str(second)}


def test_a_finished_run_shows_its_report_and_is_served_by_a_click(opened, rows_file, model_dir, tmp_path):
    train_tiny(rows_file, model_dir, tmp_path / "killa", epochs=2, eval_fraction=0.3)
    served = []
    page = opened(listed()[0], adopt=lambda name, directory: served.append((name, directory)))
    assert "finished" in page.subheader[0].value
    assert page.metric[0].label == "Loss"
    assert [button.label for button in page.button] == ["All runs", "Take off the list", "Chat with it", "Compare it"]
    page.button[2].click().run()  # which ends in a page that this script alone has not
    assert served == [("killa", tmp_path / "killa")]
    assert page.session_state["model"] == "killa"


def test_a_run_that_another_servers_page_looks_at_is_not_served_by_it(opened, rows_file, model_dir, tmp_path):
    train_tiny(rows_file, model_dir, tmp_path / "killa", epochs=1)
    page = opened(listed()[0])
    assert "arriero serve --adapter" in page.caption[-1].value
    assert "Chat with it" not in [button.label for button in page.button]


def test_a_failed_run_says_why_with_its_exit_code_and_the_log(opened, tmp_path):
    record = Record(directory=tmp_path / "run", data="rows.json")
    record.save()
    (record.folder / "exit").write_text("137")
    (record.folder / "train.log").write_text("step 1 of 60\n<b>no hay</b>\n")
    page = opened(record)
    assert "exit code 137" in errors(page)[0]
    assert "memory ran out" in errors(page)[0]
    assert page.code[0].value == "step 1 of 60\n<b>no hay</b>"
    assert [button.label for button in page.button] == ["All runs", "Go on", "Take off the list"]


def test_a_run_whose_directory_was_removed_is_listed_as_gone_until_it_is_taken_off(opened, tmp_path):
    record = Record(directory=tmp_path / "run", data="rows.json")
    record.save()
    page = opened()
    assert "nothing on disk" in page.markdown[0].value
    page.button(key=f"train_open_{record.folder.name}").click().run()
    assert "its directory was removed" in page.info[0].value
    next(button for button in page.button if button.label == "Take off the list").click().run()
    assert listed() == []


def test_a_run_that_stopped_shows_how_far_it_came(opened, tmp_path):
    record = Record(directory=tmp_path / "run", data="rows.json")
    record.save()
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    line = {"step": 3, "total_steps": 60, "loss": 1.25, "tokens_per_second": 1000.4, "seconds": 1.0}
    (tmp_path / "run" / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    assert state_of(record).name == "stopped"
    page = opened(record)
    assert [(metric.label, metric.value) for metric in page.metric] == [
        ("Loss", "1.250"),
        ("Held-out loss", "–"),
        ("Tokens/s", "1,000"),
    ]
