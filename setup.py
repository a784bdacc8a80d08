"""The one build step that pyproject.toml cannot say: the wheel carries the course's files.

``htdg/course/files.py`` says which they are and where they go. An editable install needs no
copy: it uses the repository's.
"""

import shutil
from pathlib import Path
from runpy import run_path

from setuptools import setup
from setuptools.command.build_py import build_py

REPOSITORY = Path(__file__).resolve().parent


class BuildWithCourse(build_py):
    """Copies the modules, and then the course into ``htdg/course/material``."""

    def run(self) -> None:
        """Build, as setuptools calls it."""
        super().run()
        if not self.editable_mode:
            copy_course(Path(self.build_lib) / "htdg" / "course" / "material")


def copy_course(target: Path) -> None:
    """Copy the notebooks, without their outputs, and the textures."""
    # By its path, since importing htdg would need all that it depends on.
    files = run_path(str(REPOSITORY / "htdg" / "course" / "files.py"))
    shutil.rmtree(target, ignore_errors=True)  # of an earlier build
    for name, content in files["notebook_files"](REPOSITORY / "notebooks"):
        path = target / "notebooks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    shutil.copytree(REPOSITORY / "data" / "textures", target / "data" / "textures")


setup(cmdclass={"build_py": BuildWithCourse})
