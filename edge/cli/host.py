"""What a device does not have: modules of the rooms above `edge`, loaded by name."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from edge.errors import CheckoutError, EngineMissingError

__all__ = ["has_host", "load", "missing_package"]


def has_host() -> bool:
    """Whether the rooms above `edge` are at hand."""
    return _is_here("targets")


def load(module: str, what: str) -> ModuleType:
    """Import a module of any room; ``what`` names in errors what it was wanted for.

    Raises CheckoutError where only the runtime is installed, and EngineMissingError where a
    package of the host is missing.
    """
    room = module.partition(".")[0]
    if room != "edge" and not _is_here(room):
        raise CheckoutError(
            f"{what} needs a checkout of edgepose (what is installed is the runtime of devices): "
            "clone the repository and run `make setup` in it"
        )
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise missing_package(error, what) from None


def missing_package(error: ModuleNotFoundError, what: str) -> Exception:
    """The error that names what installs a package; the same one where it is the kit's own."""
    package = (error.name or "edge").partition(".")[0]
    if package in ("edge", "calibration", "converters", "targets"):
        return error
    return EngineMissingError(f"{what} needs the package {package}, which `make setup` installs")


def _is_here(room: str) -> bool:
    # Some folder of that name where a program was started is found as well, but has no origin.
    found = importlib.util.find_spec(room)
    return found is not None and found.origin is not None
