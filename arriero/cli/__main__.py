"""`python -m arriero.cli`, where the console script is not on the path."""

from arriero.cli.main import run

run()
