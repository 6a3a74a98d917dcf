"""What the page "train" says."""

WORDS: dict[str, tuple[str, str]] = {}
