"""What the page "models" says."""

WORDS: dict[str, tuple[str, str]] = {}
