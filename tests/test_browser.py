"""Every interactive of the lessons, driven in JupyterLab by a real browser.

JupyterLab opens one small notebook for each lesson that has interactives. It holds the lesson's
own cells that show one, word for word, below the statements they need: those are found by the
names that the cells use, back to the statement that bound each. A statement that merely alters an
object binds nothing, so no training loop runs: a model is then shown as it was made.
"""

from __future__ import annotations

import ast
import base64
import io
import json
import math
import os
import re
import secrets
import subprocess
import symtable
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

import nbformat
import pytest
import torch
from nbformat.v4 import new_code_cell, new_notebook
from PIL import Image
from playwright.sync_api import Locator, Page, expect, sync_playwright

import browser
from kernel import LESSONS, ROOT
from minidiff.forward import NoiseSchedule, cosine_schedule, linear_schedule
from minidiff.lab import widgets

SHOTS = ROOT / "build" / "browser"
PATIENCE = 120_000  # ms for what a kernel computes first; a move is allowed far less
MAX_MS = 300  # from the press of a key to the new picture; holds for two idle cores

# --- the notebooks ------------------------------------------------------------------------------


def names(code: str) -> tuple[set[str], set[str]]:
    """Return the names that top-level code binds, and those that it uses, in functions too."""
    top = symtable.symtable(code, "cell", "exec")
    bound = {s.get_name() for s in top.get_symbols() if s.is_assigned() or s.is_imported()}
    used = {s.get_name() for s in top.get_symbols() if s.is_referenced()}
    inner = list(top.get_children())
    while inner:
        table = inner.pop()
        used |= {s.get_name() for s in table.get_symbols() if s.is_global()}
        inner += table.get_children()
    return bound, used


def explorers(cell: str) -> list[str]:
    """Return the names of the explorers that a cell calls."""
    calls = (node.func for node in ast.walk(ast.parse(cell)) if isinstance(node, ast.Call))
    return [f.id for f in calls if isinstance(f, ast.Name) and f.id.endswith("_explorer")]


def excerpt(lesson: Path) -> list[str]:
    """Return the cells of a lesson that show an explorer, and what they need, in order."""
    cells: list[str] = []
    needed: set[str] = set()
    sources = [c.source for c in nbformat.read(lesson, as_version=4).cells if c.cell_type == "code"]
    for source in reversed(sources):
        whole = bool(explorers(source))
        kept = []
        for statement in reversed(ast.parse(source).body):
            bound, used = names(ast.unparse(statement))
            if whole or bound & needed:
                needed = needed - bound | used
                kept.append(ast.get_source_segment(source, statement))
        if kept:
            cells.append(source if whole else "\n".join(reversed(kept)))
    return cells[::-1]


EXCERPTS = {
    path.stem: cells for path in sorted(LESSONS.glob("*.ipynb")) if (cells := excerpt(path))
}
EXPLORERS = [
    (stem, name) for stem, cells in EXCERPTS.items() for c in cells for name in explorers(c)
]


def test_every_explorer_of_the_package_stands_in_a_lesson_and_none_trains():
    assert {name for _, name in EXPLORERS} == {n for n in dir(widgets) if n.endswith("_explorer")}
    for cells in EXCERPTS.values():
        used = set().union(*(names(cell)[1] for cell in cells))
        assert not used & {"train", "train_step", "fit"}


def test_the_browser_that_is_named_must_start(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(browser.VARIABLE, "/no/such/chromium")
    with pytest.raises(FileNotFoundError, match="must name a Chromium that starts, got '/no/such"):
        browser.find()
    monkeypatch.setenv(browser.VARIABLE, sys.executable)  # it too has --version
    assert browser.find() == sys.executable


@pytest.mark.parametrize(("ci", "code"), [("true", 1), ("", 0)])
def test_a_missing_browser_is_an_error_in_ci_alone(ci, code, monkeypatch, capsys):
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(browser, "find", lambda: None)
    monkeypatch.setattr(browser, "install", lambda: False)
    assert browser.main() == code
    assert browser.MISSING in capsys.readouterr().out


# --- JupyterLab ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium() -> str:
    """The browser's executable; without one the tests are skipped, or fail where it must be."""
    path = browser.find()
    if path is None:
        if os.environ.get("CI") == "true":
            pytest.fail(browser.MISSING, pytrace=False)
        warnings.warn(browser.MISSING, stacklevel=1)
        pytest.skip(browser.MISSING)
    return path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of a JupyterLab that knows no settings and no kernel but ours; its folder."""
    home, folder = tmp_path_factory.mktemp("jupyter"), tmp_path_factory.mktemp("lessons")
    settings = home / "config" / "labconfig" / "page_config.json"
    settings.parent.mkdir(parents=True)
    news = "@jupyterlab/apputils-extension:announcements"  # would ask the network
    settings.write_text(json.dumps({"disabledExtensions": {news: True}}))
    token = secrets.token_hex()
    env = os.environ | {
        "IPYTHONDIR": str(home / "ipython"),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTER_TOKEN": token,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    }
    options = [
        "--no-browser",
        "--expose-app-in-browser",
        f"--ServerApp.root_dir={folder}",
        "--ServerApp.ip=127.0.0.1",
        "--ServerApp.port=0",
        "--ServerApp.allow_root=True",
        "--KernelSpecManager.kernel_dirs=[]",  # so `python3` means this interpreter
        "--MappingKernelManager.cull_idle_timeout=300",  # should this process be killed,
        "--MappingKernelManager.cull_connected=True",  # the server ends by itself
        "--ServerApp.shutdown_no_activity_timeout=300",
    ]
    with (home / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options],
            cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
        try:
            yield f"{address(process, home)}lab?token={token}", folder
        finally:
            process.terminate()  # it ends its kernels first
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def address(process: subprocess.Popen[bytes], home: Path) -> str:
    """Wait for the server and return its address, on whatever port it found free."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        for path in (home / "runtime").glob("jpserver-*.json"):
            try:
                return str(json.loads(path.read_text())["url"])
            except json.JSONDecodeError:
                pass  # it is still being written
        time.sleep(0.1)
    pytest.fail(f"JupyterLab did not start:\n{(home / 'log').read_text()}", pytrace=False)


@pytest.fixture(scope="module")
def page(chromium: str, server: tuple[str, Path]) -> Iterator[Page]:
    """JupyterLab in the browser; page.problems holds what the browser complained of."""
    with sync_playwright() as playwright:
        driven = playwright.chromium.launch(executable_path=chromium)
        page = driven.new_page(viewport={"width": 1100, "height": 1500})
        problems: list[str] = []
        page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda r: None if is_local(r.url) else problems.append(r.url))
        page.goto(server[0], timeout=PATIENCE)
        page.wait_for_function("window.jupyterapp", timeout=PATIENCE)
        page.evaluate("window.jupyterapp.restored.then(() => null)")
        page.problems = problems
        yield page
        driven.close()


def is_local(url: str) -> bool:
    """Tell whether the browser asks nobody but the server for this."""
    return url.startswith(("data:", "blob:")) or urlsplit(url).hostname in (
        "localhost",
        "127.0.0.1",
    )


@pytest.fixture(scope="module")
def notebook(
    page: Page, server: tuple[str, Path], request: pytest.FixtureRequest
) -> Iterator[Notebook]:
    """One lesson's notebook, open in JupyterLab with every cell run."""
    opened = Notebook(page, server[1] / f"{request.param}.ipynb", EXCERPTS[request.param])
    opened.run()
    yield opened
    page.evaluate("panel.sessionContext.shutdown().then(() => panel.dispose())")


class Notebook:
    """A notebook in JupyterLab, which the page's scripts call `panel`."""

    def __init__(self, page: Page, path: Path, cells: list[str]) -> None:
        self.page, self.path, self.cells = page, path, cells
        spec = {"display_name": "Python 3", "language": "python", "name": "python3"}
        content = new_notebook(cells=list(map(new_code_cell, cells)), metadata={"kernelspec": spec})
        nbformat.write(content, path)
        page.evaluate(
            """async path => {
                window.panel = await jupyterapp.commands.execute("docmanager:open", {path});
                await panel.context.ready;
                await panel.sessionContext.ready;
                await panel.sessionContext.session.kernel.info;
            }""",
            path.name,
        )

    def run(self) -> None:
        """Run every cell, wait for the explorers, and save."""
        self.page.evaluate("jupyterapp.commands.execute('notebook:run-all-cells').then(() => null)")
        pictures = self.page.locator(".jp-Notebook:visible .widget-html-content img")
        expect(pictures).to_have_count(sum(len(explorers(c)) for c in self.cells), timeout=PATIENCE)
        self.page.evaluate("panel.context.save()")

    def explorer(self, name: str) -> Explorer:
        """Return what the browser shows of the explorer of this name."""
        cell = next(i for i, cell in enumerate(self.cells) if name in explorers(cell))
        return Explorer(
            self.page, self.page.locator(".jp-Notebook:visible .jp-Cell").nth(cell), name
        )

    def saved(self, name: str) -> nbformat.NotebookNode:
        """Return the output of the explorer's cell in the notebook's file."""
        cells = nbformat.read(self.path, as_version=4).cells
        (output,) = next(c.outputs for c in cells if name in explorers(c.source))
        return output


# --- what the browser shows ---------------------------------------------------------------------


@dataclass(frozen=True)
class State:
    """What a reader sees: the controls' values by name, the sentence, the picture's bytes."""

    values: dict[str, str]
    sentence: str
    picture: bytes


class Explorer:
    """An explorer in the page, known by what a screen reader is told: roles and names."""

    def __init__(self, page: Page, cell: Locator, name: str) -> None:
        self.page, self.cell, self.name = page, cell, name
        self.picture = cell.locator(".widget-html-content img")
        self.controls = {}
        for role in ("combobox", "slider"):
            for control in cell.get_by_role(role).all():
                expect(control).to_have_accessible_name(re.compile(r"\S"))
                self.controls[control.evaluate(NAME_OF)] = control

    def values(self) -> dict[str, str]:
        """Return the controls' values as they are written beside them."""
        return {
            name: control.input_value()
            if is_dropdown(control)
            else self.cell.get_by_role("textbox", name=name, exact=True).inner_text()
            for name, control in self.controls.items()
        }

    def state(self) -> State:
        """Wait until sentence and picture are those of the controls' values, and return all."""
        deadline = time.monotonic() + 20
        while True:
            values = self.values()
            sentence = self.cell.get_by_role("status").inner_text()
            source, alt = (self.picture.get_attribute(key) or "" for key in ("src", "alt"))
            if alt == sentence and re.match(READS[self.name](values), sentence):
                return State(values, sentence, base64.b64decode(source.partition("base64,")[2]))
            assert time.monotonic() < deadline, f"{values}, but: {sentence!r}; alt text: {alt!r}"
            time.sleep(0.02)

    def screenshot(self, number: int, moved: str) -> None:
        """Keep a picture for whoever wants to look at it."""
        SHOTS.mkdir(parents=True, exist_ok=True)
        self.cell.screenshot(path=SHOTS / f"{self.name}_{number}_{moved.replace(' ', '_')}.png")


NAME_OF = "e => e.getAttribute('aria-label') || e.labels[0].textContent"


def is_dropdown(control: Locator) -> bool:
    """Tell a dropdown from a slider."""
    return bool(control.evaluate("e => e.tagName === 'SELECT'"))


# How the sentence of an explorer begins when its controls have these values.


def gaussian(v: dict[str, str]) -> str:
    mu_p, sigma_p, mu_q, sigma_q = (float(x.replace("\N{MINUS SIGN}", "-")) for x in v.values())
    mu, sigma = (mu_p, mu_q), (sigma_p, sigma_q)

    def kl(p: int, q: int) -> float:
        ratio, distance = (sigma[p] / sigma[q]) ** 2, ((mu[p] - mu[q]) / sigma[q]) ** 2
        return 0.5 * (ratio + distance - 1 - math.log(ratio))

    return re.escape(f"KL(p || q) = {kl(0, 1):.3f} nats and KL(q || p) = {kl(1, 0):.3f} nats: ")


def weights(schedule: NoiseSchedule, t: int) -> str:
    a_bar = float(schedule.alphas_cumprod[t])
    return f"{a_bar**0.5:.4f} x_0 + {(1 - a_bar) ** 0.5:.4f} noise. "


def chain(v: dict[str, str]) -> str:
    name, n_steps = v["schedule"], int(v["T"])
    if name == "linear" and n_steps <= 20:
        return r"No such chain: n_steps must be greater than 20\b.*\bgot 20\b"
    unscaled = torch.linspace(1e-4, 0.02, n_steps, dtype=torch.float64)
    makers = {
        "linear": linear_schedule,
        "cosine": cosine_schedule,
        "linear, unscaled": lambda _: NoiseSchedule(unscaled),
    }
    last = weights(makers[name](n_steps), -1)
    return re.escape(f"T = {n_steps}, {name}: the last image is {last}It is ")


def forward(v: dict[str, str]) -> str:
    name, t = v["schedule"], int(v["t"])
    schedule = {"linear": linear_schedule, "cosine": cosine_schedule}[name]()
    return re.escape(f"t = {t}, {name}: x_t = {weights(schedule, t)}SNR ")


READS = {
    "gaussian_explorer": gaussian,
    "schedule_explorer": chain,
    "forward_explorer": forward,
    "feature_map_explorer": lambda v: (
        rf"Channel {v['channel']} of \d+, {v['level']} \(\d+x\d+\), t = {v['t']}: its values lie "
    ),
    "loss_explorer": lambda v: rf"t = {v['t']}: x_t = [\d.]+ x_0 \+ [\d.]+ noise\. The loss is ",
    "trajectory_explorer": lambda v: rf"Step {v['step']} of 100, at t = \d+: the predicted x_0 ",
    "evaluation_explorer": lambda v: (
        rf"{v['fault']}, strength {v['strength']} of 5: Frechet distance [\d.]+ \(real: [\d.]+\), "
    ),
    "variance_explorer": lambda v: (
        rf"t = {v['t']}, {v['number of steps']} steps: (beta_tilde is \S+ and beta |the last step)"
    ),
    "few_steps_explorer": lambda v: (
        rf"DDIM with eta = {v['eta']} in {v['calls']} calls(, which is DDPM,)? is "
        if v["sampler"] == "DDIM"
        else rf"DPM-Solver\+\+ in {v['calls']} calls \(eta = {v['eta']} is not used\) is "
    ),
    "guidance_explorer": lambda v: (
        rf"s = {v['guidance scale']}, {re.escape(v['class'])}, noise {v['new noise']}: two of the "
    ),
    "interpolation_explorer": lambda v: (
        rf"{v['eighths of the way']} / 8 of the way from "
        rf"{re.escape(v['pair'].replace(' - ', ' to '))}\. To the nearest real image: pixels "
    ),
    "inpaint_explorer": lambda v: (
        rf"{re.escape(v['picture'])}, each step {v['each step']}: \d+ of 784 pixels (are|were) "
    ),
    "speech_explorer": lambda v: rf"Step {v['step']} of 20, at t = \d+: \d of 3 words are right; ",
    "harmony_explorer": lambda v: (
        rf"{re.escape(v['chorale'])}, {re.escape(v['lower voices'])}( voices)?: \d+ of 32 beats "
    ),
    "caption_explorer": lambda v: rf"{re.escape(v['caption'])}, noise {v['noise']}: the word ",
}

# --- the tests ----------------------------------------------------------------------------------


@pytest.fixture
def explorer(notebook: Notebook, name: str) -> Iterator[Explorer]:
    """The explorer; after the test, neither page nor browser may have complained."""
    yield notebook.explorer(name)
    complaints = list(notebook.page.problems)
    notebook.page.problems.clear()
    assert complaints == []
    assert notebook.page.locator(".jp-Dialog, .jp-OutputArea [data-mime-type*=err]").count() == 0


@pytest.mark.parametrize(
    ("notebook", "name"),
    EXPLORERS,
    indirect=["notebook"],
    ids=[f"{stem[:2]}-{name}" for stem, name in EXPLORERS],
    scope="module",
)
@pytest.mark.slow
class TestExplorer:
    def test_its_first_picture_is_saved_for_where_no_kernel_runs(
        self, notebook: Notebook, name: str, explorer: Explorer
    ) -> None:
        first, output = explorer.state(), notebook.saved(name)
        explorer.screenshot(0, "first")
        data = base64.b64decode(output.data["image/png"])
        assert Image.open(io.BytesIO(data)).format == "PNG"
        assert data == first.picture
        assert output.metadata["image/png"]["alt"] == first.sentence

    def test_a_move_is_shown_before_one_has_to_wait(
        self, notebook: Notebook, name: str, explorer: Explorer
    ) -> None:
        """The median move, to a state never drawn before, on cores that have nothing else to do.

        There are three rounds, of which one must do. Only where others keep the processor busy
        throughout, and never in CI, is the question left open.
        """
        medians: list[float] = []
        for pause in (0, 3, 10):
            if pause:
                time.sleep(pause)
                notebook.run()  # makes new explorers, which have drawn nothing
                explorer = notebook.explorer(name)
            seen, took = [explorer.state().picture], []
            for control in explorer.controls.values():
                key = further(control)
                for _ in range(4):
                    took.append(milliseconds(explorer, control, key))
                    seen.append(explorer.state().picture)
                    assert seen[-1] not in seen[:-1]
                    if further(control) != key:
                        break  # it stands at its end, and back is where it has been
            print(*(f"{ms:.0f}" for ms in took), "ms")
            medians.append(median(took))
            if medians[-1] < MAX_MS:
                return
        if is_busy() and os.environ.get("CI") != "true":
            pytest.skip(f"NOT MEASURED, the processor is busy: a move took {min(medians):.0f} ms")
        pytest.fail(f"the median move is shown after {medians} ms in three rounds, not {MAX_MS}")

    def test_the_keyboard_alone_reaches_and_moves_each_control(self, explorer: Explorer) -> None:
        explorer.cell.evaluate("cell => { cell.focus(); }")
        for number, (name, control) in enumerate(explorer.controls.items(), 1):
            tab_to(control)
            first = explorer.state()
            key = further(control)
            explorer.page.keyboard.press(key)
            moved = explorer.state()
            assert moved.values[name] != first.values[name]
            assert moved.sentence != first.sentence
            assert moved.picture != first.picture
            explorer.screenshot(number, f"key_{name}")
            explorer.page.keyboard.press(OPPOSITE[key])
            assert explorer.state() == first

    def test_the_mouse_moves_each_control(self, explorer: Explorer) -> None:
        for number, (name, control) in enumerate(explorer.controls.items(), 1):
            first = explorer.state()
            states = []
            for move in (choose,) if is_dropdown(control) else (click, drag):
                move(control)
                states.append(explorer.state())
            for before, after in pairwise([first, *states]):
                assert after.values[name] != before.values[name]
                assert after.sentence != before.sentence
                assert after.picture != before.picture
            explorer.screenshot(number, f"mouse_{name}")


OPPOSITE = {"ArrowDown": "ArrowUp", "ArrowRight": "ArrowLeft"}
OPPOSITE |= {back: there for there, back in OPPOSITE.items()}


def further(control: Locator) -> str:
    """Return the key that moves a control on, or back where it stands at its end."""
    if is_dropdown(control):
        at_end = control.evaluate("e => e.selectedIndex == e.options.length - 1")
        return "ArrowUp" if at_end else "ArrowDown"
    at_end = control.evaluate("e => e.ariaValueNow == e.ariaValueMax")
    return "ArrowLeft" if at_end else "ArrowRight"


def tab_to(control: Locator) -> None:
    """Press Tab until the control has the focus."""
    for _ in range(30):
        control.page.keyboard.press("Tab")
        if control.evaluate("e => e === document.activeElement"):
            return
    pytest.fail("30 presses of Tab do not reach the control")


def choose(dropdown: Locator) -> None:
    """Choose another option of a dropdown."""
    index = dropdown.evaluate("e => (e.selectedIndex + 1) % e.options.length")
    dropdown.select_option(index=index)


def fraction(slider: Locator) -> float:
    """Return where the handle stands, from 0 (left) to 1."""
    return slider.evaluate(
        "e => (e.ariaValueNow - e.ariaValueMin) / (e.ariaValueMax - e.ariaValueMin)"
    )


def track(slider: Locator, part: float) -> tuple[float, float]:
    """Return the point of the page that lies at this part of the slider's track."""
    box = slider.locator("xpath=ancestor::*[contains(@class, 'noUi-base')]").bounding_box()
    return box["x"] + part * box["width"], box["y"] + box["height"] / 2


def click(slider: Locator) -> None:
    """Click on the track, far from the handle."""
    part = 0.25 if fraction(slider) > 0.5 else 0.75
    slider.page.mouse.click(*track(slider, part))
    assert abs(fraction(slider) - part) <= 0.15


def drag(slider: Locator) -> None:
    """Drag the handle to the other half of the track."""
    part = 0.1 if fraction(slider) > 0.5 else 0.9
    slider.hover()
    slider.page.mouse.down()
    slider.page.mouse.move(*track(slider, part), steps=8)
    slider.page.mouse.up()
    assert abs(fraction(slider) - part) <= 0.15


def is_busy() -> bool:
    """Tell whether other processes take a good part of the processor from this one."""
    wall, own = time.perf_counter(), time.process_time()
    while time.process_time() - own < 0.5:
        pass
    return time.perf_counter() - wall > 0.7


def milliseconds(explorer: Explorer, control: Locator, key: str) -> float:
    """Press a key on a control; return the time from the press until the new picture is painted."""
    control.focus()
    explorer.picture.evaluate(TIMER)
    explorer.page.keyboard.press(key)
    return float(explorer.page.evaluate("window.shown"))


TIMER = """
picture => {
    const frame = picture.parentElement;
    window.shown = new Promise((resolve, reject) => {
        setTimeout(reject, 20000, "no new picture after 20 s");
        let start;
        const pressed = event => { start = event.timeStamp; };
        addEventListener("keydown", pressed, {capture: true, once: true});
        new MutationObserver(async (_, observer) => {
            observer.disconnect();
            await frame.querySelector("img").decode();
            const painted = () => setTimeout(() => resolve(performance.now() - start));
            requestAnimationFrame(painted);
        }).observe(frame, {childList: true});
    });
}
"""


@pytest.mark.parametrize(
    "notebook", [stem for stem, name in EXPLORERS if name == "inpaint_explorer"], indirect=True
)
@pytest.mark.slow
def test_a_mask_is_drawn_with_mouse_and_keyboard_and_filled_in(notebook: Notebook) -> None:
    explorer = notebook.explorer("inpaint_explorer")
    cell, keyboard = explorer.cell, explorer.page.keyboard
    orange = "rgb(213, 94, 0)"

    def square(row: int, column: int) -> Locator:
        return cell.get_by_role("button", name=f"row {row}, column {column}", exact=True)

    cell.get_by_role("button", name="hide nothing").click()
    expect(square(1, 14)).not_to_have_css("background-color", orange)
    first, last = (square(3, column).bounding_box() for column in (3, 6))
    explorer.page.mouse.move(first["x"] + 9, first["y"] + 9)
    explorer.page.mouse.down()
    explorer.page.mouse.move(last["x"] + 9, last["y"] + 9, steps=12)
    explorer.page.mouse.up()
    for column in (3, 4, 5, 6):  # drawn across
        expect(square(3, column)).to_have_css("background-color", orange)
    square(1, 1).focus()
    for key in ("ArrowRight", "ArrowDown", "Space"):
        keyboard.press(key)
    expect(square(2, 2)).to_have_css("background-color", orange)
    expect(square(1, 1)).not_to_have_css("background-color", orange)
    before = explorer.state()
    cell.get_by_role("button", name="inpaint", exact=True).click()
    status = cell.get_by_role("status")
    expect(status).to_contain_text("20 of 784 pixels were hidden", timeout=PATIENCE)
    after = explorer.state()
    assert after.values == before.values
    assert after.picture != before.picture
    explorer.screenshot(9, "drawn_by_hand")
