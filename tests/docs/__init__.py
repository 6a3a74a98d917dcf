"""README and docs hold what they say: commands that parse, Python whose names exist, a quick start that runs."""
