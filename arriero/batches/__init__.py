"""Files of many requests, in the format of OpenAI's batches: https://platform.openai.com/docs/guides/batch.

    requests.py   the lines of a file that asks
    journal.py    answers as they come, which survive whatever happens
    run.py        asks what has no answer yet

Who answers is the caller's business: nothing here knows a model or a server.
"""

from arriero.batches.journal import Journal as Journal
from arriero.batches.journal import resumed as resumed
from arriero.batches.requests import ENDPOINTS as ENDPOINTS
from arriero.batches.requests import BatchFileError as BatchFileError
from arriero.batches.requests import Endpoint as Endpoint
from arriero.batches.requests import Fault as Fault
from arriero.batches.requests import Requests as Requests
from arriero.batches.requests import Row as Row
from arriero.batches.run import Ask as Ask
from arriero.batches.run import RowResponse as RowResponse
from arriero.batches.run import answer_all as answer_all
