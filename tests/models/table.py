"""The table in docs/models.md, made of what the last run of test_kinds.py found: record.json.

ARRIERO_RECORD=1 pytest tests/models      finds it anew and writes record and table
"""

from __future__ import annotations

import json
from pathlib import Path

from tests.models.kinds import KINDS

RECORD = Path(__file__).with_name("record.json")
PAGE = Path(__file__).parents[2] / "docs" / "models.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
COLUMNS = ("shared", "packed", "padded", "transformers", "openvino", "merge")
HEADS = ("shared", "packed", "padded", "transformers", "OpenVINO", "merge")
Row = dict[str, str]  # by column, and "why": what is not done, and why


def record() -> dict[str, Row]:
    """What was found last, by model type."""
    return json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else {}


def table(found: dict[str, Row]) -> str:
    """The table in Markdown."""
    lines = [f"| type | models | {' | '.join(HEADS)} | why not |", "|---" * (len(HEADS) + 3) + "|"]
    for kind, models in KINDS.items():
        if kind in found:
            lines.append(
                " | ".join([f"| {kind}", models, *(found[kind][c] for c in COLUMNS), found[kind]["why"]]) + " |"
            )
    return "\n".join(lines)


def committed() -> str:
    """The table as the page has it."""
    return PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0].strip()


def write(kind: str, row: Row) -> None:
    """Keep what was measured of a kind, in the record and on the page."""
    rows = {**record(), kind: row}
    RECORD.write_text(json.dumps({kind: rows[kind] for kind in KINDS if kind in rows}, indent=1) + "\n", "utf-8")
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{table(rows)}\n{END}{rest.partition(END)[2]}", encoding="utf-8")
