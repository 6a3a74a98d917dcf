"""The command line: parse -> options -> call one function. The only place that prints and exits.

    main.py      the commands, errors -> messages and exit codes
    options.py   options that several commands share, and configuration files
    output.py    standard output for answers and JSON, standard error for people
    ask.py       ask
    answer.py    chat, serve
    inspect.py   inspect
    learn.py     train
    machine.py   download, models, doctor

Each command calls one function of another room.
"""
