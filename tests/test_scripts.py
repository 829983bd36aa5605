"""The scripts behind `make setup`, `make course`, `make notebooks` and `make oldest`."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import course
import kernel
import notebooks
import oldest
import setup_venv


def write(folder: Path, name: str, *sources: str) -> Path:
    """Write a notebook with a heading and these code cells."""
    cells = [new_markdown_cell(f"# Lesson {name}"), *map(new_code_cell, sources)]
    nbformat.write(new_notebook(cells=cells), folder / f"{name}.ipynb")
    return folder / f"{name}.ipynb"


@pytest.fixture
def lessons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of lessons, which the scripts take for theirs."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    monkeypatch.setattr(kernel, "LESSONS", folder)
    return folder


def test_links_of_a_lesson_lead_to_the_same_files_from_its_page(tmp_path: Path):
    text = "[the assignment](../exercises/01/01.ipynb), [a site](https://example.org)"
    notebook = new_notebook(cells=[new_markdown_cell(text)])
    course.relink(notebook, kernel.ROOT / "build" / "course")
    assert "](../../exercises/01/01.ipynb)" in notebook.cells[0].source
    assert "](https://example.org)" in notebook.cells[0].source


# --- course -------------------------------------------------------------------------------------


def test_course_executes_every_lesson_and_alters_none(lessons: Path, tmp_path: Path, capsys):
    figure = "import matplotlib.pyplot as plt; _ = plt.plot([0, 1])"
    sources = [
        write(lessons, "00_start", "import sys; print(sys.executable)"),
        write(lessons, "01_next", figure, "import ipywidgets; ipywidgets.IntSlider()"),
    ]
    before = [path.read_bytes() for path in sources]
    out = tmp_path / "course"

    assert course.main(["--out", str(out)]) == 0

    assert [path.read_bytes() for path in sources] == before
    progress = capsys.readouterr().out.splitlines()
    assert progress[0].startswith("[1/2] 00_start ... ")
    assert progress[1].startswith("[2/2] 01_next ... ")
    executed = nbformat.read(out / "00_start.ipynb", as_version=4)
    assert executed.cells[1].outputs[0].text == f"{sys.executable}\n"
    page = (out / "01_next.html").read_text()
    assert "data:image/png;base64," in page
    assert kernel.WIDGET not in page
    index = (out / "index.html").read_text()
    assert index.index('<a href="00_start.html">Lesson 00_start</a>') < index.index("01_next.html")


def test_course_stops_at_the_first_failure_and_shows_it(lessons: Path, tmp_path: Path, capsys):
    write(lessons, "00_start", "print('kept')", "answer = {}['question']")
    write(lessons, "01_next", "1")
    out = tmp_path / "course"

    assert course.main(["--out", str(out)]) == 1

    printed = capsys.readouterr()
    assert "[1/2] 00_start ... failed" in printed.out
    assert "answer = {}['question']" in printed.err
    assert "KeyError: 'question'" in printed.err
    assert "\x1b" not in printed.err
    assert nbformat.read(out / "00_start.ipynb", as_version=4).cells[1].outputs[0].text == "kept\n"
    assert "failed" in (out / "index.html").read_text()
    assert not (out / "01_next.ipynb").exists()


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import os; os._exit(1)", "the kernel was interrupted or died"),
        ("while True: pass", "it took longer than 1 s"),
    ],
)
def test_course_names_the_cell_in_which_a_kernel_is_lost(
    source: str, reason: str, lessons: Path, tmp_path: Path, capsys
):
    write(lessons, "00_start", source)
    assert course.main(["--out", str(tmp_path / "course"), "--timeout", "1"]) == 1
    error = capsys.readouterr().err
    assert reason in error
    assert source in error


def test_course_only_keeps_the_pages_of_earlier_runs_in_the_index(lessons: Path, tmp_path: Path):
    write(lessons, "00_start", "0")
    write(lessons, "01_next", "1")
    out = tmp_path / "course"
    assert course.main(["--out", str(out), "--only", "00"]) == 0
    assert course.main(["--out", str(out), "--only", "01"]) == 0
    assert (out / "index.html").read_text().count(".html") == 2


def test_a_chapter_that_is_not_there_is_one_sentence(lessons: Path, tmp_path: Path, capsys):
    assert course.main(["--out", str(tmp_path), "--only", "99"]) == 1
    assert capsys.readouterr().err == f"{lessons} holds no notebook that begins with 99\n"


# --- notebooks ----------------------------------------------------------------------------------


def outputs(path: Path) -> list[NotebookNode]:
    cells = nbformat.read(path, as_version=4).cells
    return [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]


def test_lessons_are_written_with_the_outputs_of_the_fixed_settings(lessons: Path):
    write(
        lessons,
        "00_start",
        "import os, sys; print(os.environ['MINIDIFF_BUDGET'], os.environ['CUDA_VISIBLE_DEVICES'])",
        "print('noise', file=sys.stderr); from tqdm.auto import tqdm; list(tqdm([1]))",
        "import ipywidgets; ipywidgets.IntSlider()",
        "object()",
    )
    assert notebooks.main([]) == 0
    shown = outputs(lessons / "00_start.ipynb")
    assert shown[0].text == "quick \n"
    assert [output.data["text/plain"] for output in shown[1:]] == ["[1]", "<object at 0x...>"]
    first = (lessons / "00_start.ipynb").read_bytes()
    assert notebooks.main(["--only", "00"]) == 0
    assert (lessons / "00_start.ipynb").read_bytes() == first


def test_a_lesson_that_fails_is_left_as_it_was(lessons: Path, capsys):
    path = write(lessons, "00_start", "1 / 0")
    before = path.read_bytes()
    assert notebooks.main([]) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert path.read_bytes() == before
    assert list(lessons.iterdir()) == [path]


def test_clean_keeps_tags_and_alt_texts_and_makes_ids_of_the_content():
    image = new_output("display_data", {"image/png": "AAAA"}, metadata={"image/png": {"alt": "A"}})
    cell = new_code_cell("1", outputs=[image], metadata={"tags": ["x"], "collapsed": True})
    widgets = {"widgets": {"state": {}}, "kernelspec": {"name": "mine", "display_name": "Mine"}}
    notebook = new_notebook(cells=[cell, new_code_cell("1")], metadata=widgets)
    notebooks.clean(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert "widgets" not in notebook.metadata
    assert notebook.cells[0].metadata == {"tags": ["x"]}
    assert notebook.cells[0].outputs == [image]
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == 2
    notebooks.clean(notebook)
    assert [cell.id for cell in notebook.cells] == ids
    nbformat.validate(notebook)


# --- oldest and setup ---------------------------------------------------------------------------


def test_oldest_pins_each_dependency_to_its_lower_bound():
    project = {"dependencies": ["a>=1.2"], "optional-dependencies": {"x": ["b-c==3", "d~=4.5.6"]}}
    assert oldest.lower_bounds(project) == ["a==1.2", "b-c==3", "d==4.5.6"]
    with pytest.raises(ValueError, match="'e' must read name>=version"):
        oldest.lower_bounds({"dependencies": ["e"], "optional-dependencies": {}})


def test_setup_refuses_an_old_python_in_one_sentence():
    setup_venv.check_python((3, 11, 0), "python3")
    with pytest.raises(
        setup_venv.SetupError, match=r"needs Python 3\.11 or newer, but old is 3\.9"
    ):
        setup_venv.check_python((3, 9, 18), "old")


@pytest.mark.skipif(os.name != "posix", reason="the stand-in for Python is a shell script")
def test_setup_that_can_make_no_environment_says_what_to_install(tmp_path: Path, monkeypatch):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 1\n")  # no venv, no pip, no virtualenv
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(setup_venv.SetupError, match="apt install python3-venv"):
        setup_venv.make_venv(str(tmp_path / "venv"))
    assert not (tmp_path / "venv").exists()


@pytest.mark.skipif(os.name != "posix", reason="the stand-in for Python is a shell script")
def test_setup_makes_do_without_the_pip_that_venv_brings(tmp_path: Path, monkeypatch):
    python, venv = tmp_path / "python", tmp_path / "venv"
    # As Debian's Python without python3-venv: venv works only with --without-pip, pip is there.
    python.write_text(
        '#!/bin/sh\nif [ "$2" = venv ] && [ "$3" != --without-pip ]; then exit 1; fi\n'
        f'if [ "$2" = pip ]; then exec "{sys.executable}" -m ensurepip_into "$4"; fi\n'
        f'exec "{sys.executable}" "$@"\n'
    )
    python.chmod(0o755)
    (tmp_path / "ensurepip_into.py").write_text(
        "import subprocess, sys\n"
        "sys.exit(subprocess.call([sys.argv[1], '-m', 'ensurepip', '--default-pip']))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(python))
    setup_venv.make_venv(str(venv))
    pip = [setup_venv.venv_python(str(venv)), "-m", "pip", "--version"]
    assert subprocess.run(pip, capture_output=True, check=False).returncode == 0


def test_a_page_draws_its_formulas_without_the_network(tmp_path):
    text = r"<kbd>Tab</kbd>: $\bar\alpha_t$ and $$x_t = \sqrt{a} x_0$$ and $\no_such_command$"
    course.save(new_notebook(cells=[new_markdown_cell(text)]), "00_page", tmp_path)
    page = (tmp_path / "00_page.html").read_text()
    assert page.count("<math") == 2  # MathML, which every browser draws
    assert r"$\no_such_command$" in page  # what the converter does not know stays TeX
    assert "<kbd>Tab</kbd>" in page
