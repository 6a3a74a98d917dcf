"""How a round and the votes look. Drawn anew while answers grow, each prompt for itself."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import streamlit as st

from arriero.errors import ArrieroError
from arriero.markup import to_streamlit
from arriero.web.comparing.rounds import Duel, Round, Side
from arriero.web.comparing.votes import Vote, Votes, as_csv, as_json, tally, vote_on
from arriero.web.faults import sentences
from arriero.web.language import redrawn
from arriero.web.words import say

REDRAW_SECONDS = 0.2
FAILURE = "compare_failure"  # where the session keeps why a vote was not kept


def draw_round(round_: Round, votes: Votes, owner: str | None) -> None:
    """All prompts of a round; those that are being answered are drawn again by themselves."""
    voted = {(vote.round, vote.index): vote for vote in votes.of(owner)}
    for index, duel in enumerate(round_.duels):
        vote = voted.get((round_.id, index))
        key = f"{round_.id}-{index}"
        if duel.ended:
            _draw_duel(duel, key, vote, partial(_keep, votes, round_, index, owner))
        else:
            redrawn(_draw_growing, REDRAW_SECONDS)(duel, key)


def _keep(votes: Votes, round_: Round, index: int, owner: str | None, winner: str | None) -> None:
    try:
        votes.add(vote_on(round_, index, winner, owner))
    except ArrieroError as error:
        st.session_state[FAILURE] = error


def _draw_growing(duel: Duel, key: str) -> None:
    if duel.ended:
        st.rerun()
    _draw_duel(duel, key, None, None)


def _draw_duel(duel: Duel, key: str, vote: Vote | None, cast: Callable[[str | None], None] | None) -> None:
    """A prompt and its answers side by side; `cast` takes the vote, once they are all there."""
    with st.container(border=True, key=f"duel-{key}"):
        st.text(duel.prompt)
        for position, (column, side) in enumerate(zip(st.columns(len(duel.sides)), duel.sides, strict=True)):
            with column.container(key=f"side-{key}-{position}"):
                _draw_side(side)
                if cast is not None:
                    won = vote is not None and vote.winner == side.model
                    _choice(say("compare.better"), f"{key}-{position}", won, partial(cast, side.model))
        if cast is not None:
            _choice(say("compare.tie"), f"{key}-tie", vote is not None and vote.winner is None, partial(cast, None))


def _choice(label: str, key: str, chosen: bool, cast: Callable[[], None]) -> None:
    icon = ":material/check_circle:" if chosen else ":material/circle:"
    st.button(label, key=f"vote-{key}", icon=icon, type="secondary" if chosen else "tertiary", on_click=cast)


def _draw_side(side: Side) -> None:
    st.caption(to_streamlit(side.model))
    if side.thought:
        with st.expander(say("chat.reasoning"), icon=":material/psychology:"):
            st.markdown(to_streamlit(side.thought))
    if side.text:
        st.markdown(to_streamlit(side.text))
    if side.error is not None:
        st.error(to_streamlit(sentences(side.error)), icon=":material/error:")
    elif not side.ended and not (side.text or side.thought):
        st.caption(say("compare.waiting"))
    else:
        st.caption(" · ".join(_remarks(side)))


def _remarks(side: Side) -> list[str]:
    """How an answer ended, and what it took."""
    remarks = {"length": [say("compare.cut")], "cancelled": [say("compare.stopped")]}.get(side.finish_reason or "", [])
    if side.usage is not None:
        remarks = [*remarks, say("compare.tokens_count", tokens=side.usage.completion_tokens)]
        if side.seconds:
            remarks.append(say("compare.speed", speed=side.usage.completion_tokens / side.seconds))
    return remarks


def draw_votes(votes: list[Vote]) -> None:
    """The table of wins, and the votes to take away."""
    st.subheader(say("compare.votes"), anchor=False)
    if not votes:
        st.caption(say("compare.no_votes"))
        return
    names = [say(f"compare.{name}") for name in ("model", "won", "tied", "lost")]
    st.dataframe([dict(zip(names, row, strict=True)) for row in tally(votes)], hide_index=True, width="stretch")
    with st.container(horizontal=True):
        st.download_button(
            say("compare.as_json"), as_json(votes), "votes.json", "application/json", icon=":material/download:"
        )
        st.download_button(say("compare.as_csv"), as_csv(votes), "votes.csv", "text/csv", icon=":material/download:")
