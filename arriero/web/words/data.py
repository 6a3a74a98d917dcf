"""What the page "data" says."""

WORDS: dict[str, tuple[str, str]] = {}
