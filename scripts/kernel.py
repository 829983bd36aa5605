"""What the scripts share: find the lessons, execute one in a fresh kernel, drop its widgets."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent
LESSONS = ROOT / "notebooks"
WIDGET = "application/vnd.jupyter.widget-view+json"
ANSI = re.compile(r"\x1b\[[0-9;]*m")


class NotebookFailed(Exception):
    """A cell failed; the message holds its source and the error."""


class OwnKernel(AsyncKernelManager):
    """Starts the ipykernel of the interpreter that runs this, whatever kernels are installed."""

    def _kernel_spec_manager_default(self) -> KernelSpecManager:
        return KernelSpecManager(kernel_dirs=[])  # nothing to find, so `python3` means this one


def lessons(only: str | None = None) -> list[Path]:
    """Return the lessons in reading order, or those alone whose file name begins with `only`."""
    found = sorted(LESSONS.glob(f"{only or ''}*.ipynb"))
    if not found:
        wanted = f" that begins with {only}" if only else ""
        raise FileNotFoundError(f"{LESSONS} holds no notebook{wanted}")
    return found


def execute(
    notebook: NotebookNode, folder: Path, env: Mapping[str, str] | None = None, timeout: int = 1800
) -> None:
    """Run every cell of `notebook` in a new kernel; its outputs land in `notebook` itself.

    Args:
        notebook: the notebook; where a cell fails it keeps the outputs up to and with that cell.
        folder: the kernel's working directory.
        env: environment variables that the kernel gets beside this process's own.
        timeout: seconds that one cell may take.

    Raises:
        NotebookFailed: a cell raised, took too long, or the kernel died in it.
    """
    started: list[int] = []
    client = NotebookClient(
        notebook,
        kernel_manager_class=OwnKernel,
        kernel_name="python3",
        extra_arguments=["--log-level=CRITICAL"],  # its start-up remarks would break progress lines
        timeout=timeout,
        coalesce_streams=True,
        record_timing=False,
        store_widget_state=False,
        resources={"metadata": {"path": str(folder)}},
        on_cell_start=lambda cell, cell_index: started.append(cell_index),
    )
    try:
        client.execute(env={**os.environ, **(env or {})})
        return
    except CellExecutionError as error:
        raise NotebookFailed(ANSI.sub("", str(error))) from None  # it quotes the cell itself
    except CellTimeoutError:
        reason = f"it took longer than {timeout} s"
    except DeadKernelError:
        reason = "the kernel was interrupted or died, perhaps for want of memory"
    raise NotebookFailed(f"A cell failed: {reason}.\n\n{notebook.cells[started[-1]].source}")


def drop_widgets(notebook: NotebookNode) -> None:
    """Remove the views of widgets, which are dead without a kernel, and their saved state.

    A cell that shows a widget also shows a picture of it (minidiff.lab), and that one stays.
    """
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        for output in cell.outputs:
            if output.get("data", {}).pop(WIDGET, None) is not None:
                output.data.pop("text/plain", None)
        cell.outputs = [o for o in cell.outputs if o.get("data", True)]
