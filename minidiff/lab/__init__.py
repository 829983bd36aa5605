"""What a notebook shows: figures, interactives, and how much of the machine to use."""

from minidiff.lab.machine import best_device, budget
from minidiff.lab.preview import preview
from minidiff.lab.show import COLORS, draw_images, draw_mel, figure, gif, play, show, show_images
from minidiff.lab.widgets import Explorer

__all__ = [
    "COLORS",
    "Explorer",
    "best_device",
    "budget",
    "draw_images",
    "draw_mel",
    "figure",
    "gif",
    "play",
    "preview",
    "show",
    "show_images",
]
