"""docs/cli.md is what --help says."""

from __future__ import annotations

from tests.cli.reference import FILE, reference


def test_the_reference_is_the_help_pages():
    assert FILE.read_text(encoding="utf-8") == reference(), "python -m tests.cli.reference writes it anew"
