"""The course's files: notebooks, their figures and models, two pages, and the textures.

In the repository they are ``notebooks/``, two pages of ``docs/``, and ``data/textures/``. A wheel
carries a copy in ``htdg/course/material/``, which ``setup.py`` makes with this module when the
wheel is built; so it imports nothing of htdg.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

#: Which files of the folder of notebooks are handed out.
NOTEBOOK_PATTERNS = (
    "README.md",
    "[0-9][0-9]_*.ipynb",
    "solutions/*.ipynb",
    "runs/*.ipynb",
    "runs/grids/*.yaml",
    "figures/*.png",
    "models/*.*",
    "models/*/*",
)
#: Pages of the documentation that notebooks live by: handed out in ``docs`` beside them.
PAGES = ("specification.md", "glossary.md")
_PACKAGE = Path(__file__).resolve().parents[1]


def course_folder() -> Path:
    """The folder that has ``notebooks/`` and ``data/textures/``.

    It is the repository where htdg is used from there, and the copy in the package where it was
    installed as a wheel.
    """
    packed = _PACKAGE / "course" / "material"
    return packed if packed.is_dir() else _PACKAGE.parent


def data_folder() -> Path:
    """The folder that a relative ``data_root`` of a notebook is seen from.

    It is the repository where htdg is used from there, and ``htdg`` in the user's cache
    (``XDG_CACHE_HOME``, by default ``~/.cache``) where htdg was installed without it, so that no
    data set is ever downloaded into the package.
    """
    repository = course_folder()
    if (repository / "pyproject.toml").is_file():
        return repository
    cache_home = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not cache_home.is_absolute():
        cache_home = Path.home() / ".cache"
    folder = cache_home / "htdg"
    # The compiled helpers are kept there too, and refused where others may write. If it cannot be
    # made, that matters only to a data set that is downloaded, which then says so.
    with suppress(OSError):
        for place in (*reversed(folder.parents), folder):
            place.mkdir(mode=0o700, exist_ok=True)
    return folder


def notebook_folder() -> Path:
    """The folder of the course's notebooks."""
    return course_folder() / "notebooks"


def texture_folder(texture: str = "") -> Path:
    """The folder of a texture, ``brick``, ``grass`` or ``gravel``, or that of all.

    Raises:
        ValueError: there is no such texture.
    """
    folder = course_folder() / "data" / "textures"
    if not texture:
        return folder
    textures = sorted(path.name for path in folder.iterdir() if path.is_dir())
    if texture not in textures:
        raise ValueError(f"There is no texture {texture!r}: choose from {', '.join(textures)}.")
    return folder / texture


def notebook_files(folder: Path | None = None) -> Iterator[tuple[Path, bytes]]:
    """The files of the course as they are handed out: notebooks without outputs, models, pages.

    Args:
        folder: where the notebooks are, as a rule ``notebook_folder()``.

    Yields:
        The path below the folder, and the content.
    """
    folder = folder or notebook_folder()
    packed = (folder / "docs").is_dir()  # handed out already: its links are right
    for pattern in NOTEBOOK_PATTERNS:
        for path in sorted(folder.glob(pattern)):
            content = path.read_bytes()
            if path.suffix == ".ipynb":
                content = without_outputs(content)
            if path.suffix in (".ipynb", ".md") and not packed:
                content = with_links_to_pages(content)
            yield path.relative_to(folder), content
    pages = folder / "docs" if packed else folder.parent / "docs"
    for name in PAGES:
        yield Path("docs", name), with_links_of_page((pages / name).read_bytes())


def with_links_to_pages(content: bytes) -> bytes:
    """A notebook or its README whose links lead to ``docs`` beside it, not in the repository."""
    return re.sub(rb"\]\(\.\./(\.\./)?docs/", rb"](\1docs/", content)


def with_links_of_page(content: bytes) -> bytes:
    """A page of ``PAGES`` whose links lead to the notebooks above it.

    Of those to pages that are not handed out, the text stays.
    """
    text = content.decode().replace("](../notebooks/", "](../")
    kept = "|".join(re.escape(name) for name in PAGES)
    text = re.sub(rf"\[([^\]]+)\]\((?!https?:|#|\.\./\w+\.ipynb|{kept})[^)]*\)", r"\1", text)
    return text.encode()


def without_outputs(content: bytes) -> bytes:
    """A notebook as if it had never been executed."""
    notebook = json.loads(content)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
    text = json.dumps(notebook, indent=1, ensure_ascii=False)  # as Jupyter writes them
    return f"{text}\n".encode()
