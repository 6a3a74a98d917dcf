"""Files of requests: every bad line is named before anything is answered."""

from __future__ import annotations

import json

import pytest

from arriero.batches import BatchFileError, Requests
from arriero.errors import NotFoundError

GOOD = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": []}}


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"custom_id": ""}, "custom_id must be a text"),
        ({"custom_id": 7}, "got 7"),
        ({"custom_id": "\ud800"}, "custom_id must be a text"),
        ({"method": "GET"}, "method must be POST, got 'GET'"),
        ({"url": "/v1/images"}, "got '/v1/images'"),
        ({"body": []}, "body must be an object, got list"),
        ({"body": {"stream": True}}, "stream must be left out"),
        ({"prompt": "hi"}, "the field 'prompt' is unknown"),
    ],
)
def test_each_bad_line_is_named_with_its_number(tmp_path, changed, told):
    file = tmp_path / "in.jsonl"
    file.write_text("\n".join(json.dumps(line) for line in (GOOD, GOOD | {"custom_id": "2"} | changed)) + "\n\n")
    with pytest.raises(BatchFileError) as error:
        Requests(file)
    assert "line 2: " in error.value.message
    assert told in error.value.message
    assert [fault.line for fault in error.value.faults] == [2]


def test_all_bad_lines_are_told_at_once(tmp_path):
    file = tmp_path / "in.jsonl"
    twice = json.dumps(GOOD).encode()
    file.write_bytes(b"\xef\xbb\xbf" + twice + b"\r\n{\n\n" + twice + b'\n"\xff"\n[]')
    with pytest.raises(BatchFileError) as error:
        Requests(file)
    found = [(fault.line, fault.code) for fault in error.value.faults]
    assert found == [
        (2, "invalid_json_line"), (4, "duplicate_custom_id"), (5, "invalid_json_line"), (6, "invalid_request"),
    ]  # fmt: skip
    assert "that of line 1 already" in error.value.message


def test_no_file_an_empty_one_and_one_for_another_endpoint(tmp_path):
    file = tmp_path / "in.jsonl"
    with pytest.raises(NotFoundError, match="no file"):
        Requests(file)
    file.write_text("\n \n")
    with pytest.raises(BatchFileError, match="empty"):
        Requests(file)
    file.write_text(json.dumps(GOOD))
    with pytest.raises(BatchFileError, match="url must be /v1/embeddings"):
        Requests(file, endpoint="/v1/embeddings")
    with pytest.raises(BatchFileError, match="more than 0 requests"):
        Requests(file, most=0)


def test_requests_are_read_again_from_their_places(tmp_path):
    file = tmp_path / "in.jsonl"
    lines = [GOOD | {"custom_id": name} for name in ("a", "骆驼", "c")]
    file.write_bytes(b"\xef\xbb\xbf" + "\r\n\n".join(json.dumps(each, ensure_ascii=False) for each in lines).encode())
    requests = Requests(file)
    with file.open("rb") as opened:
        assert [requests.read(opened, row) for row in reversed(requests.rows)] == lines[::-1]
    assert [row.id for row in Requests(file).rows] == [row.id for row in requests.rows]
    assert not {row.id for row in Requests(file, salt="other").rows} & {row.id for row in requests.rows}
