"""`python -m tests.training.inline CODE …` runs CODE with the rest as its arguments, in a process of its own."""

import sys

if __name__ == "__main__":
    code = sys.argv.pop(1)
    exec(compile(code, "inline", "exec"))
