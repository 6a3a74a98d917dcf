"""What HTTP costs and what the server withstands. A part is a file.

__main__.py    the command: its options, and which part is which
speed.py       tokens per second, first-token times and gaps, beside the engine alone and other servers
abort.py       requests cut off by their clients
memory.py      resident memory over many requests
stall.py       a long prompt beside short streams
overflow.py    more requests than there is room for
drain.py       SIGTERM while streams run
batch.py       a batch against the engine asked directly
asking.py      what the parts that look at our server alone ask of it
client.py      the HTTP client
servers.py     servers in processes of their own
sheets.py      the parts' figures as tables
ray_data.py    `python -m benchmarks.serving.ray_data`: `arriero batch --ray` beside a pipeline of Ray Data
scale.py       `python -m benchmarks.serving.scale`: what Ray costs, and what replicas bring
paced.py       the engine without a model that scale.py has in its replicas, and how it is read
"""
