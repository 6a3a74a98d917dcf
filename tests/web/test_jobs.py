"""Work in processes of its own: everybody sees its progress and its end, and it ends for everybody."""

from __future__ import annotations

import json
import os

import psutil
import pytest

from arriero.web import jobs

ERRAND = "tests.web.errand"


def ended(folder) -> jobs.Job:
    """The job, once its process has come to its end."""
    content = json.loads((folder / "process.json").read_text())
    if psutil.pid_exists(content["pid"]):
        psutil.wait_procs([psutil.Process(content["pid"])], timeout=100)
    job = jobs.find(folder)
    assert not job.running
    return job


def told(folder) -> jobs.Job:
    """The job, once it has said how far it is."""
    while not (job := jobs.find(folder)).progress:
        assert job.running, job
    return job


def test_a_result_is_there_for_everybody_who_knows_the_folder(tmp_path):
    folder = tmp_path / "jobs" / "a"
    assert jobs.find(folder) is None
    started = jobs.start(folder, ERRAND, {"how": "well", "said": "骆驼"})
    assert started.running
    job = ended(folder)
    assert (job.result, job.failure, job.about["said"]) == ({"said": "骆驼"}, None, "骆驼")


@pytest.mark.parametrize(
    ("how", "failure"),
    [
        ("fail", ("NotFoundError", "no camel", "look in the stable")),
        ("break", ("defect", "ZeroDivisionError: a defect", "{folder}/log.txt says where")),
        ("die", ("lost", "the process ended without a result", "{folder}/log.txt may say why")),
    ],
)
def test_what_went_wrong_is_typed_and_no_traceback(tmp_path, how, failure):
    jobs.start(tmp_path / "a", ERRAND, {"how": how})
    kind, message, hint = failure
    assert ended(tmp_path / "a").failure == jobs.Failure(kind, message, hint.format(folder=tmp_path / "a"))


def test_a_second_start_joins_the_running_job_and_a_later_one_begins_anew(tmp_path):
    folder = tmp_path / "a"
    jobs.start(folder, ERRAND, {"how": "wait"})
    pid = told(folder).progress["pid"]
    assert jobs.start(folder, ERRAND, {"how": "well", "said": ""}).about == {"how": "wait"}
    assert told(folder).progress["pid"] == pid
    jobs.cancel(folder)
    assert jobs.find(folder).failure.kind == "cancelled"
    jobs.start(folder, ERRAND, {"how": "well", "said": "again"})
    assert ended(folder).result == {"said": "again"}


def test_a_cancel_ends_the_process_and_what_it_started(tmp_path):
    """pip, which fetches a wheel for us, went on by itself when only its parent was killed."""
    jobs.start(tmp_path / "a", ERRAND, {"how": "wait"})
    progress = told(tmp_path / "a").progress
    child = psutil.Process(progress["child"])
    jobs.cancel(tmp_path / "a")
    assert not psutil.wait_procs([child], timeout=30)[1] or child.status() == psutil.STATUS_ZOMBIE
    jobs.forget(tmp_path / "a")
    assert jobs.find(tmp_path / "a") is None


def test_another_process_with_the_same_number_is_not_taken_for_the_job(tmp_path):
    """After a restart of the machine, a cancel must not end whoever has the number now."""
    jobs.write(tmp_path / "about.json", {"how": "well"})
    jobs.write(tmp_path / "process.json", {"pid": os.getpid(), "began": 1.0})
    assert jobs.find(tmp_path).failure.kind == "lost"
    jobs.cancel(tmp_path)  # would end this test
