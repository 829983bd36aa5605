"""What a notebook shows: small pictures with words for them, and controls that are obeyed."""

import base64
import importlib
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ipywidgets
import matplotlib.pyplot as plt
import nbformat
import pytest
import torch
from IPython.core.formatters import DisplayFormatter
from matplotlib.figure import Figure
from PIL import Image, ImageChops

import course
from minidiff.lab import Explorer, best_device, budget, draw_images, figure, gif, show, show_images
from minidiff.lab.show import DPI, png, quick_png, tile

show_module = importlib.import_module("minidiff.lab.show")  # the package's `show` is its function
ALT = 'A line that rises <steeply> & says "more".'


@pytest.fixture(autouse=True)
def _no_figure_is_left_open() -> Iterator[None]:
    yield
    left = plt.get_fignums()
    plt.close("all")
    assert left == []


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Whatever the notebook would display."""
    objects: list[Any] = []
    monkeypatch.setattr(show_module, "display", objects.append)
    return objects


def bundle(thing: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Data and metadata as IPython writes them into a notebook."""
    return DisplayFormatter().format(thing)


def opened(thing: Any, kind: str = "image/png") -> Image.Image:
    data = bundle(thing)[0][kind]
    return Image.open(io.BytesIO(base64.b64decode(data) if isinstance(data, str) else data))


def line(title: str = "How fast?") -> Figure:
    fig, ax = figure(title, size=(4, 3))
    ax.plot([0, 1], [0, 1])
    return fig


# --- pictures -----------------------------------------------------------------------------------


def test_a_figure_becomes_a_small_whole_png() -> None:
    data = png(line())
    image = Image.open(io.BytesIO(data))
    image.load()
    assert image.format == "PNG"
    assert image.size == (4 * DPI, 3 * DPI)
    assert len(data) < 8_000
    assert data == png(line())  # the same bytes each time, so that a notebook's diff stays small


def test_a_figure_drawn_in_little_time_looks_the_same() -> None:
    saved, quick = (Image.open(io.BytesIO(f(line()))).convert("RGB") for f in (png, quick_png))
    assert quick.size == saved.size
    assert ImageChops.difference(quick, saved).convert("L").getextrema()[1] <= 8  # of 255


def test_a_figure_keeps_its_title_colours_and_white_ground() -> None:
    fig = line()
    assert fig.get_suptitle() == "How fast?"
    pixels = Image.open(io.BytesIO(png(fig))).convert("RGB")
    counts = {colour: n for n, colour in pixels.getcolors(2**16)}
    assert max(counts, key=counts.__getitem__) == (255, 255, 255)
    blue = (0x00, 0x72, 0xB2)  # the first of the palette, exactly or after quantisation nearly
    assert min(max(abs(a - b) for a, b in zip(blue, colour, strict=True)) for colour in counts) <= 8


def test_a_figure_may_have_several_axes() -> None:
    fig, axes = figure("Which?", n_rows=2, n_columns=3, sharex=True)
    assert axes.shape == (2, 3)
    plt.close(fig)


def test_the_style_does_not_leak() -> None:
    before = dict(plt.rcParams)
    png(line())
    assert dict(plt.rcParams) == before


def test_the_text_of_a_picture_reaches_the_notebook_and_its_page(
    shown: list[Any], tmp_path: Path
) -> None:
    show(line(), ALT)
    data, metadata = bundle(shown[0])
    assert set(data) == {"image/png", "text/plain"}
    assert metadata["image/png"]["alt"] == ALT
    output = nbformat.v4.new_output(
        "display_data", {**data, "image/png": png_text(data["image/png"])}, metadata=metadata
    )
    cell = nbformat.v4.new_code_cell("show(...)", outputs=[output])
    course.save(nbformat.v4.new_notebook(cells=[cell]), "00_page", tmp_path)
    pages = [path.read_text() for path in tmp_path.rglob("*.html")]
    images = [image for page in pages for image in re.findall(r"<img[^>]*>", page)]
    assert any("rises" in image and "says" in image for image in images)


def png_text(data: bytes | str) -> str:
    return data if isinstance(data, str) else base64.b64encode(data).decode()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("n_images", "n_columns"), [(10, 5), (7, 3), (2, 8), (9, 1)])
def test_a_tile_is_a_grid_with_white_lines(n_images: int, n_columns: int, channels: int) -> None:
    x = torch.rand(n_images, channels, 4, 6) * 1.6 - 0.8
    picture = tile(x, n_columns)
    n_across = min(n_images, n_columns)
    n_down = -(-n_images // n_columns)
    assert picture.shape == (n_down * 5 + 1, n_across * 7 + 1, 3)
    assert (picture[::5] == 1).all()
    assert (picture[:, ::7] == 1).all()
    for i in range(n_images):
        row, column = divmod(i, n_columns)
        part = picture[row * 5 + 1 : row * 5 + 5, column * 7 + 1 : column * 7 + 7]
        expected = ((x[i] + 1) / 2).permute(1, 2, 0).expand(4, 6, 3)
        assert (part - expected).abs().max() <= 1e-6


def test_a_tile_clips_what_is_out_of_range() -> None:
    x = torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0]).view(1, 1, 1, 5).expand(2, 1, 1, 5)
    assert tile(x)[1, 1:6, 0].tolist() == [0, 0, 0.5, 1, 1]


def test_a_tile_takes_whatever_a_model_returns() -> None:
    x = torch.zeros(2, 1, 3, 3, dtype=torch.bfloat16, requires_grad=True)
    assert tile(x).dtype == torch.float32
    assert not tile(x).requires_grad


def test_images_are_drawn_pixel_by_pixel() -> None:
    fig, ax = figure()
    x = torch.rand(4, 1, 3, 3) * 2 - 1
    draw_images(ax, x, title="four", n_columns=2)
    assert ax.get_title() == "four"
    assert (torch.from_numpy(ax.images[0].get_array().data) == tile(x, 2)).all()
    assert ax.images[0].get_clim() == (0, 1)
    plt.close(fig)


def test_of_shrunk_images_no_row_is_left_out():
    fig, (small, large) = figure("", 1, 2, size=(2.0, 1.0))
    draw_images(small, torch.zeros(1, 1, 8, 8))
    draw_images(large, torch.zeros(16, 1, 40, 40), n_columns=16)
    ways = [ax.images[0].get_interpolation() for ax in (small, large)]
    assert ways == ["nearest", "antialiased"]
    plt.close(fig)


def test_rows_of_images_are_shown_with_their_labels(
    shown: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[list[str]] = []

    def noting(fig: Figure, tight: bool = False) -> bytes:
        drawn.append([text.get_text() for text in fig.axes[0].texts])
        return png(fig)

    monkeypatch.setattr(show_module, "png", noting)
    show_images(torch.zeros(6, 1, 8, 8), "What?", ALT, n_columns=3, labels=["early", "late"])
    assert drawn == [["early", "late"]]
    assert bundle(shown[0])[1]["image/png"]["alt"] == ALT
    width, height = opened(shown[0]).size
    assert width <= 7 * DPI + 16  # trimmed, and padded by a tenth of an inch
    assert 7 * DPI / 2 < height < 7 * DPI * 2 / 3 + 0.6 * DPI


@pytest.mark.parametrize("channels", [1, 3])
def test_an_animation_has_its_frames_its_seconds_and_its_colours(
    shown: list[Any], channels: int
) -> None:
    reds = [-1.0, 0.0, 1.0]
    frames = [torch.full((2, channels, 8, 8), -1.0) for _ in reds]
    for frame, red in zip(frames, reds, strict=True):
        frame[:, 0] = red
    gif(frames, ALT, seconds=3.0, scale=2)
    assert bundle(shown[0])[1]["image/gif"]["alt"] == ALT
    image = opened(shown[0], "image/gif")
    assert image.n_frames == 3
    assert image.size == (2 * (2 * 9 + 1), 2 * (8 + 2))
    assert "loop" not in image.info  # plays once and stays
    durations = []
    for i, red in enumerate(reds):
        image.seek(i)
        durations.append(image.info["duration"])
        value = round(255 * (red + 1) / 2)
        expected = (value,) * 3 if channels == 1 else (value, 0, 0)
        pixel = image.convert("RGB").getpixel((6, 6))
        assert max(abs(a - b) for a, b in zip(pixel, expected, strict=True)) <= 8
    assert sum(durations) == 3000


def test_an_animation_plays_again_if_asked(shown: list[Any]) -> None:
    gif([torch.full((1, 1, 8, 8), grey) for grey in (-1.0, 1.0)], ALT, loop=True)
    assert opened(shown[0], "image/gif").info["loop"] == 0  # for ever


# --- interactives -------------------------------------------------------------------------------


@pytest.fixture
def explorer() -> Explorer:
    def draw(t: int, name: str) -> tuple[Figure, str]:
        fig, ax = figure(name)
        ax.axvline(t)
        return fig, f'{name} at t = {t} is <low> & "dark".'

    return Explorer(
        draw,
        {
            "t": ipywidgets.IntSlider(value=3, max=9, description="t"),
            "name": ipywidgets.Dropdown(options=["linear", "cosine"], description="schedule"),
        },
    )


def html_picture(explorer: Explorer) -> tuple[bytes, str]:
    match = re.fullmatch(
        r'<img src="data:image/png;base64,([^"]*)" alt="([^"]*)">', explorer.picture.value
    )
    assert match is not None
    return base64.b64decode(match[1]), match[2]


def test_an_interactive_begins_with_its_first_picture(explorer: Explorer) -> None:
    data, alt = html_picture(explorer)
    assert Image.open(io.BytesIO(data)).format == "PNG"
    assert alt == "linear at t = 3 is &lt;low&gt; &amp; &quot;dark&quot;."
    assert f">{alt}<" in explorer.text.value
    assert explorer.sentence == 'linear at t = 3 is <low> & "dark".'


def test_an_interactive_follows_each_of_its_controls(explorer: Explorer) -> None:
    first = html_picture(explorer)[0]
    explorer.controls["t"].value = 8
    second = html_picture(explorer)[0]
    assert explorer.sentence.startswith("linear at t = 8")
    explorer.controls["name"].value = "cosine"
    third = html_picture(explorer)[0]
    assert html_picture(explorer)[1].startswith("cosine at t = 8")
    assert explorer.sentence.startswith("cosine at t = 8")
    assert len({first, second, third}) == 3
    explorer.controls["name"].value, explorer.controls["t"].value = "linear", 3
    assert html_picture(explorer)[0] == first


def test_the_controls_stand_above_the_picture_and_the_sentence(explorer: Explorer) -> None:
    expected = (*explorer.controls.values(), explorer.picture, explorer.text)
    assert explorer.box.children[: len(expected)] == expected


def test_no_frame_is_drawn_twice() -> None:
    drawn: list[int] = []

    def draw(t: int) -> tuple[Figure, str]:
        drawn.append(t)
        return figure(f"{t}?")[0], f"{t}."

    explorer = Explorer(draw, {"t": ipywidgets.IntSlider(value=3, max=9, description="t")})
    for t in (4, 3, 4, 5):
        explorer.controls["t"].value = t
        assert explorer.sentence == f"{t}."
    assert drawn == [3, 4, 5]


def test_a_moved_picture_has_the_layout_of_one_that_is_drawn_afresh(explorer: Explorer) -> None:
    explorer.controls["t"].value = 8
    fresh, _ = explorer.draw(t=8, name="linear")
    pictures = [Image.open(io.BytesIO(data)) for data in (png(fresh), html_picture(explorer)[0])]
    difference = ImageChops.difference(*(picture.convert("RGB") for picture in pictures))
    assert difference.convert("L").getextrema()[1] <= 8


def test_what_changes_is_announced_to_a_screen_reader(explorer: Explorer) -> None:
    assert 'role="status"' in explorer.text.value


def test_where_no_kernel_runs_the_picture_is_shown(explorer: Explorer) -> None:
    explorer.controls["t"].value = 5
    data, metadata = bundle(explorer)
    assert "application/vnd.jupyter.widget-view+json" in data
    assert base64.b64decode(data["image/png"]) == html_picture(explorer)[0]
    assert data["text/plain"] == explorer.sentence
    assert metadata["image/png"]["alt"] == explorer.sentence


# --- the machine --------------------------------------------------------------------------------


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize(("choice", "expected"), [("quick", 40), ("full", 20_000), ("", None)])
def test_the_budget_obeys_the_environment_and_then_the_machine(
    gpu: bool, choice: str, expected: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setenv("MINIDIFF_BUDGET", choice)
    assert best_device().type == ("cuda" if gpu else "cpu")
    assert budget(quick=40, full=20_000) == (expected or (20_000 if gpu else 40))
    if not choice:
        monkeypatch.delenv("MINIDIFF_BUDGET")
        assert budget(quick=40, full=20_000) == (20_000 if gpu else 40)


def test_an_unknown_budget_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINIDIFF_BUDGET", "fast")
    with pytest.raises(ValueError, match="MINIDIFF_BUDGET must be 'quick' or 'full', got 'fast'"):
        budget(1, 2)
