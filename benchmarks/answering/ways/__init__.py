"""Children of this command: each a module that reads a job and answers commands, as lib/channel.py says.

chat.py         our Chat over an engine: answers, greedy ids, cancelling
cancel.py       what that child measures of cancelling
generate.py     transformers.generate, one padded batch
vllm.py         vLLM's AsyncLLM alone; imports nothing of ours
reference.py    transformers in float32, and what is compared with it
surfaces.py     the prompt ids that each surface sends
decode.py       what a decode step asks of the device
streams.py      LangChain streams beside a ticker in the event loop
"""
