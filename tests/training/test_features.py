"""What people expect of a trainer: schedules, the best checkpoint, early stopping, kinds of LoRA, trackers."""

from __future__ import annotations

import json

import pytest
from safetensors.torch import load_file

from arriero.errors import UsageError
from arriero.training import TrainOptions
from tests.conftest import train_tiny


def lines_of(output):
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def rates(output):
    return [line["learning_rate"] for line in lines_of(output) if "loss" in line]


def report_of(output):
    return json.loads((output / "report.json").read_text())


def test_warm_up_and_linear_schedule(tmp_path, rows_file, model_dir):
    output = train_tiny(rows_file, model_dir, tmp_path / "run", learning_rate=0.04, warmup_steps=2)
    assert rates(output) == pytest.approx([0.0, 0.02, 0.04, 0.03, 0.02, 0.01])


def test_cosine_schedule_with_a_share_of_warm_up(tmp_path, rows_file, model_dir):
    options = {"learning_rate": 0.04, "warmup_steps": 0.34, "lr_scheduler_type": "cosine"}
    output = train_tiny(rows_file, model_dir, tmp_path / "run", **options)
    assert rates(output) == pytest.approx([0.0, 0.04 / 3, 0.08 / 3, 0.04, 0.03, 0.01], rel=1e-3)


def test_constant_schedule(tmp_path, rows_file, model_dir):
    output = train_tiny(rows_file, model_dir, tmp_path / "run", learning_rate=0.04, lr_scheduler_type="constant")
    assert rates(output) == [0.04] * 6


def test_gradients_are_clipped(tmp_path, rows_file, model_dir):
    """With a norm of next to nothing AdamW moves as before, plain decay aside; the norm told is the one before."""
    output = train_tiny(rows_file, model_dir, tmp_path / "run", max_grad_norm=1e-12, epochs=1)
    assert all(line["grad_norm"] > 0.01 for line in lines_of(output) if "loss" in line)
    clipped = load_file(output / "adapter_model.safetensors")
    moved = max(tensor.abs().max() for name, tensor in clipped.items() if "lora_B" in name)
    assert moved < 0.05 * 1e-3, "gradients below AdamW's epsilon hardly move anything"


def test_the_best_checkpoint_is_kept_and_written_when_wished(tmp_path, rows_file, model_dir):
    """A rate so high that the held-out loss soon rises."""
    options = {"learning_rate": 0.3, "epochs": 2, "eval_fraction": 0.3, "save_steps": 2, "save_total_limit": 1}
    options["lr_scheduler_type"] = "constant"
    output = train_tiny(rows_file, model_dir, tmp_path / "run", keep="best", **options)
    losses = {line["step"]: line["eval_loss"] for line in lines_of(output) if "eval_loss" in line}
    best = min(losses, key=losses.get)
    assert best != max(losses), "or this test shows nothing"
    report = report_of(output)
    assert report["best"] == {"step": best, "eval_loss": losses[best]}
    assert report["result"]["eval_loss"] == losses[best]
    kept = {path.name for path in (output / "checkpoints").glob("checkpoint-*")}
    assert kept == {f"checkpoint-{best}", f"checkpoint-{max(losses)}"}
    written, saved = (
        load_file(file)
        for file in (
            output / "adapter_model.safetensors",
            output / "checkpoints" / f"checkpoint-{best}" / "adapter_model.safetensors",
        )
    )
    assert all((written[name] == saved[name]).all() for name in saved)


def test_early_stopping_waits_for_its_patience(tmp_path, rows_file, model_dir):
    options = {"learning_rate": 0.3, "epochs": 40, "eval_fraction": 0.3, "eval_steps": 1}
    output = train_tiny(rows_file, model_dir, tmp_path / "run", early_stopping_patience=2, **options)
    losses = [line["eval_loss"] for line in lines_of(output) if "eval_loss" in line]
    best = losses.index(min(losses))
    assert len(losses) == best + 3, "two evaluations after the best"
    report = report_of(output)
    assert report["result"]["steps"] == len(losses) < 80
    assert report["result"]["eval_loss"] == min(losses)


@pytest.mark.parametrize(
    ("name", "value", "needed"),
    [("early_stopping_patience", 2, "0"), ("eval_steps", 5, "None"), ("keep", "best", "last")],
)
def test_what_goes_by_held_out_rows_needs_some(name, value, needed):
    """The last adapter was written as the best, and no evaluation came, without a word."""
    with pytest.raises(UsageError, match=f"{name} must be {needed} where nothing is held out"):
        TrainOptions(eval_fraction=0, **{name: value})


@pytest.mark.parametrize("option", ["use_rslora", "use_dora"])
def test_kinds_of_lora(tmp_path, rows_file, model_dir, option):
    output = train_tiny(rows_file, model_dir, tmp_path / "run", epochs=1, **{option: True})
    assert json.loads((output / "adapter_config.json").read_text())[option]
    assert report_of(output)["verify"]["gradient_difference"] < 1e-3
    magnitudes = [name for name in load_file(output / "adapter_model.safetensors") if "magnitude" in name]
    assert bool(magnitudes) == (option == "use_dora")


def test_all_linear_layers(tmp_path, rows_file, model_dir):
    output = train_tiny(rows_file, model_dir, tmp_path / "run", epochs=1, target_modules=("all-linear",))
    names = {name.split(".")[-3] for name in load_file(output / "adapter_model.safetensors")}
    assert names == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_dropout_says_what_sharing_makes_of_it(tmp_path, rows_file, model_dir, caplog):
    caplog.set_level("INFO", logger="arriero")
    train_tiny(rows_file, model_dir, tmp_path / "run", epochs=1, dropout=0.1)
    assert "share one mask over their common prefix" in caplog.text


@pytest.mark.parametrize("sharing", ["on", "off"])
def test_the_run_says_how_it_was_computed(tmp_path, rows_file, model_dir, sharing):
    output = train_tiny(rows_file, model_dir, tmp_path / "run", epochs=1, prefix_sharing=sharing)
    report = report_of(output)
    assert report["plan"]["prefix_sharing"] == sharing
    assert report["plan"]["fast"] == {"lora": 14, "norm": 5, "gate": 2, "rotary": 1, "last_layer": 1}
    assert report["verify"]["passed" if "passed" in report["verify"] else "fell_back"] is False
    logical, computed = (report["result"][f"{name}_tokens_per_second"] for name in ("logical", "computed"))
    assert (computed < logical) == (sharing == "on")


def test_tensorboard_by_name(tmp_path, rows_file, model_dir):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    output = train_tiny(rows_file, model_dir, tmp_path / "run", report_to=("tensorboard",), eval_fraction=0.3)
    events = EventAccumulator(str(output / "tensorboard"))
    events.Reload()
    losses = [(event.step, event.value) for event in events.Scalars("train/loss")]
    lines = [(line["step"], line["loss"]) for line in lines_of(output) if "loss" in line]
    assert losses == [(step, pytest.approx(loss)) for step, loss in lines]
    assert events.Scalars("eval/loss")


def test_an_unknown_tracker_is_refused_with_the_known_ones(tmp_path, rows_file, model_dir):
    with pytest.raises(UsageError, match=r"report_to tensorbord: .*tensorboard"):
        train_tiny(rows_file, model_dir, tmp_path / "run", report_to=("tensorbord",))
    assert not (tmp_path / "run").exists()


def test_the_report_has_answers_before_and_after(tmp_path, rows_file, model_dir):
    output = train_tiny(rows_file, model_dir, tmp_path / "run", eval_fraction=0.3, epochs=1)
    report = report_of(output)
    assert len(report["answers"]) == min(4, report["held_out"])
    first = report["answers"][0]
    assert first["prompt"][-1]["role"] == "user"
    assert first["expected"]
    assert first["before"] != first["after"]
    assert report["evaluation"]["base"]["nll"] != report["evaluation"]["adapter"]["nll"]
    assert report["evaluation"]["adapter"]["nll"] == pytest.approx(report["result"]["eval_loss"], rel=1e-4)
    assert "<svg" in (output / "report.html").read_text()


@pytest.mark.parametrize("options", [{"early_stopping_patience": 2}, {"keep": "best"}])
def test_nothing_held_out_of_few_rows_is_said_and_refuses_what_needs_it(tmp_path, rows_file, model_dir, options):
    """Without a word the last adapter was written as the best."""
    with pytest.raises(UsageError, match="nothing is held out for evaluation: 8 rows are few"):
        train_tiny(rows_file, model_dir, tmp_path / "run", eval_fraction=1e-9, **options)
