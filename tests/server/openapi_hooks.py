"""What schemathesis does to the good requests that it makes: they name a model that is there and can be answered."""

from __future__ import annotations

import schemathesis

SENSIBLE = {"messages": [{"role": "user", "content": "hi"}], "input": "hi", "prompt": "hi", "stream": None}
FREE = (
    *("max_tokens", "max_completion_tokens", "max_output_tokens", "best_of", "logit_bias", "options", "thread"),
    *("dimensions", "input_type", "previous_response_id", "conversation", "background", "prompt", "moderation"),
)


@schemathesis.hook
def before_call(context, case, kwargs):
    body = case.body
    good = case.meta.generation.mode.is_positive and isinstance(body, dict)
    if not good or not isinstance(body.get("model"), str):
        return
    body["model"] = "words" if case.path == "/v1/embeddings" else "tiny"
    for name, value in {**SENSIBLE, **dict.fromkeys(FREE)}.items():
        if name in body and body[name] is not None:
            body[name] = value if name != "stream" else body[name]
