"""What the page "compare" says."""

WORDS: dict[str, tuple[str, str]] = {}
