"""Well-known instruct models that Arriero knows by a name of its own, and what one wants to know before fetching one.

A row is: name · id on ModelScope (= where it is the same as on Hugging Face, - where none is known) · id on Hugging
Face · parameters in billions · context in tokens, as the model's config has it · licence.

The pairs of ids are those of ms-swift's registry of models and of the models' own pages; a pair has the same weights.
"""

from __future__ import annotations

MODELS = """
llama-3.1-8b-instruct  LLM-Research/Meta-Llama-3.1-8B-Instruct  meta-llama/Llama-3.1-8B-Instruct  8.03 131072 llama3.1
llama-3.1-70b-instruct LLM-Research/Meta-Llama-3.1-70B-Instruct meta-llama/Llama-3.1-70B-Instruct 70.6 131072 llama3.1
llama-3.2-1b-instruct  LLM-Research/Llama-3.2-1B-Instruct       meta-llama/Llama-3.2-1B-Instruct  1.24 131072 llama3.2
llama-3.2-3b-instruct  LLM-Research/Llama-3.2-3B-Instruct       meta-llama/Llama-3.2-3B-Instruct  3.21 131072 llama3.2
llama-3.3-70b-instruct LLM-Research/Llama-3.3-70B-Instruct      meta-llama/Llama-3.3-70B-Instruct 70.6 131072 llama3.3

qwen2.5-0.5b-instruct = Qwen/Qwen2.5-0.5B-Instruct 0.494 32768 apache-2.0
qwen2.5-1.5b-instruct = Qwen/Qwen2.5-1.5B-Instruct 1.54  32768 apache-2.0
qwen2.5-3b-instruct   = Qwen/Qwen2.5-3B-Instruct   3.09  32768 qwen-research
qwen2.5-7b-instruct   = Qwen/Qwen2.5-7B-Instruct   7.62  32768 apache-2.0
qwen2.5-14b-instruct  = Qwen/Qwen2.5-14B-Instruct  14.8  32768 apache-2.0
qwen2.5-32b-instruct  = Qwen/Qwen2.5-32B-Instruct  32.8  32768 apache-2.0
qwen2.5-72b-instruct  = Qwen/Qwen2.5-72B-Instruct  72.7  32768 qwen

qwen3-0.6b             = Qwen/Qwen3-0.6B             0.752 40960  apache-2.0
qwen3-1.7b             = Qwen/Qwen3-1.7B             2.03  40960  apache-2.0
qwen3-4b               = Qwen/Qwen3-4B               4.02  40960  apache-2.0
qwen3-4b-instruct-2507 = Qwen/Qwen3-4B-Instruct-2507 4.02  262144 apache-2.0
qwen3-8b               = Qwen/Qwen3-8B               8.19  40960  apache-2.0
qwen3-14b              = Qwen/Qwen3-14B              14.8  40960  apache-2.0
qwen3-32b              = Qwen/Qwen3-32B              32.8  40960  apache-2.0

mistral-7b-instruct LLM-Research/Mistral-7B-Instruct-v0.3    mistralai/Mistral-7B-Instruct-v0.3   7.25 32768  apache-2.0
mistral-nemo        AI-ModelScope/Mistral-Nemo-Instruct-2407 mistralai/Mistral-Nemo-Instruct-2407 12.2 131072 apache-2.0
mistral-small-24b   = mistralai/Mistral-Small-24B-Instruct-2501                                   23.6 32768  apache-2.0

gemma-2-2b-it  LLM-Research/gemma-2-2b-it  google/gemma-2-2b-it  2.61 8192  gemma
gemma-2-9b-it  LLM-Research/gemma-2-9b-it  google/gemma-2-9b-it  9.24 8192  gemma
gemma-2-27b-it LLM-Research/gemma-2-27b-it google/gemma-2-27b-it 27.2 8192  gemma
gemma-3-1b-it  LLM-Research/gemma-3-1b-it  google/gemma-3-1b-it  1.00 32768 gemma

phi-3.5-mini-instruct LLM-Research/Phi-3.5-mini-instruct microsoft/Phi-3.5-mini-instruct 3.82 131072 mit
phi-4-mini-instruct   LLM-Research/Phi-4-mini-instruct   microsoft/Phi-4-mini-instruct   3.84 131072 mit
phi-4                 LLM-Research/phi-4                 microsoft/phi-4                 14.7 16384  mit

smollm2-360m-instruct = HuggingFaceTB/SmolLM2-360M-Instruct 0.362 8192  apache-2.0
smollm2-1.7b-instruct - HuggingFaceTB/SmolLM2-1.7B-Instruct 1.71  8192  apache-2.0
smollm3-3b            = HuggingFaceTB/SmolLM3-3B            3.08  65536 apache-2.0

deepseek-r1-distill-qwen-1.5b = deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B 1.78 131072 mit
deepseek-r1-distill-qwen-7b   = deepseek-ai/DeepSeek-R1-Distill-Qwen-7B   7.62 131072 mit
deepseek-r1-distill-qwen-14b  = deepseek-ai/DeepSeek-R1-Distill-Qwen-14B  14.8 131072 mit
deepseek-r1-distill-qwen-32b  = deepseek-ai/DeepSeek-R1-Distill-Qwen-32B  32.8 131072 mit
deepseek-r1-distill-llama-8b  = deepseek-ai/DeepSeek-R1-Distill-Llama-8B  8.03 131072 mit

glm-4-9b-0414  ZhipuAI/GLM-4-9B-0414  zai-org/GLM-4-9B-0414  9.40 32768 mit
glm-z1-9b-0414 ZhipuAI/GLM-Z1-9B-0414 zai-org/GLM-Z1-9B-0414 9.40 32768 mit
glm-4-32b-0414 ZhipuAI/GLM-4-32B-0414 zai-org/GLM-4-32B-0414 32.6 32768 mit
"""
TO_ACCEPT = ("llama", "gemma")  # Hugging Face wants licences that begin so accepted on the model's page
