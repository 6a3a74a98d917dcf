"""From training on calls to a call through the API: what was learnt is what a client gets."""

from __future__ import annotations

import json

import openai
import pytest

from arriero.chat import load
from tests.conftest import TOOL_TEMPLATE, build_model, build_tokenizer
from tests.server.conftest import serve  # noqa: F401  a fixture

TOOL = {"name": "f", "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}}}
TOOLS = [{"type": "function", "function": TOOL}]
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 7}'}}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_model_overfitted_on_calls_calls_through_the_api(serve, home, tmp_path):  # noqa: F811  the fixture
    """The prompt of training has the tools as the server's has them, and the loss is on the call's own form."""
    from arriero.training import train

    model = build_model(tmp_path / "tiny")
    build_tokenizer(TOOL_TEMPLATE).save_pretrained(model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 1024}))
    rows = tmp_path / "calls.jsonl"
    question = {"role": "user", "content": "seven?"}
    rows.write_text(json.dumps({"messages": [question, {"role": "assistant", "tool_calls": [CALL]}], "tools": TOOLS}))
    options = {"epochs": 400, "batch_size": 1, "rank": 32, "alpha": 64, "learning_rate": 5e-3, "eval_fraction": 0.0}
    train(rows, output=tmp_path / "run", model=model, precision="float32", target_modules=("all-linear",), **options)
    chat = load(adapter=tmp_path / "run", engine="transformers", precision="float32")
    served = serve(chat=chat)
    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="none")
    answer = client.chat.completions.create(
        model="run", messages=[question], tools=TOOLS, temperature=0, max_tokens=100
    ).choices[0]
    chat.close()
    assert answer.finish_reason == "tool_calls", answer.message.content
    (made,) = answer.message.tool_calls
    assert (made.function.name, json.loads(made.function.arguments)) == ("f", {"x": 7})
