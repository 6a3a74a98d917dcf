"""What the templates' filters make of numbers and of text."""

from __future__ import annotations

import pytest

from arriero.formatting import duration, size
from arriero.templates import fenced, markdown, percent, plain, render, several, short


@pytest.mark.parametrize(
    ("number", "told"),
    [(0, "0"), (2.5516, "2.55"), (0.01234, "0.0123"), (0.0001, "0.0001"), (9.99999e-5, "0.0001"), (2e-5, "2e-5"),
     (-3.14159e-7, "-3.14e-7"), (394.7, "395"), (12345.6, "12,346"), (999.7, "1,000"), (1e300, "1e300")],
)  # fmt: skip
def test_short(number, told):
    assert short(number) == told


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.0123, "0.012 s"), (7.44, "7.4 s"), (57.4, "57 s"), (59.7, "1 min"), (750, "12 min 30 s"), (3600, "1 h"),
     (12_000, "3 h 20 min"), (86_400 * 2, "48 h")],
)  # fmt: skip
def test_duration(seconds, told):
    assert duration(seconds) == told


def test_other_numbers():
    assert [size(number) for number in (0, 999, 1000, 2.06e9, 1.5e16)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "2.1 GB",
        "15,000.0 TB",
    ]
    assert [percent(part) for part in (0, 0.001, 0.5, 0.999, 1)] == ["0%", "1%", "50%", "99%", "100%"]
    assert [several(1, "row"), several(1200, "row"), several(0.5, "epoch"), several(None, "row")] == [
        "1 row", "1,200 rows", "0.5 epochs", ""]  # fmt: skip


def test_plain():
    values = [None, True, False, 1, 0, 2.0, 1e-4, "auto", ["q", "v"], {"lora": 210}]
    assert [plain(value) for value in values] == [
        "not set", "yes", "no", "1", "0", "2", "0.0001", "auto", "q, v", "210 lora"]  # fmt: skip


def test_text_in_markdown():
    assert markdown("a|b\n<i> *x* q_proj _y_") == r"a\|b \<i\> \*x\* q_proj \_y\_"
    assert fenced("a ```` b", "text") == "`````text\na ```` b\n`````"


def test_values_are_escaped_in_pages_and_a_nan_is_missing(tmp_path):
    text = render("run.html", name="<b>", report={"result": {"steps": float("nan")}})
    assert "&lt;b&gt;" in text
    assert "nan" not in text.split("</style>")[1]
