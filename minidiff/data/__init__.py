"""What the models learn from: real images that need no account and no open internet."""

from minidiff.data.captions import (
    COLOURS,
    HELD_OUT,
    KINDS,
    PLACES,
    RGB,
    SIZES,
    Captioned,
    Reading,
    Scene,
    caption_words,
    describe,
    draw_scenes,
    load_captioned,
    paint,
    read_pictures,
)
from minidiff.data.digits import load_digits
from minidiff.data.fashion import (
    FASHION_CLASSES,
    DataNotFound,
    fetch_fashion,
    find_fashion,
    load_fashion,
)

__all__ = [
    "COLOURS",
    "FASHION_CLASSES",
    "HELD_OUT",
    "KINDS",
    "PLACES",
    "RGB",
    "SIZES",
    "Captioned",
    "DataNotFound",
    "Reading",
    "Scene",
    "caption_words",
    "describe",
    "draw_scenes",
    "fetch_fashion",
    "find_fashion",
    "load_captioned",
    "load_digits",
    "load_fashion",
    "paint",
    "read_pictures",
]
