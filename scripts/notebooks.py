"""Execute the lessons and write their outputs back into notebooks/, ready to be committed.

    python scripts/notebooks.py              every lesson
    python scripts/notebooks.py --only 03    one of them

Each runs in a fresh kernel under the same settings on every machine (quick budget, processor only,
small figures), and what differs from run to run without meaning anything is removed.
"""

import argparse
import hashlib
import re
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from kernel import NotebookFailed, drop_widgets, execute, lessons

LIMIT = 450_000  # bytes of one lesson with its outputs; tests/test_project.py holds it too
ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]+")
METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"file_extension": ".py", "name": "python", "pygments_lexer": "ipython3"},
}


def settings(folder: Path) -> dict[str, str]:
    """Return the kernel's environment; the files that it points to are written to `folder`."""
    (folder / "matplotlibrc").write_text("figure.dpi: 72\nsavefig.dpi: figure\n")
    return {
        "CUDA_VISIBLE_DEVICES": "",
        "IPYTHONDIR": str(folder / "ipython"),
        "MATPLOTLIBRC": str(folder / "matplotlibrc"),
        "MINIDIFF_BUDGET": "quick",
        "PYTHONHASHSEED": "0",
        "TQDM_DISABLE": "1",
    }


def clean(notebook: NotebookNode) -> None:
    """Remove from `notebook` what differs from run to run: nothing that a reader would miss."""
    drop_widgets(notebook)
    notebook.metadata.clear()
    notebook.metadata.update(METADATA)
    notebook.nbformat_minor = 5  # cells have ids
    seen: set[str] = set()
    for cell in notebook.cells:
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:8]
        while digest in seen:  # the same cell twice
            digest = hashlib.sha256(digest.encode()).hexdigest()[:8]
        seen.add(digest)
        cell.id = digest
        cell.metadata = {k: v for k, v in cell.metadata.items() if k in ("tags", "jupyter")}
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
            for output in cell.outputs:
                _clean_text(output)


def _clean_text(output: NotebookNode) -> None:
    if output.output_type == "stream":
        output.text = ADDRESS.sub("at 0x...", output.text)
    elif "text/plain" in output.get("data", {}):
        output.data["text/plain"] = ADDRESS.sub("at 0x...", output.data["text/plain"])


def regenerate(path: Path, timeout: int) -> int:
    """Execute the lesson at `path` and write it back; return its size in bytes.

    Raises:
        NotebookFailed: a cell failed; the file is then left as it was.
    """
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        execute(notebook, path.parent, settings(Path(folder)), timeout)
    clean(notebook)
    part = path.with_suffix(".part")
    nbformat.write(notebook, part)
    part.replace(path)
    return path.stat().st_size


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description="Write the lessons' outputs into notebooks/.")
    parser.add_argument("--only", metavar="NN", help="the chapter to execute, such as 03")
    parser.add_argument("--timeout", type=int, default=1800, help="seconds that a cell may take")
    options = parser.parse_args(arguments)
    try:
        for path in lessons(options.only):
            print(f"{path.stem} ... ", end="", flush=True)
            start = time.perf_counter()
            size = regenerate(path, options.timeout)
            print(f"{time.perf_counter() - start:.1f} s, {size / 1000:.0f} KB", flush=True)
            if size > LIMIT:
                print(f"warning: {path.name} is over {LIMIT / 1000:.0f} KB", file=sys.stderr)
    except (NotebookFailed, FileNotFoundError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
