"""The command line: parse -> options -> call one function. The only place that prints and exits.

Each verb is a file of its name, with its options, help page and examples; it calls one function of another room:

    download.py, models.py, doctor.py, config.py     what is on this machine, and what is set
    inspect.py, train.py, evaluate.py                data and an adapter made from it
    merge.py, adopt.py, push.py                      what else is done with an adapter
    ask.py, chat.py, serve.py, web.py, batch.py      answers

Beside them:

    main.py       the list of verbs; errors -> messages and exit codes
    __main__.py   `python -m arriero.cli`
    options.py    options that several verbs share
    config_files.py   files that set options, each value with its line
    synonyms.py   verbs of other programs
    usage.py      what is wrong with a command line, and what to type instead
    output.py     standard output for answers and JSON, standard error for people
    progress.py   bars and lines that say how far the work is
    page.py       the web page in the server's process
"""
