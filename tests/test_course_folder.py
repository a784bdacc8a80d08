"""``htdg course``: a folder of one's own, in which nothing of the student's is ever lost."""

import json
import os
import re
from pathlib import Path

import pytest

from htdg.commands.cli import main
from htdg.commands.course import MARK
from htdg.course import files
from htdg.course.files import data_folder, notebook_folder, texture_folder
from htdg.fast.compiling import cache_folder

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"


def names(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_the_course_is_laid_out_whole_and_without_outputs(tmp_path, capsys):
    folder = tmp_path / "my course"
    assert main(["course", str(folder)]) == 0
    notebooks = [n for n in names(NOTEBOOKS) if ".ipynb_checkpoints" not in n]
    handed_out = [*notebooks, "docs/glossary.md", "docs/specification.md"]
    assert names(folder) == sorted([MARK, *handed_out])
    for path in folder.rglob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        original = json.loads((NOTEBOOKS / path.relative_to(folder)).read_text(encoding="utf-8"))
        for one, other in zip(cells, original["cells"], strict=True):
            source = "".join(other["source"]).replace("(../../docs/", "(../d/")
            source = source.replace("(../docs/", "(docs/").replace("(../d/", "(../docs/")
            assert "".join(one["source"]) == source
        assert not any(c.get("outputs") or c.get("execution_count") for c in cells)
    page = (NOTEBOOKS / "README.md").read_text(encoding="utf-8")
    assert (folder / "README.md").read_text(encoding="utf-8") == page.replace("(../docs/", "(docs/")
    assert capsys.readouterr().out.splitlines() == [
        f"files written to {folder}: {len(handed_out)}",
        f"open it with: jupyter lab '{folder}/00_quickstart.ipynb'",
    ]


def test_every_link_to_a_file_of_the_course_leads_there(tmp_path):
    main(["course", str(tmp_path)])
    pages = 0
    for path in (*tmp_path.rglob("*.md"), *tmp_path.glob("0*.ipynb")):
        text = path.read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?:|#)([\w./]+)[^)]*\)", text):
            assert (path.parent / target).exists(), (path, target)
            pages += target.endswith("specification.md")
    assert pages > 9


def test_a_copy_of_the_packed_course_is_the_course(tmp_path):
    main(["course", str(tmp_path / "one")])
    for name, content in files.notebook_files(tmp_path / "one"):
        assert content == (tmp_path / "one" / name).read_bytes(), name


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


def test_a_texture_that_is_not_there_is_named_with_those_that_are():
    assert texture_folder("grass") == texture_folder() / "grass"
    for name in ("wood", "../..", "."):
        with pytest.raises(ValueError, match=r"There is no texture .*: choose from brick, grass, "):
            texture_folder(name)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A home in which htdg is installed as a wheel."""
    package = tmp_path / "site-packages" / "htdg"
    (package / "course" / "material" / "notebooks").mkdir(parents=True)
    monkeypatch.setattr(files, "_PACKAGE", package)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    return tmp_path


def test_data_sets_lie_in_the_repository_where_htdg_runs_from_there():
    assert data_folder() == NOTEBOOKS.parent


@pytest.mark.parametrize("with_course", [True, False])
def test_data_sets_never_go_into_an_installed_package(with_course, installed):
    if not with_course:
        (installed / "site-packages" / "htdg" / "course" / "material").rename(installed / "away")
    assert data_folder() == installed / ".cache" / "htdg"


def test_the_cache_is_where_the_user_says_and_nobody_else_may_write_there(installed, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")  # to be ignored, says the standard
    assert data_folder() == installed / ".cache" / "htdg"
    monkeypatch.setenv("XDG_CACHE_HOME", str(installed / "mine"))
    before = os.umask(0)
    try:
        assert data_folder() == installed / "mine" / "htdg"
    finally:
        os.umask(before)
    assert cache_folder() == data_folder()  # which refuses a folder that others may write into


def test_a_cache_that_cannot_be_made_stops_nothing_that_needs_no_download(installed, monkeypatch):
    (installed / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(installed / "file"))
    assert data_folder() == installed / "file" / "htdg"


@pytest.mark.parametrize("name", ["anomaly_detection", "defect_detection"])
def test_the_runs_keep_data_sets_there_unless_their_folder_is_absolute(name):
    path = NOTEBOOKS / "runs" / f"{name}.ipynb"
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    lines = [line for c in cells if c["cell_type"] == "code" for line in c["source"]]
    (line,) = [line for line in lines if line.startswith("data_sets = ")]
    for data_root, folder in (("data", NOTEBOOKS.parent / "data"), ("/sets", Path("/sets"))):
        variables = {"data_folder": data_folder, "data_root": data_root}
        exec(line, variables)
        assert variables["data_sets"] == folder
    uses = [line for line in lines if "data_root=" in line or "load_dataset(" in line]
    assert len(uses) == 2
    assert all("data_sets" in line for line in uses)


def test_no_notebook_depends_on_where_it_lies():
    for path in NOTEBOOKS.rglob("[0-9a-z]*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = "".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
        assert '".."' not in code, path  # texture_folder() knows where the textures are
        assert "__file__" not in code, path  # data_folder() knows where data sets are
