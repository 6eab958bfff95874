"""One command is read, loaded and run; what goes wrong is one line on stderr."""

from __future__ import annotations

import argparse
import difflib
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

import edge
from edge.cli.commands import COMMANDS, OLD_OPTIONS, Command
from edge.cli.host import has_host, load, missing_package
from edge.errors import EdgeError
from edge.printable import harmless_streams
from edge.terminal import say

__all__ = ["command_parser", "console", "main", "parse"]


def console() -> NoReturn:
    """Entry point of the ``edge`` command."""
    sys.exit(main())


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command: 0 it worked, 1 it did not (one clear line on stderr), 2 wrong usage."""
    words = list(sys.argv[1:] if argv is None else argv)
    with harmless_streams():
        # An ended session and `kill` clean up like Ctrl-C does.
        previous = signal.signal(signal.SIGTERM, _interrupt)
        try:
            return _run(words)
        except EdgeError as error:
            say(f"edge: {error}")
        except BrokenPipeError:
            # The reader of our output left; there is nobody to tell.
            sys.stderr.close()
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            say(f"edge: {where}{error.strerror or error}")
        except KeyboardInterrupt:
            say("edge: interrupted; nothing half-written was left")
            return 130
        finally:
            signal.signal(signal.SIGTERM, previous)
        return 1


def _interrupt(number: int, frame: object) -> NoReturn:
    del number, frame
    raise KeyboardInterrupt


def _run(words: list[str]) -> int:
    arguments = parse(words)
    try:
        return int(arguments.run(arguments) or 0)
    except ModuleNotFoundError as error:
        raise missing_package(error, f"`edge {words[0]}`") from None


def parse(words: list[str]) -> argparse.Namespace:
    """The options of a command line; SystemExit 2 where they are none, 0 after a help text.

    ``run(arguments)`` of what comes back runs the command.
    """
    if words[:1] == ["help"]:
        words = [*words[1:2], "--help"]
    if not words:
        _top_parser().print_help(sys.stderr)
        sys.exit(2)
    name = words[0]
    if name == "version" or name.startswith("-"):
        _top_parser().parse_args(["--version"] if name == "version" else words)
    command = next((one for one in COMMANDS if one.name == name), None)
    if command is None:
        near = difflib.get_close_matches(name, [one.name for one in COMMANDS], 1)
        hint = f"did you mean `edge {near[0]}`?" if near else "`edge --help` lists the commands"
        _top_parser().error(f"there is no command {name!r}; {hint}")
    return command_parser(command).parse_args([_renamed(name, word) for word in words[1:]])


def _renamed(command: str, word: str) -> str:
    """An option's name of today; a note says so where it was another."""
    option, sign, value = word.partition("=")
    new = OLD_OPTIONS.get(command, {}).get(option)
    if new is None:
        return word
    say(f"note: {option} is called {new} now")
    return f"{new}{sign}{value}"


def command_parser(command: Command) -> argparse.ArgumentParser:
    """The parser of one command, with ``run`` as what its arguments are given to."""
    module = load(command.module, f"`edge {command.name}`")
    parser = argparse.ArgumentParser(
        prog=f"edge {command.name}",
        description=command.text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=module.run)
    module.add(parser)
    return parser


def _top_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edge",
        usage="edge COMMAND [OPTION ...]",
        description="Verified conversions of pose models, and a numpy-only runtime for them.",
        epilog=_listing(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"edgepose {edge.__version__}")
    return parser


def _listing() -> str:
    """The commands by task; where only the runtime is installed, those that it has."""
    here = [one for one in COMMANDS if has_host() or one.module.startswith("edge.")]
    lines = []
    for task in dict.fromkeys(one.task for one in here):
        lines += ["", f"{task}:"]
        lines += [f"  {one.name:<12} {one.text}" for one in here if one.task == task]
    if len(here) < len(COMMANDS):
        lines += ["", f"{len(COMMANDS) - len(here)} more commands come with a checkout."]
    lines += [
        "",
        "edge help COMMAND shows the options of one. To begin with:",
        "  edge convert --target android",
        "  edge run --model build/android-sd865/rtmpose-t-demo-ncnn-fp16 PHOTO --out build/run",
    ]
    return "\n".join(lines[1:])
