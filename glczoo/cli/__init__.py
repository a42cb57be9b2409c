"""The `glczoo` command: a verb is a function with its options above it, which imports what it needs when run.

Mistakes of usage end with exit code 2, what a user can mend in one line with exit code 1, and an error of
glczoo itself with exit code 70, its traceback in a file.
"""

import os
import platform
import shlex
import sys
import tempfile
import traceback

import click

from glczoo import __version__
from glczoo.cli.prediction import app, evaluate, map_, predict, report
from glczoo.cli.publishing import export, pull, push, save, verify
from glczoo.cli.region import pack, region
from glczoo.cli.training import bench, crossval, demo, ensemble, fit, forest, recipes, study, train
from glczoo.cli.verbs import CONTEXT, Verbs
from glczoo.errors import GlczooError, of_system

__all__ = ["command", "main"]

ISSUES = "https://github.com/glczoo/glczoo/issues"
INTERNAL_ERROR = 70  # EX_SOFTWARE of sysexits.h
INTERRUPTED = 130  # what a shell reports of a command that Ctrl-C ended

command = Verbs(
    "glczoo",
    help="Which plant species grow at a place: train, evaluate, predict, on any region.",
    subcommand_metavar="VERB …",
    epilog="Each verb explains itself: glczoo VERB --help.",
    context_settings=CONTEXT,
    sections={
        "First": [demo],
        "Regions": [region, pack],
        "Training": [fit, recipes, train, forest, crossval, study, ensemble, bench],
        "Evaluation": [evaluate, report],
        "Prediction": [predict, map_, app],
        "Publishing": [save, push, pull, verify, export],
    },
)
command = click.version_option(__version__, message="%(prog)s %(version)s")(command)


def main(arguments: list[str] | None = None) -> None:
    """Run a verb.

    Args:
        arguments: words after `glczoo`, those of the process if None.

    Raises:
        SystemExit: after `--help`, and after every error.
    """
    words = sys.argv[1:] if arguments is None else arguments
    try:
        code = command.main(list(words), prog_name="glczoo", standalone_mode=False, obj=words)
        sys.stdout.flush()  # a closed pipe shows here, not when the interpreter ends
    except click.Abort:  # click's for KeyboardInterrupt
        print("glczoo: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except BrokenPipeError:  # `glczoo … | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except GlczooError as error:
        sys.exit(f"glczoo: {error}")
    except OSError as error:
        sys.exit(f"glczoo: {of_system(error)}")
    except Exception as error:
        print(_internal_error(error, words), file=sys.stderr)
        sys.exit(INTERNAL_ERROR)
    if code is not None:  # 0 after --help and --version
        sys.exit(code)


def _internal_error(error: Exception, words: list[str]) -> str:
    """Write the traceback to a file, and return the line that names it and where to report it."""
    reason = traceback.format_exception_only(error)[-1].strip().splitlines()[0]
    with tempfile.NamedTemporaryFile(
        "w", prefix="glczoo-error-", suffix=".txt", delete=False, encoding="utf-8"
    ) as file:
        file.write(f"{shlex.join(['glczoo', *words])}\n")
        file.write(f"glczoo {__version__}, Python {platform.python_version()}, {platform.platform()}\n\n")
        file.writelines(traceback.format_exception(error))
    return f"glczoo: an error of glczoo itself, {reason}; please report it at {ISSUES} with {file.name}"
