"""What the tests of the OpenVINO engine share: prompts, a worker in this process, adapters, references."""

from __future__ import annotations

import json
import os

import torch
from transformers import AutoModelForCausalLM

from arriero.engines.openvino import engine, exported
from arriero.engines.openvino.worker import Worker
from arriero.engines.process.worker import Inbox
from arriero.messages import Sampling

PLAIN = Sampling(top_p=1.0, top_k=0, min_p=0.0, repetition_penalty=1.0, presence_penalty=0.0, frequency_penalty=0.0)
GREEDY = Sampling(temperature=0.0).over(PLAIN)
PROMPT = [1, 4, 110, 111, 2, 5]
LONG = [1, *(6 + (7 * n * n) % 250 for n in range(200))]
END = 2


class InProcess:
    """What the worker process does, here: a round at a time, with what it says of each request in `said`."""

    def __init__(self, model_dir):
        self.said = []
        commands, pipe = os.pipe()
        self.pipe = os.fdopen(pipe, "w")
        self.worker = Worker(Inbox(commands), self.said.extend)
        self.give("load", **engine.described(model_dir, exported(model_dir, "float32"), "float32"))

    def give(self, do, **arguments):
        print(json.dumps({"do": do, **arguments}), file=self.pipe, flush=True)

    def put(self, number, prompt=PROMPT, count=8, key=0):
        config = {"apply_chat_template": False, "max_new_tokens": count, "eos_token_id": END}
        self.give("put", key=key, kind="library", number=number, ids=prompt, config=config, stop_token_ids=[END])

    def until(self, *event):
        """Rounds until this is said."""
        while not any(said[: len(event)] == event for said in self.said):
            self.worker.round()

    def ids(self, number):
        return [token for kind, of, *rest in self.said if (kind, of) == ("ids", number) for token in rest[0]]

    def pipeline(self, key=0):
        return self.worker._pipelines[key, "library"]._pipeline


def ids(engine, sampling=GREEDY, prompt=PROMPT, count=24, **options):
    return list(engine.submit(prompt, sampling, max_new_tokens=count, **options))


def loaded(engine, adapters):
    """Handles by the adapters' names; None is the base model."""
    return {None: None, **{name: engine.load_adapter(directory) for name, directory in adapters.items()}}


def reference(model, prompt_ids, generated):
    """Log-probabilities (generated, vocabulary) that a torch model gives along an answer."""
    with torch.inference_mode():
        logits = model(torch.tensor([prompt_ids + generated])).logits[0, len(prompt_ids) - 1 : -1]
    return logits.float().log_softmax(-1)


def lora(model_dir, directory, seed, **options):
    """A random adapter whose effect is large."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": "all-linear", **options})
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32), config)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.3)
    model.save_pretrained(directory)
    return directory, model.eval()


def logits_after(model, prompt_ids):
    with torch.inference_mode():
        return model(torch.tensor([prompt_ids])).logits[0, -1]


def kill(engine):
    engine._link.process._process.kill()
    engine._link.process._reader.join()
