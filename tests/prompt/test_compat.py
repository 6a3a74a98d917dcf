"""Private names of other libraries: whichever is gone is named here, with its library."""

from __future__ import annotations

from arriero.prompt import compat


def test_transformers_has_it():
    template = compat.compiled("{{ messages | tojson }}{{ strftime_now is defined }}")
    assert template.render(messages=["é<"]) == '["é<"]True', "transformers: _compile_jinja_template"
