"""``htdg course``: a folder of one's own, in which nothing of the student's is ever lost."""

import json
from pathlib import Path

import pytest

from htdg.commands.cli import main
from htdg.commands.course import MARK
from htdg.course import files
from htdg.course.files import notebook_folder, texture_folder

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"


def names(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_the_course_is_laid_out_whole_and_without_outputs(tmp_path, capsys):
    folder = tmp_path / "my course"
    assert main(["course", str(folder)]) == 0
    notebooks = [n for n in names(NOTEBOOKS) if ".ipynb_checkpoints" not in n]
    assert names(folder) == sorted([MARK, *notebooks])
    for path in folder.rglob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        original = json.loads((NOTEBOOKS / path.relative_to(folder)).read_text(encoding="utf-8"))
        assert [c["source"] for c in cells] == [c["source"] for c in original["cells"]]
        assert not any(c.get("outputs") or c.get("execution_count") for c in cells)
    assert (folder / "README.md").read_bytes() == (NOTEBOOKS / "README.md").read_bytes()
    assert capsys.readouterr().out.splitlines() == [
        f"files written to {folder}: {len(notebooks)}",
        f"open it with: jupyter lab '{folder}/00_quickstart.ipynb'",
    ]


def test_again_it_fills_up_what_is_missing_and_keeps_and_names_what_was_changed(tmp_path, capsys):
    folder = tmp_path / "course"
    main(["course", str(folder)])
    answered, missing = folder / "01_pyramid.ipynb", folder / "solutions" / "01_pyramid.ipynb"
    answered.write_text("my answers")
    (folder / "mine.ipynb").write_text("my own")
    content = missing.read_bytes()
    missing.unlink()
    capsys.readouterr()
    assert main(["course", str(folder)]) == 0
    assert (answered.read_text(), missing.read_bytes()) == ("my answers", content)
    assert (folder / "mine.ipynb").read_text() == "my own"
    assert capsys.readouterr().out.splitlines()[:4] == [
        f"files written to {folder}: 1",
        "kept as they are, since they differ from the course's:",
        f"  {answered}",
        "Rename or remove one and run this again to get it as it was.",
    ]


def test_a_copy_that_was_interrupted_leaves_no_half_file_and_can_be_made_again(
    tmp_path, monkeypatch
):
    folder = tmp_path / "course"
    replace = Path.replace

    def interrupted(self, target):
        if target.name == "03_discriminator_training.ipynb":
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    assert main(["course", str(folder)]) == 130
    assert names(folder) == [MARK, *(f"{n}.ipynb" for n in FIRST), "README.md"]
    monkeypatch.undo()
    assert main(["course", str(folder)]) == 0
    assert (folder / "03_discriminator_training.ipynb").is_file()


FIRST = ("00_quickstart", "01_pyramid", "02_transformations")


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("thesis", "thesis is not empty and holds no course: choose another folder."),
        ("thesis/text", "00_quickstart.ipynb cannot be written: "),
    ],
)
def test_a_place_with_something_else_in_it_is_refused(place, message, tmp_path, capsys):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "text").write_text("mine")
    assert main(["course", str(tmp_path / place)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert names(tmp_path) == ["thesis/text"]


def test_an_empty_folder_is_taken(tmp_path):
    assert main(["course", str(tmp_path)]) == 0
    assert (tmp_path / "00_quickstart.ipynb").is_file()


def test_the_courses_files_are_the_packages_own_where_it_has_them(tmp_path, monkeypatch):
    assert notebook_folder() == NOTEBOOKS
    assert (texture_folder() / "brick" / "train" / "good" / "000.png").is_file()
    (tmp_path / "course" / "material").mkdir(parents=True)
    monkeypatch.setattr(files, "_PACKAGE", tmp_path)
    assert notebook_folder() == tmp_path / "course" / "material" / "notebooks"
    assert texture_folder() == tmp_path / "course" / "material" / "data" / "textures"


def test_no_notebook_depends_on_where_it_lies():
    for path in NOTEBOOKS.rglob("[0-9a-z]*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = "".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
        assert '".."' not in code, path  # texture_folder() knows where the textures are
        assert "__file__" not in code, path  # course_folder() knows where data sets are
