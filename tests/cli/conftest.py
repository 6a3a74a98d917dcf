"""What the tests of several verbs share."""

from __future__ import annotations

import pytest

from arriero.cli.main import main


@pytest.fixture
def run(capsys):
    """Call the command line in this process: exit code, standard output, standard error."""

    def call(*arguments):
        code = main(list(map(str, arguments)))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call
