"""Execute the lessons in order into build/course: notebooks, HTML pages and an index.

    python scripts/course.py              the whole course
    python scripts/course.py --only 03    one chapter

The lessons themselves are never altered. The first cell that fails stops everything: its source
and the error are printed, what was executed is kept, and the exit code is 1.
"""

import argparse
import copy
import html
import os
import re
import sys
import time
from pathlib import Path

import nbformat
from jinja2 import pass_context
from jinja2.runtime import Context
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode

from kernel import ROOT, NotebookFailed, drop_widgets, execute, lessons

INDEX = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>minidiff: the course</title>
<style>
  :root {{ color-scheme: light dark }}
  body {{ font: 1.1rem/1.6 system-ui, sans-serif; max-width: 44rem }}
  body {{ margin: 3rem auto; padding: 0 1rem }}
  table {{ border-collapse: collapse; width: 100% }}
  td, th {{ text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #8886 }}
  .s {{ text-align: right }}
</style>
<h1>minidiff: the course, executed</h1>
<table>
<tr><th>chapter</th><th>notebook</th><th class="s">time</th></tr>
{rows}
</table>
</html>
"""


def title(notebook: NotebookNode, default: str) -> str:
    """Return the first heading of the notebook."""
    for cell in notebook.cells:
        heading = re.search(r"^#\s+(.+)$", cell.source, re.MULTILINE)
        if cell.cell_type == "markdown" and heading:
            return heading.group(1).strip()
    return default


class FormulasAsMathML(IPythonRenderer):
    """Draws formulas as MathML, for which a browser fetches nothing."""

    def block_math(self, body: str) -> str:
        """Draw a formula on a line of its own."""
        return mathml(body, "block") or super().block_math(body)

    def inline_math(self, body: str) -> str:
        """Draw a formula within a line."""
        return mathml(body, "inline") or super().inline_math(body)


def mathml(formula: str, display: str) -> str | None:
    """Convert TeX to MathML; None where the converter does not know a command (MathJax does)."""
    try:
        converted = convert(formula, display=display)
    except Exception:  # it raises whatever it stumbles over
        return None
    return None if "\\" in converted else converted


class PageExporter(HTMLExporter):
    """Like nbconvert's own, but its formulas need no network."""

    @pass_context
    def markdown2html(self, context: Context, source: str) -> str:
        """Turn the text of a cell into HTML."""
        renderer = FormulasAsMathML(escape=False, anchor_link_text=self.anchor_link_text)
        return MarkdownWithMath(renderer=renderer).render(source)


def with_alt_texts(notebook: NotebookNode) -> NotebookNode:
    """Return a copy whose pictures carry their alt text in HTML; the page's template drops it."""
    page = copy.deepcopy(notebook)
    for output in (o for c in page.cells if c.cell_type == "code" for o in c.outputs):
        for kind in ("image/png", "image/gif"):
            alt = output.get("metadata", {}).get(kind, {}).get("alt")
            if alt and kind in output.data:
                source = f"data:{kind};base64,{output.data.pop(kind).strip()}"
                picture = f'<img alt="{html.escape(alt)}" style="max-width: 100%" src="{source}">'
                output.data["text/html"] = picture
    return page


def relink(notebook: NotebookNode, out: Path) -> None:
    """Let links that leave the folder of the lessons lead to the same files from `out`."""
    root = Path(os.path.relpath(ROOT, out)).as_posix()
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = cell.source.replace("](../", f"]({root}/")


def save(notebook: NotebookNode, stem: str, out: Path) -> None:
    """Write the executed notebook and its page, with every image embedded."""
    drop_widgets(notebook)
    relink(notebook, out)
    nbformat.write(notebook, out / f"{stem}.ipynb")
    page, _ = PageExporter(template_name="lab").from_notebook_node(
        with_alt_texts(notebook), {"metadata": {"name": title(notebook, stem)}}
    )
    (out / f"{stem}.html").write_text(page, encoding="utf-8")


def write_index(out: Path) -> Path:
    """Write index.html over all the executed notebooks in `out`, those of earlier runs included."""
    rows = []
    for path in sorted(out.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        rows.append(
            f'<tr><td><a href="{path.stem}.html">{html.escape(title(notebook, path.stem))}</a></td>'
            f'<td><a href="{path.name}">{path.name}</a></td>'
            f'<td class="s">{notebook.metadata.minidiff.took}</td></tr>'
        )
    index = out / "index.html"
    index.write_text(INDEX.format(rows="\n".join(rows)), encoding="utf-8")
    return index


def run(paths: list[Path], out: Path, timeout: int) -> Path:
    """Execute the notebooks in order into `out`, a progress line each; return the index page.

    Raises:
        NotebookFailed: the first notebook that fails; its page and the index are written before.
    """
    out.mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(paths, start=1):
        print(f"[{number}/{len(paths)}] {path.stem} ... ", end="", flush=True)
        notebook = nbformat.read(path, as_version=4)
        took = "failed"
        start = time.perf_counter()
        try:
            execute(notebook, path.parent, timeout=timeout)
            took = f"{time.perf_counter() - start:.1f} s"
        finally:
            print(took, flush=True)
            notebook.metadata["minidiff"] = {"took": took}
            save(notebook, path.stem, out)
            index = write_index(out)
    return index


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description="Execute the course's notebooks in order.")
    parser.add_argument("--only", metavar="NN", help="the chapter to execute, such as 03")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "course")
    parser.add_argument("--timeout", type=int, default=1800, help="seconds that a cell may take")
    options = parser.parse_args(arguments)
    start = time.perf_counter()
    try:
        index = run(lessons(options.only), options.out, options.timeout)
    except (NotebookFailed, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"Done in {time.perf_counter() - start:.0f} s. Open {index} in a browser.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
