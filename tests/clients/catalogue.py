"""Which clients are run against the server, in which environment, and the table of what came of it.

`python -m tests.clients.catalogue` writes the table into docs/serving.md, from the results that the tests left.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ENVIRONMENTS = ROOT / ".clients"
DOCS = ROOT / "docs" / "serving.md"
TABLE = re.compile(r"(?<=<!-- clients -->\n).*?(?=<!-- end of clients -->)", re.DOTALL)


@dataclass(frozen=True)
class Client:
    """A script under scripts/, the package that it runs, and the file that pins the package's version."""

    script: str
    package: str
    pins: str = "requirements.txt"

    @property
    def file(self) -> Path:
        """The script."""
        return HERE / "scripts" / self.script

    @property
    def version(self) -> str:
        """The package's pinned version."""
        text = (HERE / self.pins).read_text(encoding="utf-8")
        if self.pins == "package.json":
            return json.loads(text)["dependencies"][self.package]
        [version] = re.findall(rf"^{re.escape(self.package)}(?:\[\w+\])?==(\S+)$", text, re.MULTILINE)
        return version

    @property
    def interpreter(self) -> Path:
        """What runs the script; it is there after `make clients`."""
        if self.pins == "package.json":
            return ENVIRONMENTS / "python" / "bin" / "node"
        return ENVIRONMENTS / self.pins.replace("requirements", "python").removesuffix(".txt") / "bin" / "python"

    @property
    def result(self) -> Path:
        """Where the last run's result is kept: {"client", "version", "ran": {check: "ok" or what went wrong}}."""
        return ENVIRONMENTS / f"{self.script}.json"

    def row(self) -> str:
        """The last run as a row of the table."""
        result = json.loads(self.result.read_text(encoding="utf-8"))
        ran = {name.replace("_", " "): outcome for name, outcome in result["ran"].items()}
        failed = "; ".join(f"{name}: {outcome}" for name, outcome in ran.items() if outcome != "ok")
        failed = " ".join(failed.replace("|", "\\|").split())
        return (
            f"| `{self.script}` | {result['client']} | {result['version']} | {', '.join(ran)} | {failed or 'works'} |"
        )


CLIENTS = (
    Client("openai_chat.py", "openai"),
    Client("openai_tools.py", "openai"),
    Client("openai_responses.py", "openai"),
    Client("openai_items.py", "openai"),
    Client("agents_sdk.py", "openai-agents"),
    Client("anthropic_sdk.py", "anthropic"),
    Client("ollama_sdk.py", "ollama"),
    Client("litellm_sdk.py", "litellm"),
    Client("instructor_sdk.py", "instructor", "requirements-openai2.txt"),
    Client("pydantic_ai_sdk.py", "pydantic-ai-slim"),
    Client("langchain_sdk.py", "langchain-openai"),
    Client("llama_index_sdk.py", "llama-index-llms-openai-like", "requirements-openai2.txt"),
    Client("haystack_sdk.py", "haystack-ai"),
    Client("dspy_sdk.py", "dspy"),
    Client("llm_cli.py", "llm"),
    Client("openai_node.mjs", "openai", "package.json"),
    Client("ai_node.mjs", "ai", "package.json"),
)


def write_table() -> None:
    """Put what the last runs gave into the docs."""
    rows = [
        "| script | client | version | what was run | result |",
        "|---|---|---|---|---|",
        *(c.row() for c in CLIENTS),
    ]
    table = "\n".join(rows) + "\n"
    DOCS.write_text(TABLE.sub(lambda _: table, DOCS.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    write_table()
