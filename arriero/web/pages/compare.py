"""The page "compare": several models answer the same prompts side by side, and a vote says which did better."""

from __future__ import annotations

import streamlit as st

from arriero.errors import ArrieroError, UsageError
from arriero.markup import to_streamlit
from arriero.messages import Sampling
from arriero.web.backend import Choice
from arriero.web.chatting.desk import owner_here
from arriero.web.comparing.draw import FAILURE, draw_round, draw_votes
from arriero.web.comparing.prompts import FILES, prompts
from arriero.web.comparing.rounds import Round
from arriero.web.comparing.votes import Votes
from arriero.web.faults import sentences
from arriero.web.state import get_site
from arriero.web.words import say


def main() -> None:
    """Draw the page."""
    st.set_page_config(layout="wide")
    st.title(say("common.page_compare"), anchor=False)
    try:
        draw(owner_here())
    except ArrieroError as error:
        st.error(to_streamlit(sentences(error)), icon=":material/error:")


def draw(owner: str | None) -> None:
    """The question, the last round, and the votes. What fails is raised, as an ArrieroError."""
    if (failure := st.session_state.pop(FAILURE, None)) is not None:
        raise failure
    site, votes = get_site(), Votes()
    backend, rounds = site.backend, site.rounds
    choices = backend.choices()
    if len(choices) < 2:
        st.info(say("compare.only_one", name=to_streamlit(choices[0].name)))
    asked = question(choices)
    if asked is not None:
        rounds.start(owner, asked, backend)
    round_ = rounds.get(owner)
    if round_ is not None:
        above = st.container()  # always there: were it to go with its button, the answers would move and be seen twice
        if not round_.ended:
            above.button(say("compare.stop"), icon=":material/stop:", on_click=rounds.stop, args=(owner,), key="stop")
        draw_round(round_, votes, owner)
    draw_votes(votes.of(owner))


def question(choices: list[Choice]) -> Round | None:
    """What to compare, once it is asked for. Raises UsageError and DataError for what cannot be compared."""
    names = [choice.name for choice in choices]
    wish = st.session_state.pop("compare_models", None) or st.session_state.get("compared", names[:2])
    st.session_state["compared"] = [name for name in wish if name in names]
    with st.form("compare", border=False):
        models = st.multiselect(say("compare.models"), names, key="compared", help=say("compare.models_help"))
        typed = st.text_area(say("compare.prompts"), placeholder=say("compare.prompts_placeholder"), key="prompts")
        with st.expander(say("compare.settings"), icon=":material/tune:"):
            file = st.file_uploader(say("compare.file"), list(FILES), help=say("compare.file_help"))
            system, sampling = settings()
        alone = len(names) < 2  # the page says so above
        if not st.form_submit_button(say("compare.start"), type="primary", icon=":material/compare:", disabled=alone):
            return None
    if len(models) < 2:
        raise UsageError(say("compare.too_few", names=", ".join(names)))
    asked = prompts(typed, file.name, file.getvalue()) if file is not None else prompts(typed)
    if not asked:
        raise UsageError(say("compare.no_prompt"))
    return Round(models, asked, system, sampling)


def settings() -> tuple[str | None, Sampling]:
    """The system prompt, None for each model's own, and how to sample: the same for all."""
    own = say("compare.own")
    system = st.text_area(say("compare.system"), placeholder=own, height=68)
    first, second, third = st.columns(3)
    temperature = first.number_input(say("compare.temperature"), 0.0, 2.0, None, 0.1, placeholder=own)
    tokens = second.number_input(say("compare.tokens"), 1, None, None, placeholder=own)
    seed = third.number_input(say("compare.seed"), 0, None, 0)
    return system.strip() or None, Sampling(temperature=temperature, max_new_tokens=tokens, seed=seed)


if __name__ == "__main__":
    main()
