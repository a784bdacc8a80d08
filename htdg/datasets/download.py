"""Downloading a file, checked by SHA-256, with a progress bar and a timeout."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from htdg.datasets.base import DatasetError
from htdg.runtime.progress import ProgressBar, suitable_look

#: Seconds without a byte after which a server counts as gone.
TIMEOUT = 30.0


class MegabyteBar:
    """A progress bar counting megabytes, with the methods that pooch and ``archive`` call."""

    def __init__(self, label: str, total: int = 0) -> None:
        """A bar called ``label``; ``total`` is in bytes."""
        self.label, self.total = f"{label}, MB", total
        self._bytes = 0
        self._bar: ProgressBar | None = None

    def update(self, size: int) -> None:
        """Count ``size`` more bytes."""
        if self._bar is None:
            self._bar = ProgressBar(suitable_look(), self.label, max(1, round(self.total / 1e6)))
        self._bytes = min(self._bytes + size, self.total)
        steps = round(self._bytes / 1e6) - self._bar.done
        if steps > 0:
            self._bar.advance(steps)

    def reset(self) -> None:
        """Pooch announces its last report, which repeats the total."""
        self._bytes = 0

    def close(self) -> None:
        """Leave the line."""
        if self._bar is not None:
            self._bar.__exit__(None, None, None)


def download(
    urls: Sequence[str],
    path: Path,
    sha256: str,
    timeout: float | None = None,
    needed: Sequence[str] = (),
) -> None:
    """Fetch a file from the first of several addresses that has it.

    The file appears under its name only when it is complete and its checksum is right; a download
    that breaks off leaves nothing behind and starts from the beginning next time.

    Args:
        urls: addresses of the same file.
        path: where the file goes.
        sha256: its checksum, in hexadecimal.
        timeout: seconds to wait for a server, and for each next byte; by default ``TIMEOUT``.
        needed: names of all the files to get by hand, for the message; by default this one.

    Raises:
        DatasetError: no address has the file, its checksum is wrong, or it cannot be written.
    """
    import pooch  # imported here since most uses of the package need no network

    timeout = TIMEOUT if timeout is None else timeout
    pooch.get_logger().setLevel("ERROR")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=path.parent) as folder:
            for url in urls:
                downloader = pooch.HTTPDownloader(
                    progressbar=MegabyteBar(path.name), chunk_size=2**16, timeout=timeout
                )
                try:
                    fetched = pooch.retrieve(
                        url, f"sha256:{sha256}", path.name, folder, None, downloader
                    )
                except (OSError, ValueError) as error:
                    reason = _reason(error, url, timeout)
                else:
                    Path(fetched).chmod(0o644)  # pooch makes it readable by its owner only
                    Path(fetched).replace(path)
                    return
    except OSError as error:
        raise DatasetError(f"{path} cannot be written ({error.strerror or error}).") from None
    place = urls[-1].removesuffix(path.name)
    raise DatasetError(
        f"{path.name} could not be downloaded ({reason}): get {', '.join(needed or [path.name])} "
        f"from {place} and put what you got into the folder {path.parent} by hand."
    )


def _reason(error: Exception, url: str, timeout: float) -> str:
    """Why a download failed, in a few words (the libraries' own run to several lines)."""
    import requests

    host = urlsplit(url).netloc
    # requests reports a timeout in the middle of the content as a broken connection.
    if isinstance(error, requests.exceptions.Timeout) or "Read timed out" in str(error):
        return f"{host} did not answer within {timeout:g} seconds"
    if isinstance(error, requests.exceptions.HTTPError) and error.response is not None:
        return f"{host} answered {error.response.status_code}"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return f"the transfer from {host} broke off"
    if isinstance(error, requests.exceptions.RequestException):
        return f"no connection to {host}"
    if isinstance(error, ValueError):
        return f"what {host} sent has another SHA-256 than was published"
    return str(error)
