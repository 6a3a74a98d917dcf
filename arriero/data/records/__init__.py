"""Files -> raw records, one at a time, however large the file. The content says what a file is, not its ending.

    listing.py    the data files that a path names
    opening.py    a file, or what an archive holds -> bytes -> text in whatever encoding it is
    reading.py    read(): what the content is, and who reads it
    json_text.py  arrays, wrapped arrays, values one after the other, one value a line
    causes.py     what is wrong with text that is no JSON, and what to do about it
    tables.py     CSV by any separator, Parquet, Excel

A record is whatever the file holds at that row, or a Fault where that row cannot be read but the next one can. A
file that cannot be read on is a DataError that carries file and row.
"""

from arriero.data.records.json_text import Fault
from arriero.data.records.listing import ENDINGS, files_of
from arriero.data.records.reading import read

__all__ = ["ENDINGS", "Fault", "files_of", "read"]
