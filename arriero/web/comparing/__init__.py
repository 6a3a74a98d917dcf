"""What the page "compare" is made of.

rounds.py     answers of several models to the same prompts, while they grow
prompts.py    the prompts that are typed or come in a file
votes.py      which answer was the better one: kept, counted and written out
draw.py       how a round and the votes look
"""
