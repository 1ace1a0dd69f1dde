"""The `irpo` command: its words, and how it ends. `irpo --help` never loads torch."""

from __future__ import annotations

import sys
from typing import Annotated, Any, NoReturn

import typer

from irpo import __version__, disk, meeting, stopping
from irpo.commands import about, data, measuring, serving, sharing, training, using
from irpo.types import UserError, one_line, printable

app = typer.Typer(
    name="irpo",
    help="Fine-tune language models into listwise rerankers, measure them, and use them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_Usage: type[Any] = typer.BadParameter.__mro__[1]  # a mistake in a command's words; typer gives it no name of its own


def main() -> None:
    """The console script: a user's mistake is one line on stderr and exit code 2; anything else keeps its traceback."""
    meeting.end_with_launcher()
    meeting.quieten()
    try:
        with stopping.handled():
            code = app(prog_name="irpo", standalone_mode=False) or 0  # also as `python -m irpo`
        sys.exit(code)
    except stopping.Stopped as stop:
        meeting.leave_after_a_death()
        stopping.farewell(stop.line)
        sys.exit(stop.code)
    except UserError as error:
        _mistaken(str(error))
    except _Usage as error:
        if len(sys.argv) > 1:
            where = error.ctx.command_path if error.ctx else "irpo"
            _mistaken(f"{error.format_message().rstrip('.')} (`{where} --help` says what there is)")
        typer.echo(error.format_message(), err=True)  # no word at all: the help
        sys.exit(2)
    except OSError as error:
        # A place that is full, closed to this user or of too long a name: the user's to mend, wherever it was met.
        if (told := disk.told(error)) is None:
            raise
        _mistaken(told)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        meeting.give_up(error)
        raise


def _mistaken(text: str) -> NoReturn:
    meeting.speak(f"error: {printable(one_line(text))}")
    sys.exit(2)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"irpo {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    pass


# As `irpo --help` lists them. Typer reads a command's flags from its signature, its help from its docstring.
for _command, _name in (
    (about.guide, None),
    (about.init, None),
    (data.prepare, None),
    (data.mine, None),
    (training.train, None),
    (training.estimate, None),
    (measuring.evaluate, None),
    (measuring.compare, None),
    (measuring.report, None),
    (using.rank, None),
    (serving.serve, None),
    (measuring.diff, None),
    (sharing.export, None),
    (sharing.push, None),
    (about.list_, "list"),
    (about.doctor, None),
    (training.quickstart, None),
):
    app.command(_name)(_command)
