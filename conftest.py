"""Names that the doctests of every module may use."""

from typing import Any

import pytest
import torch

import minidiff


@pytest.fixture(autouse=True)
def _doctest_names(doctest_namespace: dict[str, Any]) -> None:
    doctest_namespace["torch"] = torch
    doctest_namespace.update({name: getattr(minidiff, name) for name in minidiff.__all__})
