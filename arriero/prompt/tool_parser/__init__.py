"""The text of an answer -> text and calls of tools, a piece at a time.

    reader.py      CallReader: what is text, what is a call, and what belongs to neither
    opening.py     how a call begins, in the form of each family of models
    arguments.py   the arguments of one call -> JSON text, as they come

Read are the forms that these models write:

    {"name": …, "parameters": {…}}                  Llama 3.1 and later, at the beginning of an answer or after
                                                    <|python_tag|>; several with ";" or blanks between
    <|python_tag|>brave_search.call(query="…")      its built-in tools
    <function=name>{…}</function>                   its other form for custom tools
    [name(key="…"), …]                              Llama 3.2 and 4, Gemma 3 as its guide asks; a whole answer
    <tool_call>\\n{"name": …, "arguments": …}\\n</tool_call>     Hermes, Qwen 2.5 and 3, SmolLM (also a list of them)
    <tool_call>\\n<function=name>\\n<parameter=key>\\n…\\n</parameter>\\n</function>\\n</tool_call>     Qwen3-Coder
    [TOOL_CALLS] [{"name": …, "arguments": {…}, "id": …}, …]    Mistral before its tokenizer 11
    [TOOL_CALLS]name[CALL_ID]…[ARGS]{…}             Mistral since; id and [ARGS] may be missing
    ```tool_code\\nname(key="…")\\n```              Gemma 2 and 3
    <start_function_call>call:name{key:<escape>…<escape>}<end_function_call>     FunctionGemma
    <|tool_call>call:name{key:<|"|>…<|"|>,n:1}<tool_call|>     Gemma 4

Sources: https://www.llama.com/docs/model-cards-and-prompt-formats/llama3_1/,
https://github.com/NousResearch/Hermes-Function-Calling, https://github.com/mistralai/mistral-common,
https://ai.google.dev/gemma/docs/functiongemma and the models' chat templates. What is no call of a known tool after
all comes out as the text it is.
"""

from arriero.prompt.tool_parser.opening import MARKERS as MARKERS
from arriero.prompt.tool_parser.reader import CallReader as CallReader
from arriero.prompt.tool_parser.reader import Part as Part
