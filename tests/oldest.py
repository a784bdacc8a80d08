"""``python tests/oldest.py``: the lower bounds in pyproject.toml, as constraints for pip.

``make test-oldest`` installs exactly these. Run by a Python that has nothing installed yet.
"""

import re
import sys
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"


def constraints(project):
    """A line ``name==bound`` for each requirement of a ``[project]`` table and of its extras.

    Raises:
        ValueError: a requirement has no lower bound, or is written in another way.
    """
    extras = project["optional-dependencies"].values()
    lines = []
    for requirement in [*project["dependencies"], *(line for lines in extras for line in lines)]:
        if re.fullmatch(rf"{re.escape(project['name'])}\[[\w,]+\]", requirement):
            continue  # what this extra takes over from others
        match = re.fullmatch(r"([\w-]+)>=(\d+(?:\.\d+)*)", requirement)
        if match is None:
            raise ValueError(f"{requirement!r} has no lower bound: write it as name>=1.2.")
        lines.append(f"{match[1]}=={match[2]}")
    return sorted(set(lines))


if __name__ == "__main__":
    with PYPROJECT.open("rb") as file:
        sys.stdout.write("\n".join(constraints(tomllib.load(file)["project"])) + "\n")
