"""What the benchmarks share. Knows none of them.

    command.py      the frame of a command: options, the document of a run, printing it
    sheets.py       figures as tables, for a terminal or in Markdown
    figures.py      rates, spreads, percentiles, and memory's slope over requests
    parts.py        commands as parts of one table, each in a process of its own with a limit of time
    machine.py      the machine in words, its matrix rate, a clock that works on a GPU too
    processes.py    processor time: who took how much of it
    launches.py     operators that are kernels on a GPU
    shapes.py       configurations of models with random weights
    questions.py    what is asked, and greedy sampling
    children.py     processes that answer, each waiting until it is its turn
    channel.py      what parent and child say to each other
    versions.py     of the packages that compute
    gguf.py         how llama.cpp is run, and which file it answers with
    ways/           children that answer with the engines of others

channel.py, versions.py and ways/llama.py also run in environments that have nothing of ours: they import nothing of it.
"""
