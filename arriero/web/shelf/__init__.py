"""The page of models: what is on disk, what can be fetched, and what is served.

work.py       the processes that download and verify
shelf.py      what the page tells of a model; which jobs there are; what may be removed
draw.py       draws a model on disk, a download, the removal's question
"""
