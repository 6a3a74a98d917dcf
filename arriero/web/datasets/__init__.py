"""The page of instruction files: what training would see of one, its rows, and edits that become a new file.

    source.py     which files there are: a path, an upload, examples, earlier ones
    opening.py    draws how a file is chosen and read
    prepare.py    the process that inspects a file and writes what the page reads
    prepared.py   what that process left: figures, and rows by kind, text and number
    tokens.py     a row's ids as coloured text
    plots.py      the report's pictures
    report.py     draws the report
    rows.py       draws the rows, a page at a time
    edits.py      a record's texts, and saving a file in which some rows differ
    editor.py     draws the form for a row, and the one that saves

The serving process reads memory-mapped rows and decodes ids; tokenizing and reporting are `prepare.py`'s.
"""
