"""Which answer was the better one: kept in one file for everybody, a vote a line, and never changed in place.

A line is a JSON object; a later vote on the same answers counts instead of an earlier one. Lines are appended in one
write each, so several processes may vote at once (POSIX `O_APPEND`).
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from arriero import settings
from arriero.errors import ArrieroError
from arriero.web.comparing.rounds import Round


@dataclass(frozen=True, slots=True)
class Vote:
    """A vote of `owner` on the answers to the prompt at `index` of a round; `winner` is None for a tie."""

    owner: str | None
    round: str
    index: int
    prompt: str
    system: str | None
    models: list[str]
    answers: list[str]
    winner: str | None
    sampling: dict[str, object] = field(default_factory=dict)
    time: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))


def vote_on(round_: Round, index: int, winner: str | None, owner: str | None) -> Vote:
    """The vote for `winner`, or for a tie, on one prompt of a round."""
    duel = round_.duels[index]
    chosen = {name: value for name, value in asdict(round_.sampling).items() if value not in (None, ())}
    names, texts = [side.model for side in duel.sides], [side.text for side in duel.sides]
    return Vote(owner, round_.id, index, duel.prompt, round_.system, names, texts, winner, chosen)


class Votes:
    """The votes in one file, made with its first one."""

    def __init__(self, file: Path | None = None) -> None:
        self.file = file or settings.home() / "votes.jsonl"

    def add(self, vote: Vote) -> None:
        """Keep a vote. Raises ArrieroError where the file cannot be written."""
        line = json.dumps(asdict(vote), ensure_ascii=False) + "\n"
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.file, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
            with os.fdopen(descriptor, "ab", buffering=0) as out:
                out.write(line.encode())
        except OSError as error:
            raise ArrieroError(f"{self.file} cannot be written: {error.strerror}") from error

    def of(self, owner: str | None) -> list[Vote]:
        """The votes of `owner` that count, oldest first. Raises ArrieroError where the file cannot be read."""
        if not self.file.exists():
            return []
        try:
            lines = self.file.read_text("utf-8").split("\n")
            votes = [Vote(**json.loads(line)) for line in lines if line.strip()]
        except (OSError, ValueError, TypeError) as error:
            raise ArrieroError(f"{self.file} cannot be read: {error}", hint="move it away to begin anew") from error
        return list({(vote.round, vote.index): vote for vote in votes if vote.owner == owner}.values())


def tally(votes: Sequence[Vote]) -> list[tuple[str, int, int, int]]:
    """Each model with how often it won, tied and lost, the one that won most often first."""
    counts: dict[str, list[int]] = {}
    for vote in votes:
        for model in vote.models:
            outcome = 1 if vote.winner is None else 0 if vote.winner == model else 2
            counts.setdefault(model, [0, 0, 0])[outcome] += 1
    rows = [(model, won, tied, lost) for model, (won, tied, lost) in counts.items()]
    return sorted(rows, key=lambda row: (-row[1], row[3], row[0]))


def as_json(votes: Sequence[Vote]) -> str:
    """The votes as one JSON document."""
    return json.dumps([asdict(vote) for vote in votes], ensure_ascii=False, indent=2)


def as_csv(votes: Sequence[Vote]) -> str:
    """The votes as a table with an answer a column; a cell that a spreadsheet would calculate begins with a '.

    See https://owasp.org/www-community/attacks/CSV_Injection for why.
    """
    most = max((len(vote.models) for vote in votes), default=0)
    out = io.StringIO()
    table = csv.writer(out)
    sides = [name for side in range(1, most + 1) for name in (f"model_{side}", f"answer_{side}")]
    table.writerow(["time", "prompt", "system", "winner", *sides])
    for vote in votes:
        pairs = [text for pair in zip(vote.models, vote.answers, strict=True) for text in pair]
        cells = [vote.time, vote.prompt, vote.system or "", "tie" if vote.winner is None else vote.winner, *pairs]
        table.writerow([f"'{cell}" if cell[:1] in ("=", "+", "-", "@") else cell for cell in cells])
    return out.getvalue()
