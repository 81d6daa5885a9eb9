"""How much the library says: `set_verbosity_info()` and so on, by transformers' names, for the logger "minitrans"."""

from __future__ import annotations

import logging
from logging import CRITICAL, DEBUG, ERROR, FATAL, INFO, NOTSET, WARN, WARNING

__all__ = [
    "CRITICAL", "DEBUG", "ERROR", "FATAL", "INFO", "NOTSET", "WARN", "WARNING", "add_handler",
    "disable_default_handler", "disable_progress_bar", "disable_propagation", "enable_default_handler",
    "enable_explicit_format", "enable_progress_bar", "enable_propagation", "get_logger", "get_verbosity",
    "is_progress_bar_enabled", "remove_handler", "reset_format", "set_verbosity", "set_verbosity_debug",
    "set_verbosity_error", "set_verbosity_info", "set_verbosity_warning",
]  # fmt: skip

EXPLICIT = logging.Formatter("[%(levelname)s|%(filename)s:%(lineno)s] %(asctime)s >> %(message)s")
_library = logging.getLogger("minitrans")
_default = logging.StreamHandler()


_said: set[str] = set()


def warn_once(message: str, *values: object, said: set[str] = _said) -> None:
    """Log a warning whose `message` is not among those `said` before: in this process, or of the caller's own."""
    if message not in said:
        said.add(message)
        _library.warning(message, *values)


def get_logger(name: str | None = None) -> logging.Logger:
    """Return a logger, by default the library's."""
    return logging.getLogger(name or "minitrans")


def get_verbosity() -> int:
    """Return the library's level, one of Python's: `logging.WARNING` unless it was set."""
    return _library.getEffectiveLevel()


def set_verbosity(verbosity: int) -> None:
    """Say what is of a level or above, on stderr where the program has set up no logging of its own."""
    _library.setLevel(verbosity)
    if not _library.hasHandlers():
        enable_default_handler()


def set_verbosity_debug() -> None:
    """Say everything."""
    set_verbosity(DEBUG)


def set_verbosity_info() -> None:
    """Say what is done."""
    set_verbosity(INFO)


def set_verbosity_warning() -> None:
    """Say what may go wrong: what holds without being set."""
    set_verbosity(WARNING)


def set_verbosity_error() -> None:
    """Say only what went wrong."""
    set_verbosity(ERROR)


def enable_default_handler() -> None:
    """Write the library's messages to stderr."""
    add_handler(_default)


def disable_default_handler() -> None:
    """Write them no longer to stderr, unless the program's own logging does."""
    remove_handler(_default)


def add_handler(handler: logging.Handler) -> None:
    """Give the library's messages to one more handler."""
    _library.addHandler(handler)


def remove_handler(handler: logging.Handler) -> None:
    """Give them to it no longer."""
    _library.removeHandler(handler)


def enable_propagation() -> None:
    """Let the program's own logging have the library's messages too, which holds without being set."""
    _library.propagate = True


def disable_propagation() -> None:
    """Keep the library's messages from the program's own logging."""
    _library.propagate = False


def enable_explicit_format() -> None:
    """Put the level, the file, the line and the time before each message."""
    for handler in _library.handlers:
        handler.setFormatter(EXPLICIT)


def reset_format() -> None:
    """Write the message alone."""
    for handler in _library.handlers:
        handler.setFormatter(None)


def enable_progress_bar() -> None:
    """Draw the bars of downloads."""
    from huggingface_hub.utils import enable_progress_bars

    enable_progress_bars()


def disable_progress_bar() -> None:
    """Draw no bars of downloads."""
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()


def is_progress_bar_enabled() -> bool:
    """Return whether the bars of downloads are drawn."""
    from huggingface_hub.utils import are_progress_bars_disabled

    return not are_progress_bars_disabled()
