"""Standard input, output and error of the command line, wherever they lead.

They may be closed, or lead to a full disk, a terminal, or a reader that has gone; and what is
printed may hold names from somebody else's model or folder.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import NoReturn, TextIO

from htdg.io.files import OutputError

#: Characters that terminals act on, as they are shown instead: control characters but for ends of
#: lines and tabs, and those that turn the direction of writing.
HARMLESS = {
    code: f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
    for code in (*range(32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
    if chr(code) not in "\n\t"
}


class HarmlessText(io.TextIOWrapper):
    """Text whose control characters are shown, not acted on.

    Only the carriage return that a write begins with is ours, of a progress bar.
    """

    def write(self, text: str) -> int:
        """Write ``text``, such that a terminal shows it as it is."""
        begins = text.startswith("\r")
        super().write("\r" * begins + text[begins:].translate(HARMLESS))
        return len(text)


class _Output(io.FileIO):
    """Standard output: OutputError if it cannot be written, since the results go there."""

    def write(self, content: bytes) -> int | None:  # type: ignore[override]
        try:
            return super().write(content)
        except BrokenPipeError:  # the command line ends quietly
            raise
        except OSError as error:
            raise OutputError(f"Standard output cannot be written: {error.strerror}.") from None


class _Messages(io.FileIO):
    """Standard error: a message that cannot be written is lost, and the work goes on."""

    def write(self, content: bytes) -> int | None:  # type: ignore[override]
        try:
            return super().write(content)
        except BrokenPipeError:
            raise
        except OSError:
            return len(content)


def prepare_streams() -> None:
    """Have this process, which is the command line's own, print so."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:  # closed: the next file to be opened would take its place
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdout = _text(_Output(1, "w", closefd=False), sys.stdout)
    sys.stderr = _text(_Messages(2, "w", closefd=False), sys.stderr)


def _text(raw: io.FileIO, replaced: TextIO | None) -> HarmlessText:
    encoding = getattr(replaced, "encoding", None) or "utf-8"
    return HarmlessText(
        io.BufferedWriter(raw),
        encoding=encoding,
        errors="backslashreplace",  # whatever the names of files are
        line_buffering=raw.isatty() or raw.fileno() == 2,
    )


def settle_output() -> None:
    """Print what is left; if that cannot be, let nothing of it fail again as Python ends."""
    try:
        sys.stdout.flush()
    except (OSError, OutputError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def stop_quietly(*_: object) -> NoReturn:
    """End the process as Ctrl-C does, while nothing has been begun: for ``signal.signal``."""
    with contextlib.suppress(OSError):
        os.write(2, b"\nhtdg: stopped.\n")
    os._exit(130)
