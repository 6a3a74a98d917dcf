"""The command line: parse -> options -> call one function. The only place that prints and exits.

Each verb is a file of its name, with its options, help page and examples; it calls one function of another room:

    download.py   a model from a hub or a wheel
    models.py     what is on disk or could be; verify, remove
    doctor.py     what this machine has, and what would be used
    config.py     the settings, and where each comes from
    inspect.py    what training would see of a data file
    train.py      a data file -> an adapter directory
    evaluate.py   an adapter beside its base model
    merge.py      adapter and base -> one model directory
    adopt.py      an adapter from elsewhere gets its contract
    push.py       an adapter -> a hub
    ask.py        one answer
    chat.py       a conversation in the terminal
    serve.py      the HTTP API and the web page
    web.py        the same, opened in the browser
    batch.py      a file of requests

Beside them:

    main.py       the list of verbs; errors -> messages and exit codes
    __main__.py   `python -m arriero.cli`
    early.py      names and paths that lead nowhere
    options.py    options that several verbs share
    config_files.py  files that set options, each value with its line
    synonyms.py   verbs of other programs
    usage.py      what is wrong with a command line, and what to type instead
    output.py     standard output for answers and JSON, standard error for people
    progress.py   bars and lines that say how far the work is
    page.py       the web page in the server's process
"""
