"""What a run leaves on disk.

    directory.py   the adapter directory: who may write into it, what is in it when a run is done
    checkpoint.py  everything that a run continues from
    report.py      what report.json says of a run
    page.py        report.html: figures, curves, answers before and after
    curves.py      what its drawings consist of, as geometry
    axis.py        where a value stands in a drawing
    card.py        README.md: the model card, for people and hubs

Page and card are filled from report.json and metrics.jsonl alone, so they can be written again at any time.
"""
