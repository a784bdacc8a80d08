"""``benchmarks/README.md``, each part of which another benchmark writes."""

from __future__ import annotations

import re
from pathlib import Path

from htdg.io.files import write_text


def write_part(path: Path, title: str, text: str) -> None:
    """Put ``text`` below the heading ``## title``, in place of what stood there."""
    page = path.read_text() if path.is_file() else "# Benchmarks\n"
    parts = re.split(r"(?m)^(?=## )", page)
    kept = [part.rstrip() for part in parts if not part.startswith(f"## {title}\n")]
    kept.append(f"## {title}\n\n{text.rstrip()}")
    write_text(path, "\n\n".join(kept) + "\n")
    print(text)
