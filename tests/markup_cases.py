r"""What a model may write, and what a reader is to see of it: checked as text, and in a browser.

`written` is the Markdown for Streamlit. Of what is drawn: `text` is all that is visible, formulas apart; `strong`, `em`
and `code` the parts so marked, `maths` counts the formulas, `links` are the addresses that can be followed.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    said: str
    written: str
    text: str | None = None  # None: as it was said
    strong: tuple[str, ...] = ()
    em: tuple[str, ...] = ()
    code: tuple[str, ...] = ()
    maths: int = 0
    links: tuple[str, ...] = ()
    tags: str = ""  # a selector that must match something


CASES = {
    "plain": Case("Hello 你好，世界。", "Hello 你好，世界。"),
    "chinese bold": Case(
        "这是**“重点”**内容，**注意：**请看。",
        "这&#26159;**“重点”**&#20869;容，**注意：**&#35831;看。",
        "这是“重点”内容，注意：请看。",
        ("“重点”", "注意："),
    ),
    "korean bold": Case(
        "**스크립트(script)**라고", "**스크립트(script)**&#46972;고", "스크립트(script)라고", ("스크립트(script)",)
    ),
    "bold in brackets": Case("「**重点。**」这样", "「**重点。**」这样", "「重点。」这样", ("重点。",)),
    "bold and leaning": Case("***both*** *one*", "_**both**_ _one_", "both one", ("both",), ("both", "one")),
    "chinese bold and leaning": Case("是***“两”***者", "&#26159;_**“两”**_&#32773;", "是“两”者", ("“两”",), ("“两”",)),
    "bold with leaning in it": Case("**a *b* c**", "**a _b_ c**", "a b c", ("a b c",), ("b",)),
    "inside a word": Case(
        "un*frigging*believable", "u&#110;_frigging_&#98;elievable", "unfriggingbelievable", (), ("frigging",)
    ),
    "two in a row": Case("*a****b***", "_a_:color[]_**b**_", "ab", ("b",), ("a", "b")),
    "underscores": Case("snake_case_name __init__", r"snake\_case\_name **init**", "snake_case_name init", ("init",)),
    "struck through": Case("~~no~~ yes", "~~no~~ yes", "no yes", tags="del"),
    "water": Case("H~2~O is wet", r"H\~2\~O is wet"),
    "bold in a list": Case("- **“甲”**乙\n- 丙", "- **“甲”**&#20057;\n- 丙", "“甲”乙 丙", ("“甲”",), tags="ul li"),
    "bold in a table": Case(
        "| 名 | 值 |\n|---|--:|\n| **“甲”**乙 | 1 |",
        "| 名 | 值 |\n|---|--:|\n| **“甲”**&#20057; | 1 |",
        "名 值 “甲”乙 1",
        ("“甲”",),
        tags="table",
    ),
    "bold in code": Case("`**“甲”**乙`", "`**“甲”**乙`", "**“甲”**乙", code=("**“甲”**乙",)),
    "a span with a stroke in a table": Case(
        "| a |\n|---|\n| `x \\| y` |", "| a |\n|---|\n| `x \\| y` |", "a x | y", code=("x | y",), tags="table"
    ),
    "unfinished bold": Case("a **b", r"a \*\*b"),
    "coloured": Case(":red[x] and :blue-background[y]", r"&#58;red\[x\] and &#58;blue-background\[y\]"),
    "small and badges": Case(":small[x] :green-badge[y]", r"&#58;small\[x\] &#58;green-badge\[y\]"),
    "an icon": Case("an :material/star: icon", "an :color[&#58;]material/star: icon"),
    "a shortcode": Case("so :smile: it", "so :color[&#58;]smile: it"),
    "thumbs": Case("well :+1: done", "well :color[&#58;]+1: done"),
    "the logo": Case("a :streamlit: app", "a :color[&#58;]streamlit: app"),
    "a directive on its line": Case("::note[x]{y=z}", r"&#58;&#58;note\[x\]\{y=z\}"),
    "directive fences": Case(":::tip\nx\n:::", "&#58;&#58;&#58;tip\\\nx\\\n&#58;&#58;&#58;", ":::tip x :::"),
    "arrows": Case("a -> b <- c <-> d", r"a -:color[\>] b \<:color[-] c \<:color[-]\> d"),
    "comparisons": Case("a >= b <= c ~= d -- e", r"a \>:color[=] b \<:color[=] c \~:color[=] d -:color[-] e"),
    "clock times": Case("at 10:30:15 and a:b", "at 10:color[&#58;]30&#58;15 and a&#58;b"),
    "html": Case("<b>x</b> <!-- y --> &lt;", r"\<b\>x\</b\> \<!-- y --\> \<", "<b>x</b> <!-- y --> <"),
    "an image as html": Case(
        "<img src=http://elsewhere.invalid/1.png>", r"\<img src=http:color[&#58;]//elsewhere.invalid/1.png\>"
    ),
    "an image": Case(
        "![cat](http://elsewhere.invalid/2.png)",
        "[cat](<http://elsewhere.invalid/2.png>)",
        "cat",
        links=("http://elsewhere.invalid/2.png",),
    ),
    "an image by reference": Case(
        "![cat][1]\n\n[1]: http://elsewhere.invalid/3.png",
        "[cat](<http://elsewhere.invalid/3.png>)",
        "cat",
        links=("http://elsewhere.invalid/3.png",),
    ),
    "an image in a link": Case(
        "[![cat](http://elsewhere.invalid/4.png)](https://example.org)",
        "[cat](<https://example.org>)",
        "cat",
        links=("https://example.org",),
    ),
    "an image within": Case("![x](data:image/png;base64,AAAA)", r"!\[x\](data&#58;image/png;base64,AAAA)"),
    "a link": Case(
        "see [this](https://example.org/?a=1&b=2)",
        "see [this](<https://example.org/?a=1&amp;b=2>)",
        "see this",
        links=("https://example.org/?a=1&b=2",),
    ),
    "a link after a cry": Case("oh!\\[x]", r"oh!\[x\]", "oh![x]"),
    "javascript": Case("[x](javascript:alert(1))", r"\[x\](javascript&#58;alert(1))"),
    "a link into the page": Case("[x](/models)", r"\[x\](/models)"),
    "bare addresses": Case(
        "https://a.example www.b.example me@c.example",
        "https:color[&#58;]//a.example www:color[.]b.example me:color[@]c.example",
    ),
    "an address in angles": Case(
        "<https://a.example>",
        "[https:color[&#58;]//a.example](<https://a.example>)",
        "https://a.example",
        links=("https://a.example",),
    ),
    "maths in dollars": Case("so $a^2$ is", "so $a^2$ is", "so is", maths=1),
    "maths in parentheses": Case(r"so \(a_1 * b_1 * c\) is", "so $a_1 * b_1 * c$ is", "so is", maths=1),
    "prices": Case("$5 or $6, costs $5/$6", r"\$5 or \$6, costs \$5/\$6"),
    "displayed": Case("\\[\na\n- b\n= c\n\\]", "$$\na\n- b\n= c\n$$", "", maths=1, tags=".katex-display"),
    "displayed in a line": Case("so $$-x$$ is", "so\n$$\n-x\n$$\nis", "so is", maths=1, tags=".katex-display"),
    "maths in bold": Case("**so $x$ is**", "**so $x$ is**", "so is", ("so  is",), maths=1),
    "formulas in a row": Case("$a$$b$ and $c$", r"$a$:color[]$b$ and $c$", "and", maths=3),
    "maths beside code": Case("`$a$` and \\$5", r"`$a$` and \$5", "$a$ and $5", code=("$a$",)),
    "half a formula": Case("$$\nx\n- y", "\\$\\$\\\nx\\\n\\- y", "$$ x - y"),
    "code": Case(
        "```python\nprint(':red[x]', \"**a**\")  # $x$\n\n\tb\n```",
        "```python\nprint(':red[x]', \"**a**\")  # $x$\n\n\tb\n```",
        "print(':red[x]', \"**a**\")  # $x$ b",
        code=("print(':red[x]', \"**a**\")  # $x$\n\n\tb",),
    ),
    "half a fence": Case("```\necho $HOME", "```\necho $HOME\n```", "echo $HOME", code=("echo $HOME",)),
    "fences in a fence": Case("````\n```\nx\n```\n````", "````\n```\nx\n```\n````", "``` x ```", code=("```\nx\n```",)),
    "a diagram": Case("```mermaid\ngraph TD\n```", "```\ngraph TD\n```", "graph TD", code=("graph TD",)),
    "half a list": Case("a\n\n-", "a\n\n\\-", "a -"),
    "half a numbered list": Case("1.", "1\\."),
    "half a heading": Case("##", "\\##"),
    "half a mark": Case("***", r"\*\*\*"),
    "a list that goes on": Case("- a\n-", "- a\n- ", "a", tags="li:nth-child(2)"),
    "a list with code": Case(
        "1. a\n\n   ```\n   x\n\n   y\n   ```\n2. b",
        "1. a\n\n   ```\n   x\n\n   y\n   ```\n\n2. b",
        "a x y b",
        code=("x\n\ny",),
        tags="ol li pre",
    ),
    "lists in lists": Case("- a\n  1. b\n     - c", "- a\n  1. b\n     - c", "a b c", tags="ul ol ul"),
    "a heading": Case("# On $x$ and C#", r"# On $x$ and C\#", "On and C#", maths=1, tags="h1"),
    "no heading": Case("text\n---\nmore", "text\n\n___\n\nmore", "text more", tags="hr"),
    "a quotation": Case("> a\n> b", "> a\\\n> b", "a b", tags="blockquote"),
    "lines": Case("roses\nviolets", "roses\\\nviolets", "roses violets", tags="br"),
    "no list": Case(r"1\. a", r"1\. a", "1. a"),
    "a task": Case("- [x] done", r"- \[x\] done", "[x] done"),
}
