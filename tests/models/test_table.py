"""The table in docs/models.md is what the last run of test_kinds.py found."""

from __future__ import annotations

from tests.models.kinds import KINDS
from tests.models.table import committed, record, table


def test_the_page_has_the_table_of_the_last_run():
    assert list(record()) == list(KINDS)
    assert committed() == table(record())
