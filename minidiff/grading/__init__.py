"""Checks for the exercises: `from minidiff.grading import chapter_01 as check`.

`check.forward_diffusion(mine)` says whether a function is right and, if not, which mistake was
made. A chapter's file lists, for each task, the reference and the wrong versions people write.
"""

from minidiff.grading.check import Check, CheckFailed, task
from minidiff.grading.compare import Estimate, Malformed
from minidiff.grading.draw import Draw

__all__ = ["Check", "CheckFailed", "Draw", "Estimate", "Malformed", "task"]
