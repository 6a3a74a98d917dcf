"""The conversation page's parts.

desk.py       who looks, at which conversation, with which model; what can be done there
acting.py     clicks: what they do to the desk, and what becomes of an error
sidebar.py    the list of conversations
header.py     the model, its settings, the conversation's menu
controls.py   system prompt and sampling
meter.py      how much of the model's window the conversation takes
turns.py      what was said, and what can be done with it
live.py       an answer in flight
blocks.py     a growing text in parts that are finished
"""
