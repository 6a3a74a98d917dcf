"""Everything that is measured on a GPU, for gpu.sh.

__main__.py    the parts, and the table
models.py      random Llamas on disk
"""
