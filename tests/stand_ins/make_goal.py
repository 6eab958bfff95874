"""How a program behind a `make` goal ends: a missing thing or a time-out is one line."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable
from typing import NoReturn

import pytest

from edge.errors import EdgeError

__all__ = ["end_with"]


def end_with(name: str, main: Callable[[], int | None]) -> NoReturn:
    """Run ``main`` and exit with its answer; what a user can mend is said without a traceback."""
    try:
        sys.exit(main())
    except (EdgeError, pytest.skip.Exception) as error:
        # What tests skip for, a goal cannot do without.
        sys.exit(f"{name}: {error}")
    except ModuleNotFoundError as error:
        sys.exit(f"{name}: {error.name} is not installed: run `make setup`")
    except subprocess.TimeoutExpired as error:
        argv = error.cmd if isinstance(error.cmd, str) else shlex.join(map(str, error.cmd[:4]))
        sys.exit(
            f"{name}: `{argv} ...` did not end within {error.timeout:g} s; try again when the "
            "machine has less to do"
        )
    except KeyboardInterrupt:
        sys.exit(130)
