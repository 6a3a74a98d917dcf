"""Everything that is measured on a GPU, for gpu.sh.

__main__.py    the parts, and the table
models.py      random Llamas on disk
wheels.txt     what a bare machine lacks, and how it is fetched
"""
