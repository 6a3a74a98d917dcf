"""The page of training runs: plan and start one, watch one, see what came of it."""

from __future__ import annotations

import streamlit as st

from arriero import runs
from arriero.web.faults import administrators_only
from arriero.web.training.form import draw_form
from arriero.web.training.listing import draw_list
from arriero.web.training.planned import draw_plan
from arriero.web.training.watch import draw_run
from arriero.web.words import say


def main() -> None:
    """Draw the page: one run by the address's `run`, or all of them and the form of a new one."""
    administrators_only("train.admins_only")
    st.title(say("common.page_train"), anchor=False)
    records = runs.listed()
    chosen = next((record for record in records if record.folder.name == st.query_params.get("run")), None)
    if chosen is not None:
        draw_run(chosen)
        return
    draw_list(records)
    draw_plan(draw_form(records))


if __name__ == "__main__":
    main()
