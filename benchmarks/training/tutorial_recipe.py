"""The fine-tuning script of the tutorial, as it stands there, in plain transformers and PEFT: nothing of arriero.

Batches of 4 padded to their longest, 4 of them accumulated, every layer computed twice (gradient checkpointing), LoRA
with r 8, alpha 32 and dropout 0.1 as PEFT sets it up (float32 matrices on a bfloat16 model), AdamW at 1e-4 falling in
a line, clipped to norm 1, the model's own loss over all logits, averaged over each batch of 4. What differs:

- the prompt's text comes from the model's chat template, not from a literal that fits Llama 3.1 only;
- rows come in the order given, so that other recipes can have the same steps;
- transformers 4.43, which the tutorial uses, averaged the loss over every batch of 4; later ones average over the
  step, unless told otherwise as it is done here;
- nothing is saved on the way.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peft import LoraConfig, TaskType, get_peft_model
from transformers import DataCollatorForSeq2Seq, PreTrainedTokenizerFast, Trainer, TrainingArguments

MAX_LENGTH = 384
BATCH = 4
ACCUMULATED = 4
Feature = dict[str, list[int]]


def layout(question: str, answer: str, system: str, tokenizer: Any) -> Feature:
    """The tutorial's process_func: two texts tokenized apart, and one end token more than the answer has."""
    messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    instruction = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    response = tokenizer(f"{answer}{tokenizer.eos_token}", add_special_tokens=False)["input_ids"]
    whole = feature([*instruction, *response, tokenizer.eos_token_id], len(instruction))
    return {name: column[:MAX_LENGTH] for name, column in whole.items()}


def feature(ids: list[int], prompt: int) -> Feature:
    """Columns of a row whose first `prompt` tokens carry no loss."""
    return {"input_ids": ids, "attention_mask": [1] * len(ids), "label": [-100] * prompt + ids[prompt:]}


def padding_tokenizer(tokenizer: Any = None) -> Any:
    """What the collator pads with: the end token, as the tutorial says; without a tokenizer, one that only pads."""
    if tokenizer is not None:
        tokenizer.pad_token = tokenizer.eos_token
        return tokenizer
    from tokenizers import Tokenizer, models

    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"<pad>": 0})), pad_token="<pad>")


def trainer(base: Any, features: list[Feature], tokenizer: Any, folder: Path, **options: Any) -> Trainer:
    """The tutorial's Trainer over `base`, a bfloat16 model, for one optimizer step per 16 of `features`, in order.

    `options` replace the tutorial's training arguments; without a GPU, use_cpu has to be among them.
    """
    from datasets import Dataset

    base.enable_input_require_grads()
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        inference_mode=False,
        r=8,
        lora_alpha=32,
        lora_dropout=0.1,
    )
    arguments = {
        "per_device_train_batch_size": BATCH,
        "gradient_accumulation_steps": ACCUMULATED,
        "logging_steps": 10,
        "max_steps": len(features) // (BATCH * ACCUMULATED),
        "learning_rate": 1e-4,
        "save_on_each_node": True,
        "gradient_checkpointing": True,
        "train_sampling_strategy": "sequential",
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
    }
    made = Trainer(
        model=get_peft_model(base, config),
        args=TrainingArguments(output_dir=str(folder), **{**arguments, **options}),
        train_dataset=Dataset.from_list(features),
        data_collator=DataCollatorForSeq2Seq(tokenizer=tokenizer, padding=True),
    )
    made.model_accepts_loss_kwargs = False  # average over each batch of 4
    return made
