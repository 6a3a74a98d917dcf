"""What the conversation says."""

WORDS: dict[str, tuple[str, str]] = {}
