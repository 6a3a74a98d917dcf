"""The conversation page's parts.

desk.py       who looks, at which conversation, with which model; what can be done there
sidebar.py    the list of conversations      header.py     the model, its settings, the conversation's menu
controls.py   system prompt and sampling     turns.py      what was said, and what can be done with it
live.py       an answer in flight            blocks.py     a growing text in parts that are finished
"""
