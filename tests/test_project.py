"""The house: one order of chapters, one source for each fact, and bounds on what git holds."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
import yaml
from IPython.core.inputtransformer2 import TransformerManager

import minidiff
import oldest
import setup_venv

ROOT = Path(__file__).resolve().parent.parent
MIB = 2**20

# In the order of the course; a chapter may use those above it.
CHAPTERS = {
    "01_forward_diffusion": "forward",
    "02_unet": "unet",
    "03_training": "training",
    "04_ddpm": "ddpm",
    "05_evaluation": "evaluation",
    "06_improved_ddpm": "improved",
    "07_ddim": "ddim",
    "08_guidance": "guidance",
    "09_latent_diffusion": "latent",
    "10_text_to_image": "text",
    "11_image_editing": "editing",
    "12_audio": "audio",
    "13_video": "video",
}
FOLDERS = {"data", "zoo", "lab", "grading"}  # what notebooks need and no chapter derives
MODULES = list(CHAPTERS.values())
LESSONS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]

each_lesson = pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
each_module = pytest.mark.parametrize("module", MODULES)


def git_files() -> list[Path]:
    """Return all files that are tracked, or would be by `git add .`."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        run = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this is no git checkout")
    return [path for name in run.stdout.split("\0") if (path := ROOT / name).is_file()]


def size(files: list[Path]) -> float:
    """Return the size of the files together in MiB."""
    return sum(path.stat().st_size for path in files) / MIB


def python_of(path: Path) -> ast.Module:
    """Parse a module, or all code cells of a notebook."""
    if path.suffix == ".py":
        return ast.parse(path.read_text())
    cells = [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    return ast.parse("\n".join(map(TransformerManager().transform_cell, cells)))


def imports(tree: ast.Module) -> Iterator[str]:
    """Yield the dotted name of everything imported; what is relative is minidiff's."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "minidiff" if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            if module == "minidiff":  # either a module, or a name from the package's __init__
                yield from (f"minidiff.{alias.name}" for alias in node.names)
            else:
                yield module


def parts_of_minidiff(path: Path) -> set[str]:
    """Return what a file takes from minidiff: modules, folders, names of the package's __init__."""
    dotted = (name.split(".") for name in imports(python_of(path)))
    return {parts[1] if len(parts) > 1 else "" for parts in dotted if parts[0] == "minidiff"}


# --- the order of the chapters ------------------------------------------------------------------


def test_each_chapter_has_its_places_and_there_are_no_others():
    assert {p.stem for p in (ROOT / "minidiff").glob("*.py")} == {*MODULES, "__init__", "cli"}
    assert [path.stem for path in LESSONS] == ["00_start_here", *CHAPTERS]
    for slug, module in CHAPTERS.items():
        assert (ROOT / "tests" / f"test_{module}.py").is_file()
        assert (ROOT / "minidiff" / "grading" / f"chapter_{slug[:2]}.py").is_file()
        assert (ROOT / "tests" / "variants" / f"chapter_{slug[:2]}.py").is_file()
    for folder in ("solutions", "exercises"):
        assert {p.name for p in (ROOT / folder).iterdir() if p.is_dir()} == {*CHAPTERS}
        assert {p.stem for p in (ROOT / folder).rglob("*.ipynb")} == {*CHAPTERS}


@pytest.mark.parametrize("slug", CHAPTERS)
def test_the_checks_and_the_assignment_of_a_chapter_use_chapters_up_to_it(slug: str):
    reached = set(MODULES[: int(slug[:2])])
    for path in (
        ROOT / "minidiff" / "grading" / f"chapter_{slug[:2]}.py",
        ROOT / "solutions" / slug / f"{slug}.ipynb",
    ):
        assert parts_of_minidiff(path) <= FOLDERS | reached, path


@each_module
def test_a_chapter_imports_only_from_chapters_before_it(module: str):
    earlier = set(MODULES[: MODULES.index(module)])
    assert parts_of_minidiff(ROOT / "minidiff" / f"{module}.py") <= earlier


@each_lesson
def test_a_lesson_uses_only_chapters_up_to_its_own(path: Path):
    number = int(path.stem[:2])
    reached = set(MODULES if number == 0 else MODULES[:number])
    for part in parts_of_minidiff(path) - FOLDERS - reached:
        assert getattr(minidiff, part).__module__.removeprefix("minidiff.") in reached, part


@each_module
def test_every_public_name_has_a_docstring(module: str):
    tree = python_of(ROOT / "minidiff" / f"{module}.py")
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{module}.{node.name} has no docstring"


def test_the_package_offers_names_of_the_chapters_alone():
    for name in minidiff.__all__:
        assert getattr(minidiff, name).__module__.removeprefix("minidiff.") in MODULES


# --- notebooks ----------------------------------------------------------------------------------


@each_lesson
def test_a_lesson_is_as_make_notebooks_writes_it(path: Path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert "widgets" not in notebook.metadata
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", [])]
    assert outputs, "it holds no outputs: run `make notebooks`"
    assert not any("widget-view" in mime for o in outputs for mime in o.get("data", {}))
    assert not any(o.get("name") == "stderr" for o in outputs)
    counts = [c.execution_count for c in notebook.cells if c.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1)), "its cells were not run in order"


@each_lesson
def test_a_lesson_holds_no_error_but_those_it_announces(path: Path):
    for cell in nbformat.read(path, as_version=4).cells:
        if "raises-exception" not in cell.metadata.get("tags", []):
            assert not any(o.output_type == "error" for o in cell.get("outputs", []))


@each_lesson
def test_the_code_cells_of_a_lesson_are_short(path: Path):
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            lines = [line for line in cell.source.splitlines() if line.strip()]
            assert len(lines) <= 25, cell.source
            assert not lines or not lines[-1].rstrip().endswith(";"), "nbval breaks: use `_ =`"


@each_lesson
def test_every_picture_of_a_lesson_has_an_alternative_text(path: Path):
    for cell in nbformat.read(path, as_version=4).cells:
        for output in cell.get("outputs", []):
            for mime in output.get("data", {}):
                if mime.startswith("image/"):
                    about = output.metadata.get(mime, {}).get("alt", "")
                    assert about, cell.source


# --- what git holds -----------------------------------------------------------------------------


def test_sizes():
    files = git_files()
    assert size(files) < 30
    assert size([path for path in files if path.parent.name == "weights"]) < 20
    assert size([path for path in files if path.suffix == ".ipynb"]) < 7
    for path in LESSONS:
        assert path.stat().st_size <= 450_000, path


def test_no_pickles():
    """Weights are safetensors: a pickle runs code when it is loaded."""
    assert not [path for path in git_files() if path.suffix in {".pt", ".pth", ".pkl", ".ckpt"}]


def test_no_path_of_somebodys_machine():
    machine = re.compile(r"(?<![\w./~+-])/(?:home|root|Users|work|mnt)/\w+|[\w/]+/site-packages/")
    for path in git_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # weights and pictures
        found = machine.search(text)
        assert found is None, f"{path.relative_to(ROOT)} names {found.group()}"


# --- one source for each fact -------------------------------------------------------------------


def minimum_python() -> str:
    return PROJECT["requires-python"].removeprefix(">=")


def test_conda_installs_what_make_setup_installs():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert conda["dependencies"][:2] == [f"python{PROJECT['requires-python']}", "pip"]
    (pip,) = (entry["pip"] for entry in conda["dependencies"] if isinstance(entry, dict))
    (requirement,) = pip
    extras = re.fullmatch(r"-e \.\[(.+)\]", requirement).group(1).split(",")
    assert set(extras) <= PROJECT["optional-dependencies"].keys()
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(r"^EXTRAS := (.+)$", makefile, re.MULTILINE).group(1).split() == extras


def test_the_oldest_python_is_the_same_everywhere():
    assert ".".join(map(str, setup_venv.MINIMUM)) == minimum_python()
    assert PYPROJECT["tool"]["mypy"]["python_version"] == minimum_python()
    assert PYPROJECT["tool"]["ruff"]["target-version"] == "py" + minimum_python().replace(".", "")
    ci = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert ci["jobs"]["test"]["strategy"]["matrix"]["python"][0] == minimum_python()


def test_ci_runs_what_a_developer_runs():
    ci = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert "bash .ci/run" in [step.get("run") for step in ci["jobs"]["test"]["steps"]]
    assert (ROOT / ".ci" / "run").read_text().splitlines()[-1] == "make test"


def test_each_version_is_pinned_once():
    extras = PROJECT["optional-dependencies"]
    diffusers = {r for e in extras.values() for r in e if r.startswith("diffusers")}
    assert len(diffusers) == 1
    assert re.fullmatch(r"diffusers==\d[\d.]*", diffusers.pop())
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    (ruff,) = (hook["rev"] for hook in hooks if "ruff" in hook["repo"])
    assert f"ruff~={ruff.removeprefix('v')}" in extras["test"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == minidiff.__version__


def test_every_dependency_has_a_lower_bound():
    assert oldest.lower_bounds(PROJECT)


def test_minidiff_imports_only_what_it_declares():
    distributions = {
        "sklearn": "scikit-learn",
        "PIL": "pillow",
        "IPython": "ipython",
        "espeakng_loader": "espeakng-loader",
    }
    core = {re.split(r"[>=~]", r)[0] for r in PROJECT["dependencies"]}
    notebooks = {re.split(r"[>=~]", r)[0] for r in PROJECT["optional-dependencies"]["notebooks"]}
    audio = {re.split(r"[>=~]", r)[0] for r in PROJECT["optional-dependencies"]["audio"]}
    standard = set(sys.stdlib_module_names)
    for path in (ROOT / "minidiff").rglob("*.py"):
        used = {name.split(".")[0] for name in imports(python_of(path))} - standard - {"minidiff"}
        allowed = core | notebooks if "lab" in path.parts else core
        if FOLDERS & set(path.parts):  # inside functions, which say what to install
            allowed = allowed | audio
        assert {distributions.get(name, name) for name in used} <= allowed, path


# --- the documents ------------------------------------------------------------------------------

DOCUMENTS = [*sorted(ROOT.glob("*.md")), ROOT / "exercises" / "README.md"]
each_document = pytest.mark.parametrize(
    "path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix()
)


@each_document
def test_links_lead_to_files(path: Path):
    links = re.findall(r"\]\(([^)#]+)\)|(?:src|href)=\"([^\"#]+)\"", path.read_text())
    for link in map("".join, links):
        if "://" not in link:
            assert (path.parent / link).exists(), link


@each_document
def test_make_has_the_targets_that_are_named(path: Path):
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make ([a-z]+)", path.read_text(), re.MULTILINE)) <= targets


def test_the_readme_names_each_chapter_and_each_dependency():
    readme = (ROOT / "README.md").read_text()
    for path in LESSONS:
        assert f"(notebooks/{path.name})" in readme
    for slug in CHAPTERS:
        assert f"(exercises/{slug}/{slug}.ipynb)" in readme
    extras = PROJECT["optional-dependencies"]
    for requirement in [*PROJECT["dependencies"], *extras["notebooks"], *extras["test"]]:
        name = re.split(r"[>=~]", requirement)[0]
        assert re.search(rf"\b{name}\b", readme, re.IGNORECASE), f"{name} and its licence"
