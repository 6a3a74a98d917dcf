"""The training options: in English as TrainOptions describes them, in Chinese by the table here.

Each option gives two keys, `NAME_label` and `NAME_help`. An option without a line in the table is a KeyError at import.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import fields

from arriero.training.options import TrainOptions

CHINESE = {
    "format": ("数据格式", "各行的格式。auto：逐行判断并说明。text：原始文本，全部参与训练。"),
    "columns": (
        "列名",
        "各字段在数据中的名称，如 instruction=question,output=answer；常见名称自动识别。",
    ),
    "encoding": ("编码", "文本文件的编码。auto：根据字节判断 UTF-8、UTF-16、GB18030 等。"),
    "from_adapter": ("从适配器继续", "从一个适配器目录继续训练，沿用它的 LoRA 设置与系统提示词。默认：新的适配器。"),
    "shard": ("分片", "把基座权重分到各进程（FSDP2）。auto：占一块 GPU 的一半以上时使用。"),
    "cuda_graphs": ("CUDA 图", "把短行的前向与反向录成 CUDA 图重放；auto：在有利时使用。"),
    "join_input": ("拼接输入", "指令与非空输入之间放什么：换行，或像 self-llm 教程那样什么都不放。"),
    "answers": (
        "训练哪些回答",
        "多轮对话中训练哪些回答。each：每个回答各成一个样本；all：同一样本中的全部；last：最后一个。"
        "auto：all，模板改写历史时 each。",
    ),
    "max_length": ("最大长度", "最长样本的词元数。默认：模型的窗口。"),
    "too_long": ("过长样本", "过长的样本：丢弃并列出，或截断最后的回答而保留结束词元。"),
    "eval_fraction": ("评估比例", "留作评估的提示词所占比例。"),
    "seed": ("随机种子", "初始化、顺序与划分所用的种子。"),
    "epochs": ("轮数", "训练集的遍数。"),
    "batch_size": ("批大小", "每个优化步的样本数。"),
    "learning_rate": ("学习率", "学习率的最高值。"),
    "lr_scheduler_type": ("学习率调度", "预热之后学习率如何变化：线性下降、余弦，或保持不变。"),
    "warmup_steps": ("预热步数", "学习率从 0 升起所用的优化步数；小于 1 时为占全部步数的比例。"),
    "max_grad_norm": ("梯度范数上限", "梯度按此范数缩小；0 表示不缩放。"),
    "weight_decay": ("权重衰减", "AdamW 的权重衰减。"),
    "rank": ("秩", "LoRA 矩阵的秩 r。"),
    "alpha": ("alpha", "LoRA 的 alpha；更新按 alpha / 秩 缩放，rsLoRA 则按 alpha / √秩。"),
    "dropout": ("dropout", "LoRA 矩阵输入上的 dropout。"),
    "use_rslora": ("rsLoRA", "秩稳定的 LoRA。"),
    "use_dora": ("DoRA", "将权重分解为大小与方向，较慢。"),
    "target_modules": (
        "目标模块",
        "加上 LoRA 矩阵的线性层名称。auto：注意力与前馈的投影层；all-linear：除输出层外的全部。",
    ),
    "resize_embeddings": ("扩展词嵌入", "分词器有而模型没有的词元得到词嵌入，并参与训练。"),
    "precision": ("计算精度", "模型以何种精度计算。auto：机器擅长 bfloat16 时用它，否则用 float32。"),
    "load_in_4bit": ("4 位量化", "以 4 位（NF4，由 bitsandbytes 实现）保存基座权重。"),
    "prefix_sharing": ("共享前缀", "同一步中样本的共同开头只计算一次。auto：模型允许时；on：否则拒绝。"),
    "verify": ("校验", "将第一步与普通算法比较，不一致时改用普通算法。"),
    "row_tokens": ("打包行长度", "最长打包行的词元数。默认：内存放得下的长度。"),
    "recompute": ("重计算", "反向传播时重新计算各层以节省内存。auto：必要时才做。"),
    "eval_steps": ("评估间隔", "两次评估之间的优化步数。默认：一轮。"),
    "early_stopping_patience": ("早停", "损失连续多少次评估没有下降就停止，并保留最好的适配器；0 表示不早停。"),
    "keep": ("保留", "最后写出哪个适配器：最后的，或评估损失最低的。"),
    "save_steps": ("保存间隔", "两次检查点之间的优化步数。"),
    "save_total_limit": ("检查点数", "除最好的以外保留多少个检查点。"),
    "report_to": ("跟踪器", "transformers 支持的跟踪器名称：tensorboard、wandb、mlflow 等。"),
    "report_answers": ("报告中的回答", "报告中对多少个评估提示词给出训练前后的回答。"),
}


def _described(cls: type) -> dict[str, str]:
    """What the docstrings of a class and its bases say of each field (numpydoc's "Parameters")."""
    described: dict[str, str] = {}
    for base in cls.__mro__[:-1]:
        _, _, parameters = inspect.cleandoc(base.__doc__ or "").partition("----------\n")
        for name, text in re.findall(r"^(\w+)\n((?: {4}.*\n?)+)", parameters, re.MULTILINE):
            described.setdefault(name, " ".join(text.split()))
    return described


def _words() -> dict[str, tuple[str, str]]:
    english = _described(TrainOptions)
    words = {}
    for field in fields(TrainOptions):
        label, text = CHINESE[field.name]
        words[f"{field.name}_label"] = field.name.replace("_", " ").capitalize(), label
        words[f"{field.name}_help"] = english[field.name], text
    return words


WORDS = _words()
