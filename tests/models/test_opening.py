"""What is read of a model before it computes: nested configurations, the layers to train, and who can answer."""

from __future__ import annotations

import json
import shutil

import pytest

from arriero import hub
from arriero.cli.main import app
from arriero.engines import EngineOptions, load_engine, select_engine
from arriero.engines.registry import openvino_lacks
from arriero.errors import ArrieroError, ExportError, UsageError
from arriero.training.lora import with_lora
from arriero.training.options import TrainOptions
from arriero.training.planning.estimate import estimate
from arriero.training.planning.mode import Mode
from arriero.training.planning.plan import Plan
from arriero.training.steps import Kernels, Steps
from tests.conftest import build_model, train_tiny
from tests.models.kinds import VOCABULARY, WINDOW, build

# as published, with all that is usual left out
GEMMA_3 = {"model_type": "gemma3", "text_config": {"model_type": "gemma3_text", "sliding_window": 1024}}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Tiny models by kind, built when they are first asked for."""
    root, built = tmp_path_factory.mktemp("models"), {}
    return lambda kind: built.setdefault(kind, None) or built.update({kind: build(kind, root / kind)}) or built[kind]


def test_window_and_vocabulary_are_those_of_the_language_part(models, tmp_path):
    """Vision checkpoints said nothing of how many tokens they read, it was told."""
    assert (hub.window(models("mistral3")), hub.vocabulary(models("mistral3"))) == (WINDOW, VOCABULARY)
    (tmp_path / "config.json").write_text(json.dumps(GEMMA_3))
    assert (hub.window(tmp_path), hub.vocabulary(tmp_path)) == (131072, 262208), "the defaults of the type"


def test_a_sliding_window_in_the_language_part_is_seen(tmp_path):
    """An export would have let it look at everything."""
    (tmp_path / "config.json").write_text(json.dumps(GEMMA_3))
    assert openvino_lacks(tmp_path) == "its attention slides over a window of 1024 tokens"


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "mistral3"])
@pytest.mark.parametrize("wanted", ["auto", "all-linear", "q_proj,down_proj"])
def test_lora_goes_into_the_language_part_only(kind, wanted, models):
    """What sees had matrices, too, that no text ever trains, and engines refused the adapter for them."""
    model = with_lora(models(kind), TrainOptions(target_modules=wanted), "float32")
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert trained
    assert all(".language_model." in name for name in trained)


def test_layers_to_recompute_are_the_language_part_s(models):
    """The first of all layers are those of what sees, so nothing was recomputed."""
    model = with_lora(models("mistral3"), TrainOptions(), "float32")
    Steps(model, Plan(Mode("padded", ""), 64, 2, recomputed=1), Kernels(None))
    part = model.get_base_model().model.language_model
    assert [layer.gradient_checkpointing for layer in part.layers] == [True, False]


def test_what_training_costs_is_reckoned_of_the_language_part(models):
    assert estimate(models("qwen2_5_vl"), tokens=10, step_tokens=10).parameters < 100_000


def test_a_model_that_does_not_write_is_refused_in_one_sentence(models, tmp_path):
    """The message listed two hundred classes of configurations."""
    shutil.copytree(models("llama"), tmp_path / "seen")
    (tmp_path / "seen" / "config.json").write_text(json.dumps({"model_type": "clip_vision_model"}))
    with pytest.raises(ArrieroError, match=r"^seen is of the type 'clip_vision_model', of which transformers .* text$"):
        hub.load_weights(tmp_path / "seen")


NAMES = {
    "phi3": {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"},
    "gpt2": {"c_attn", "c_fc", "c_proj"},
    "qwen3_moe": {"q_proj", "k_proj", "v_proj", "o_proj"},  # and not the router
    "lfm2": {"q_proj", "k_proj", "v_proj", "out_proj", "w1", "w2", "w3"},  # and not the convolution's own in_proj
}


@pytest.mark.parametrize("kind", NAMES)
def test_auto_takes_the_projections_by_the_model_s_own_names(kind, models):
    """The default were the names of a Llama, which these models lack."""
    model = with_lora(models(kind), TrainOptions(), "float32")
    assert set(model.peft_config["default"].target_modules) == NAMES[kind]


def test_unknown_layers_are_refused_with_the_names_there_are(models):
    with pytest.raises(UsageError, match=r"Phi3ForCausalLM has no layers named q_proj$") as caught:
        with_lora(models("phi3"), TrainOptions(target_modules=("q_proj", "o_proj")), "float32")
    assert "qkv_proj" in caught.value.hint


@pytest.mark.parametrize("given", [["q_proj", "k_proj"], ["q_proj,k_proj"], ["q_proj,", "k_proj"]])
def test_several_names_in_one_option(given):
    """Only the first was taken, and the next was an unexpected argument."""
    command = ["train", "x.json", "--output", "run", "--target-modules", *given, "--rank", "4"]
    _, bound, _ = app.parse_args(command, exit_on_error=False, print_error=False)
    options = bound.arguments["options"]
    assert (options.target_modules, options.rank) == (("q_proj", "k_proj"), 4)


@pytest.mark.parametrize("kind", ["qwen3_moe", "gpt2", "gptj", "falcon"])
def test_auto_answers_with_the_reference_engine_what_openvino_cannot(kind, models, home, caplog):
    """A mixture of experts was traced for minutes and ended in 67 lines of OpenVINO's; others in an AttributeError."""
    caplog.set_level("INFO", logger="arriero")
    engine = load_engine(models(kind), [2])
    engine.close()
    assert engine.name == "transformers"
    lines = [message for message in caplog.messages if message.startswith("engine: transformers")]
    assert lines
    assert (
        "openvino does not do this: it is a mixture of experts" in lines[0]
        or "cannot be exported for OpenVINO" in lines[0]
    )
    assert all("\n" not in message for message in lines)


def test_an_engine_asked_for_by_name_says_why_it_cannot(models, home):
    with pytest.raises(ExportError, match="gptj cannot be exported for OpenVINO: ") as caught:
        load_engine(models("gptj"), [2], "openvino")
    assert caught.value.hint == "use --engine transformers"


def test_a_precision_of_openvino_s_does_not_give_way(models, home):
    """The other engine would answer in another one."""
    with pytest.raises(ExportError):
        load_engine(models("gptj"), [2], options=EngineOptions(precision="int4"))


def test_a_model_that_takes_our_positions_for_others_is_not_exported(models, home, monkeypatch):
    """Nothing compared the exported model's logits with the model's own."""
    from transformers.models.llama.modeling_llama import LlamaForCausalLM

    own = LlamaForCausalLM.forward

    def forward(self, *args, position_ids=None, **options):
        return own(self, *args, position_ids=None if position_ids is None else 2 * position_ids, **options)

    monkeypatch.setattr(LlamaForCausalLM, "forward", forward)
    with pytest.raises(ExportError, match="its logits differ by"):
        load_engine(models("llama"), [2], "openvino")


@pytest.mark.parametrize("verify", [True, False])
def test_a_model_whose_own_code_fails_is_told_of_in_one_sentence(verify, rows_file, tmp_path):
    """A configuration with heads of two sizes; it was a traceback out of transformers."""
    broken = build("deepseek_v3", tmp_path / "broken")
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(config | {"head_dim": 8}))
    with pytest.raises(ArrieroError, match=r"its own code raises RuntimeError: The size of tensor a .*$"):
        train_tiny(rows_file, broken, tmp_path / "run", verify=verify)


def test_other_models_still_go_to_openvino(tmp_path):
    assert select_engine("auto", build_model(tmp_path / "tiny")).engine == "openvino"
