"""What is done with an adapter: measured, answered with, merged.

    options.py      EvaluateOptions: every option of `evaluate`, declared once
    measure.py      measure(): loss, perplexity and stop rate of a model in memory, teacher-forced
    completions.py  greedy_completions(): greedy answers of a model in memory, many at once
    loading.py      a base model and its adapter in memory, outside the engines; what the adapter was trained with
    evaluate.py     evaluate(): a data file -> figures, base and adapter side by side
    merge.py        merge(): adapter and base model -> one ordinary model directory, with a receipt
    writing.py      the directory of a merged model, whole or not at all
    receipt.py      what merging changed: logits and divergence, before against after

`measure` and `greedy_completions` take a model that is already there, so a training run calls them too.
"""
