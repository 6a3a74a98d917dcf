"""OpenAI's client, as it is, has files answered by a real server."""

from __future__ import annotations

import json
import threading

import httpx
import openai
import pytest

from arriero.server import create_app
from arriero.server.admission import Limits
from arriero.server.auth import Keys

CHAT = "/v1/chat/completions"


def line(custom_id, url=CHAT, **body):
    body = body or {"messages": [{"role": "user", "content": custom_id}], "model": "tiny"}
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


def jsonl(*lines):
    return b"".join(json.dumps(each).encode() + b"\n" for each in lines)


@pytest.fixture
def client(serve, scripted_chat, home):
    """`client("answer", …)` -> (OpenAI's client, the engine), over an empty ARRIERO_HOME; several share it."""
    made = []

    def build(*answers, key="none", gate=None, **options):
        chat = scripted_chat(*answers, gate=gate)
        url = serve(chat=chat, app=create_app(chat, **options)).url
        made.append(openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0))
        return made[-1], chat.engine

    yield build
    for each in made:
        each.close()


def begun(api, *lines, endpoint=CHAT, **options):
    file = api.files.create(file=("in.jsonl", jsonl(*lines)), purpose="batch")
    return api.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h", **options)


def ended(api, batch):
    """The batch once it has ended. Asking is all that the API has; each try is a request of its own."""
    pause = threading.Event()
    for _ in range(600):
        retrieved = api.batches.retrieve(batch.id)
        if retrieved.status in ("completed", "failed", "expired", "cancelled"):
            return retrieved
        pause.wait(0.05)
    raise AssertionError(f"the batch is still {retrieved.status}")


def lines_of(api, identity):
    return [json.loads(each) for each in api.files.content(identity).text.splitlines()]


def test_a_batch_is_answered_in_order_and_what_is_refused_is_in_the_error_file(client):
    api, _ = client("hello")
    bad = line("bad", messages=[], temperature=9)
    batch = begun(api, line("a"), bad, line("骆驼"), metadata={"of": "may"})
    assert (batch.status, batch.object, batch.metadata) == ("validating", "batch", {"of": "may"})
    done = ended(api, batch)
    assert done.status == "completed"
    assert done.request_counts.model_dump() == {"total": 3, "completed": 2, "failed": 1}
    assert done.created_at <= done.in_progress_at <= done.finalizing_at <= done.completed_at < done.expires_at
    good = lines_of(api, done.output_file_id)
    assert [each["custom_id"] for each in good] == ["a", "骆驼"]
    assert good[0]["response"]["body"]["choices"][0]["message"]["content"] == "hello"
    assert good[0]["response"]["request_id"].startswith("req_")
    (failed,) = lines_of(api, done.error_file_id)
    assert (failed["custom_id"], failed["response"]["status_code"], failed["error"]) == ("bad", 400, None)
    assert failed["response"]["body"]["error"]["param"] == "temperature"
    assert api.files.retrieve(done.output_file_id).purpose == "batch_output"
    metrics = httpx.get(str(api.base_url).removesuffix("/v1/") + "/metrics").text
    assert 'arriero_answers_total{finish_reason="stop",model="tiny"} 2.0' in metrics
    assert "arriero_time_to_first_token_seconds_count" not in metrics, "its waiting is nobody's latency"


def test_a_file_with_bad_lines_fails_with_each_of_them(client):
    api, engine = client("hello")
    done = ended(api, begun(api, line("a"), line("a"), line("b", url="/v1/embeddings")))
    assert (done.status, done.output_file_id, done.request_counts.total) == ("failed", None, 0)
    assert [(fault.line, fault.code) for fault in done.errors.data] == [
        (2, "duplicate_custom_id"), (3, "invalid_url"),
    ]  # fmt: skip
    assert not engine.asked


def test_a_cancelled_batch_keeps_what_is_answered(client):
    api, engine = client("hello", gate=0, limits=Limits(max_running=8))  # one answer of a batch at a time
    batch = begun(api, line("a"), line("b"))
    assert engine.reached.wait(30)
    assert api.batches.cancel(batch.id).status == "cancelling"
    done = ended(api, batch)
    assert (done.status, done.output_file_id) == ("cancelled", None)
    assert done.cancelling_at <= done.cancelled_at
    codes = [each["error"]["code"] for each in lines_of(api, done.error_file_id)]
    assert codes == ["batch_cancelled", "batch_cancelled"]
    assert engine.generations[0].cancelled
    with pytest.raises(openai.ConflictError, match="ended already"):
        api.batches.cancel(batch.id)


def test_batches_leave_slots_to_others(client):
    """Two batches asked for all of the slots; a request of somebody's own waited for one of their rows to end."""
    api, engine = client("hello", gate=1, limits=Limits(max_running=4, max_batch_running=2))
    batches = [begun(api, *(line(str(n)) for n in range(6))) for _ in range(2)]
    pause = threading.Event()
    while [api.batches.retrieve(batch.id).status for batch in batches] != ["in_progress"] * 2:
        pause.wait(0.02)
    interactive = threading.Thread(
        target=lambda: api.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "me"}])
    )
    interactive.start()
    metrics = str(api.base_url).removesuffix("/v1/") + "/metrics"
    while "arriero_answers_running 3.0" not in httpx.get(metrics).text:  # where batches take all there are four
        pause.wait(0.02)
    assert len(engine.asked) == 3
    engine.release.set()
    interactive.join()
    assert [ended(api, batch).request_counts.completed for batch in batches] == [6, 6]


def test_files_and_batches_are_known_to_their_key_only(client):
    keys = Keys({"ana": "ana-key-1", "bob": "bob-key-1"})
    ana, _ = client("hello", key="ana-key-1", keys=keys)
    bob = ana.with_options(api_key="bob-key-1")
    done = ended(ana, begun(ana, line("a")))
    for ask in (
        lambda: bob.files.retrieve(done.input_file_id),
        lambda: bob.files.content(done.output_file_id),
        lambda: bob.files.delete(done.output_file_id),
        lambda: bob.batches.retrieve(done.id),
        lambda: bob.batches.cancel(done.id),
        lambda: bob.batches.create(
            input_file_id=done.input_file_id, endpoint=CHAT, completion_window="24h"
        ),
    ):  # fmt: skip
        with pytest.raises(openai.NotFoundError):
            ask()
    assert (list(bob.files.list()), list(bob.batches.list())) == ([], [])
    assert {file.id for file in ana.files.list()} == {done.input_file_id, done.output_file_id}


def test_lists_go_on_behind_an_id_and_files_can_be_deleted(client):
    api, _ = client("hello")
    made = [begun(api, line("a")).id for _ in range(3)]
    assert [batch.id for batch in api.batches.list(limit=2)] == made[::-1]  # the client asks for the second page
    for identity in made:
        ended(api, api.batches.retrieve(identity))
    inputs = api.files.list(purpose="batch", order="asc").data
    assert len(inputs) == 3
    assert api.files.delete(inputs[0].id).deleted
    with pytest.raises(openai.NotFoundError):
        api.files.content(inputs[0].id)
    with pytest.raises(openai.BadRequestError, match="no batch 'batch_none'"):
        api.batches.list(after="batch_none")


def test_what_cannot_be_kept_is_refused(client):
    api, _ = client("hello", limits=Limits(max_file=100))
    with pytest.raises(openai.BadRequestError, match="files are for batches"):
        api.files.create(file=b"{}", purpose="fine-tune")
    with pytest.raises(openai.APIStatusError, match="longer than 100 bytes") as error:
        api.files.create(file=b"x" * 101, purpose="batch")
    assert error.value.status_code == 413
    with pytest.raises(openai.NotFoundError, match="no file 'file-none'"):
        api.batches.create(input_file_id="file-none", endpoint=CHAT, completion_window="24h")
    with pytest.raises(openai.BadRequestError, match="endpoint"):
        api.batches.create(input_file_id="file-none", endpoint="/v1/images", completion_window="24h")
    bare, _ = client("hello", no_store=True)
    with pytest.raises(openai.BadRequestError, match="--no-store"):
        bare.files.create(file=b"{}", purpose="batch")
    answer = httpx.post(f"{api.base_url}files", data={"purpose": "batch", "file": "text"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "file")


def test_all_endpoints_of_openais_batches_are_answered(client):
    api, _ = client("hello")
    for url, body in (("/v1/completions", {"prompt": "hi"}), ("/v1/responses", {"input": "hi"})):
        done = ended(api, begun(api, line("a", url, **body), endpoint=url))
        assert (done.status, done.request_counts.completed) == ("completed", 1), url
