"""A batch whose server is killed goes on with the next one, and no row is answered twice."""

from __future__ import annotations

import json
import signal

import openai
import pytest

from tests.cli.served import Program
from tests.server.test_batches import begun, ended, line, lines_of

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_batch_survives_the_end_of_its_server(home, model_dir, tmp_path, how):
    programs = tmp_path / "programs"
    programs.mkdir()
    first = Program(programs, model_dir, "--drain-seconds", "1", gate=5, answer="hello")
    try:
        api = openai.OpenAI(base_url=f"{first.ready()}/v1", api_key="none", max_retries=0)
        batch = begun(api, line("short", messages=[{"role": "user", "content": "a"}], max_tokens=2), line("long"))
        while api.batches.retrieve(batch.id).request_counts.completed < 1:
            pass
        first.signal(how)
        first.end()
    finally:
        first.kill()
    (journal,) = (home / "batches").glob("*.jsonl")
    kept = [json.loads(each) for each in journal.read_text().splitlines()]
    assert [each["custom_id"] for each in kept] == ["short"]
    second = Program(programs, model_dir, answer="again")
    try:
        api = openai.OpenAI(base_url=f"{second.ready()}/v1", api_key="none", max_retries=0)
        done = ended(api, batch)
        lines = lines_of(api, done.output_file_id)
        assert [each["custom_id"] for each in lines] == ["short", "long"]
        assert lines[0] == kept[0], "what was answered before is not asked again"
        texts = [each["response"]["body"]["choices"][0]["message"]["content"] for each in lines]
        assert texts == ["he", "again"]
        assert list((home / "batches").iterdir()) == []
    finally:
        second.kill()
