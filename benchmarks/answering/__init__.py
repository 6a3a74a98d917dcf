"""How fast, how right and how steady answers are. A part is a file; what it runs in processes of their own is in ways.

__main__.py     the command: its options, and which part is which
speed.py        tokens per second and first-token times, all ways to answer in turn
agreement.py    answers and distributions against transformers in float32
ids.py          the prompt ids of all surfaces
cancel.py       how soon cancelling works
memory.py       resident memory over many requests
cold.py         the start of `arriero ask`
decode.py       launches and copies of a decode step
loop.py         the event loop beside LangChain streams
engines.py      the same measurement over each engine
sheets.py       the parts' figures as tables
ways/           children
"""
