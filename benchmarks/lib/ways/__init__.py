"""Children that answer with the engines of others.

llama.py       llama.cpp, its own server without HTTP; imports nothing of ours
openvino.py    OpenVINO GenAI alone
"""
