"""What the user sees on stderr, and the one table from errors to exit codes."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable

import typer

from deconvseg.cli import signals, streams
from deconvseg.errors import DeconvSegError, UsageError, describe, one_line

DONE, SOME_FAILED, NOTHING_DONE = 0, 1, 2
_TYPERS_INTERRUPTED = 130
"""What Typer returns, and no exception, for a KeyboardInterrupt of whatever signal."""
_SECONDS_BETWEEN_LINES = 20


def debugging() -> bool:
    """Whether --debug was given, at whatever place."""
    return "--debug" in sys.argv


def run(app: Callable[..., object]) -> int:
    """Run the Typer app on the command line and return the exit code; an error becomes one line on stderr."""
    try:
        with signals.stopping():
            # Standalone mode would print usage errors in a box of several lines and exit by itself.
            code = app(standalone_mode=False)
            sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        return interrupted()
    except Exception as problem:
        return _exit_code(problem)
    if code == _TYPERS_INTERRUPTED:
        return interrupted()
    return code if isinstance(code, int) else DONE


def interrupted(kept: str = "") -> int:
    """Say that a signal ended the command, and what is `kept`, once; return the exit code."""
    if not signals.request.told:
        signals.request.told = True
        error(f"interrupted{kept and '; '}{kept}")
    return signals.exit_code()


def _exit_code(problem: Exception) -> int:
    """Print what ended a command; the code it exits with."""
    if isinstance(problem, DeconvSegError):
        failure(problem)
        return NOTHING_DONE
    if hasattr(problem, "format_message"):  # click's usage errors, a private class in newer Typer
        message = problem.format_message().rstrip(".")
        if message:  # empty when the help page has just been shown instead
            context = getattr(problem, "ctx", None)
            error(f"{message}; see {context.command_path if context else 'deconvseg'} --help")
        return NOTHING_DONE
    if isinstance(problem, OSError):  # it may be standard output's
        streams.drop(sys.stdout)
    if not isinstance(problem, BrokenPipeError):  # its reader has left, as `| head` does
        failure(problem, f"{describe(problem)}; --debug shows where")
    return SOME_FAILED


def needs_stdin() -> None:
    """Raise a UsageError if standard input, which is to be read, is closed."""
    if "stdin" in streams.missing:
        raise UsageError("standard input is closed; name a file instead of -")


def needs_stdout(wanted: bool = True) -> bool:
    """Raise a UsageError if standard output, where a result is wanted, is closed; returns `wanted`."""
    if wanted and "stdout" in streams.missing:
        raise UsageError("standard output is closed, and the result would go there; open it, or name a file")
    return wanted


def needs_stdout_alone(*, as_json: bool) -> None:
    """Raise a UsageError if standard output cannot take a result in bytes: closed, JSON's, or a terminal."""
    needs_stdout()
    if as_json:
        raise UsageError("--json and the result both go to standard output; name the result's file with -o")
    if sys.stdout.isatty():
        raise UsageError("this result is not for a terminal; name its file with -o, or send it on with >")


def failure(problem: Exception, line: str | None = None) -> None:
    """Print what went wrong as one line, `line` if that is given; with --debug the traceback."""
    if debugging():
        traceback.print_exception(problem)
    error(line or describe(problem))


def error(message: str) -> None:
    """Print one error line on stderr."""
    say(f"error: {message}")


def say(message: str) -> None:
    """Print one line on stderr, which Rich puts above the progress bar if there is one."""
    try:
        print(one_line(message), file=sys.stderr, flush=True)
    except OSError:  # its disk is full, or nobody reads it any more: messages alone are lost
        streams.drop(sys.stderr)


class Progress:
    """A bar on stderr for a `with` block, if wanted; where stderr is no terminal, a line now and then.

    `what` is said before it. Without `lines` there is the bar or nothing.
    """

    def __init__(self, total: int, *, wanted: bool, what: str = "", lines: bool = True) -> None:
        self.total, self.done, self.what = total, 0, what
        self.visible = wanted and total > 1 and sys.stderr.isatty()
        self._lines, self._last_line = lines and wanted and not self.visible, time.monotonic()

    def __enter__(self) -> Progress:
        if self.visible:
            from rich import progress
            from rich.console import Console

            self._bar = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(bar_width=20),
                progress.MofNCompleteColumn(),
                progress.TimeRemainingColumn(compact=True),
                progress.TextColumn("left {task.fields[text]}"),
                console=Console(stderr=True, soft_wrap=True),
                transient=True,
            )
            self._task = self._bar.add_task(self.what, total=self.total, text="")
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.visible:
            self._bar.stop()

    def step(self, text: str = "") -> None:
        """One more of the total is done, and this is to be said of it."""
        self.move(self.done + 1, text)

    def move(self, done: int, text: str = "") -> None:
        """So many of the total are done, and this is to be said of it."""
        self.done = done
        if self.visible:
            self._bar.update(self._task, completed=done, text=text)
        elif self._lines and time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            say(f"{self.what} [{done}/{self.total}] {text}".strip())
