"""Fetching files from both hubs' protocols over loopback, through everything that goes wrong on the way."""

from __future__ import annotations

import hashlib
import random
import time
from email.utils import formatdate

import pytest

from arriero.errors import AccessError, DiskSpaceError, DownloadError, retry_after
from arriero.hub import transfer
from arriero.hub.listing import Listed
from arriero.hub.remote import translated
from arriero.hub.transfer import clients
from arriero.hub.transfer.retry import Backoff
from tests.hub.hubs import COMMIT, LoopbackHub
from tests.hub.troubles import altered, cut, redirect, stall, status

BIG = "model.safetensors"
DATA = {BIG: random.Random(1).randbytes(300_000), "config.json": b"{}", "extra/分词 a.json": b"[1]" * 999}


@pytest.fixture(params=[clients.HuggingFace, clients.ModelScope])
def hub(request, tmp_path):
    server = LoopbackHub(files=dict(DATA))
    server.files_of = lambda: request.param("owner/name", COMMIT, "model", endpoint=server.url)
    server.source = request.param.__name__.lower()
    yield server
    server.gate.set()
    server.close()


def listing(hub, **changed):
    """What the hub lists; `changed` for the big file."""
    listed = {name: Listed(name, len(data), hashlib.sha256(data).hexdigest()) for name, data in hub.files.items()}
    if changed:
        listed[BIG] = Listed(BIG, **changed)
    return listed


def fetch(hub, folder, listed=None, *, tries=3, first=0.0, watch=lambda _: None):
    backoff = Backoff(tries=tries, first=first)
    folder.mkdir(exist_ok=True)
    with translated(hub.source, "owner/name"):
        return transfer.fetch(hub.files_of(), listed or listing(hub), folder, watch=watch, backoff=backoff)


def contents(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_files_are_fetched_once_and_hashed_on_the_way(hub, tmp_path):
    records = fetch(hub, tmp_path / "a")
    assert contents(tmp_path / "a") == DATA
    assert {name: record.sha256 for name, record in records.items()} == {
        name: hashlib.sha256(data).hexdigest() for name, data in DATA.items()
    }
    assert sorted(hub.ranged) == sorted((name, None) for name in DATA)


def test_a_later_run_goes_on_where_the_connection_broke(hub, tmp_path):
    """Hugging Face's client began every file anew."""
    hub.trouble[BIG] = [cut(after=100_000)]
    with pytest.raises(DownloadError):
        fetch(hub, tmp_path / "a", tries=1)
    kept = (tmp_path / "a" / f"{BIG}.part").stat().st_size
    assert 0 < kept <= 100_000
    assert fetch(hub, tmp_path / "a")[BIG].size == len(DATA[BIG])
    assert (BIG, f"bytes={kept}-") in hub.ranged
    assert contents(tmp_path / "a") == DATA


def test_a_complete_file_of_an_earlier_run_is_not_fetched_again(hub, tmp_path):
    listed = listing(hub)
    fetch(hub, tmp_path / "a", {BIG: listed[BIG]})
    fetch(hub, tmp_path / "a", listed)
    assert [name for name, _ in hub.ranged].count(BIG) == 1
    assert contents(tmp_path / "a") == DATA


def test_a_listed_file_that_is_not_there_is_named(hub, tmp_path):
    hub.trouble["config.json"] = [status(404)]
    with pytest.raises(DownloadError, match=r"lists config\.json, which is not there"):
        fetch(hub, tmp_path / "a")


@pytest.mark.parametrize(
    "troubles",
    [
        [cut(after=70_000), cut(after=70_000), cut(after=70_000), cut(after=70_000)],  # each brings something
        [cut(after=70_000), status(416)],
        [status(503), status(500)],
        [status(429, Retry_After="0"), cut(after=10)],
        [cut(after=100_000), altered(lambda data: data[::-1])],  # another ETag: everything is sent
    ],
    ids=["cuts", "416", "5xx", "429", "changed"],
)
def test_what_passes_is_tried_again(hub, tmp_path, troubles, request):
    hub.trouble[BIG] = list(troubles)
    if "changed" in request.node.name:
        with pytest.raises(DownloadError, match="SHA-256"):
            fetch(hub, tmp_path / "a")
        assert not (tmp_path / "a" / BIG).exists()
    fetch(hub, tmp_path / "a")
    assert hub.trouble[BIG] == []
    assert contents(tmp_path / "a") == DATA


def test_a_server_without_range_sends_everything_again(hub, tmp_path):
    hub.ranges = False
    hub.trouble[BIG] = [cut(after=70_000)]
    fetch(hub, tmp_path / "a")
    assert contents(tmp_path / "a") == DATA
    assert [asked for name, asked in hub.ranged if name == BIG][1] is not None


def test_a_server_without_range_that_breaks_off_is_given_up(hub, tmp_path):
    """Each try brought the same bytes again, which counted as an advance, without end."""
    hub.ranges = False
    hub.trouble[BIG] = [cut(after=70_000)] * 10
    with pytest.raises(DownloadError):
        fetch(hub, tmp_path / "a")
    assert len(hub.trouble[BIG]) == 10 - 3, "one that brings something, and two that do not"


def test_two_versions_are_never_joined_without_a_hash(hub, tmp_path):
    """If-Range: the server says that the file is another by now."""
    hub.trouble[BIG] = [cut(after=100_000)]
    listed = listing(hub, size=len(DATA[BIG]))
    with pytest.raises(DownloadError):
        fetch(hub, tmp_path / "a", listed, tries=1)
    hub.files[BIG] = random.Random(2).randbytes(300_000)
    fetch(hub, tmp_path / "a", listed)
    assert contents(tmp_path / "a")[BIG] == hub.files[BIG]


def test_a_part_of_another_revision_is_not_taken_up(hub, tmp_path):
    hub.trouble[BIG] = [cut(after=100_000)]
    with pytest.raises(DownloadError):
        fetch(hub, tmp_path / "a", tries=1)
    hub.files[BIG] = random.Random(2).randbytes(300_000)
    hub.ranged.clear()
    fetch(hub, tmp_path / "a")
    assert (BIG, None) in hub.ranged
    assert contents(tmp_path / "a")[BIG] == hub.files[BIG]


def test_a_file_of_the_right_size_is_fetched_where_no_hash_tells(hub, tmp_path):
    """It was taken for the one wanted."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / BIG).write_bytes(b"x" * len(DATA[BIG]))
    fetch(hub, tmp_path / "a", listing(hub, size=len(DATA[BIG])))
    assert contents(tmp_path / "a") == DATA


@pytest.mark.parametrize("name", [f"{BIG}.part", BIG])
def test_bytes_that_went_wrong_on_disk_are_fetched_again(hub, tmp_path, name):
    hub.trouble[BIG] = [cut(after=100_000)]
    with pytest.raises(DownloadError):
        fetch(hub, tmp_path / "a", tries=1)
    length = (tmp_path / "a" / f"{BIG}.part").stat().st_size if name != BIG else len(DATA[BIG])
    (tmp_path / "a" / name).write_bytes(b"x" * length)
    fetch(hub, tmp_path / "a")
    assert contents(tmp_path / "a") == DATA


def test_wrong_bytes_are_refused_and_not_kept(hub, tmp_path):
    hub.corrupted = BIG
    with pytest.raises(DownloadError, match=f"{BIG} has SHA-256"):
        fetch(hub, tmp_path / "a")
    assert not list((tmp_path / "a").glob(f"{BIG}*"))


def test_a_wrong_size_is_refused_before_it_is_fetched(hub, tmp_path):
    hub.trouble[BIG] = [altered(lambda data: data * 9)]
    with pytest.raises(DownloadError, match=r"comes with 2700000 bytes, .* lists 300000"):
        fetch(hub, tmp_path / "a")


def test_retry_after_is_what_is_waited(hub, tmp_path):
    """Not the backoff of its own, here longer than any test may take."""
    hub.trouble[BIG] = [status(429, Retry_After="0")]
    fetch(hub, tmp_path / "a", first=10_000)
    assert Backoff().wait(1, 17.0) == 17
    assert Backoff().wait(1, 10_000) is None, "nobody waits for hours"
    assert [Backoff().wait(count, None) for count in (1, 2, 3, 6)] == [1, 2, 4, None]
    assert retry_after("3") == 3
    assert 50 < retry_after(formatdate(time.time() + 60)) <= 60
    assert retry_after("soon") is retry_after("nan") is retry_after(None) is None


def test_what_does_not_pass_is_the_hubs_error(hub, tmp_path):
    hub.trouble[BIG] = [status(503)] * 3
    with pytest.raises(DownloadError, match="503"):
        fetch(hub, tmp_path / "a")
    hub.trouble[BIG] = [status(403)]
    with pytest.raises(AccessError):
        fetch(hub, tmp_path / "a")
    assert hub.trouble[BIG] == [], "asked once, no access is not tried again"


def test_a_silent_connection_is_given_up_and_taken_up(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    monkeypatch.setattr("modelscope_hub._legacy_api.DOWNLOAD_TIMEOUT", 0.3)
    hub.trouble[BIG] = [stall(after=100_000)]

    def watch(progress):
        if len(hub.ranged) > len(DATA):
            hub.gate.set()

    fetch(hub, tmp_path / "a", watch=watch)
    assert contents(tmp_path / "a") == DATA


def test_a_token_does_not_go_to_another_host(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", "ms-secret")
    other = LoopbackHub(files=dict(DATA))
    hub.trouble[BIG] = [redirect(other.url.replace("127.0.0.1", "localhost"))]
    fetch(hub, tmp_path)
    other.close()
    assert contents(tmp_path) == DATA
    assert other.served == [BIG]
    assert any("secret" in value for value in hub.credentials)
    assert other.credentials == []


def test_nothing_is_asked_for_where_it_would_not_fit(hub, tmp_path):
    with pytest.raises(DiskSpaceError, match=r"TB more are needed.* nothing was fetched"):
        fetch(hub, tmp_path / "a", listing(hub, size=10**18, sha256="0" * 64))
    assert hub.ranged == []


def test_nothing_is_written_once_a_failure_was_raised(hub, tmp_path):
    """A thread that waited for its hub wrote on, into what the next process had begun to fill."""
    hub.trouble[BIG] = [stall(after=100_000)]
    hub.trouble["config.json"] = [lambda handler, data: (hub.stalled.wait(), status(404)(handler, data))]
    with pytest.raises(DownloadError, match="not there"):
        fetch(hub, tmp_path / "a")
    part = tmp_path / "a" / f"{BIG}.part"
    before = part.read_bytes()
    hub.gate.set()
    fetch(hub, tmp_path / "b")
    assert part.read_bytes() == before


def test_progress_counts_what_is_on_disk(hub, tmp_path):
    hub.trouble[BIG] = [cut(after=100_000)]
    with pytest.raises(DownloadError):
        fetch(hub, tmp_path / "a", tries=1)
    kept = sum(len(data) for name, data in contents(tmp_path / "a").items() if not name.endswith(".etag.part"))
    told = []
    fetch(hub, tmp_path / "a", watch=told.append)
    total = sum(map(len, DATA.values()))
    plan, *others = told
    assert (plan.event, plan.files, plan.bytes, plan.bytes_done, plan.bytes_fetched) == ("plan", 3, total, kept, 0)
    assert sorted(each.file for each in others if each.event == "file") == sorted(DATA)
    assert (others[-1].files_done, others[-1].bytes_done, others[-1].bytes_fetched) == (3, total, total - kept)
