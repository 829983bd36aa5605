"""What the models learn from: real images that need no account and no open internet."""

from minidiff.data.digits import load_digits
from minidiff.data.fashion import (
    FASHION_CLASSES,
    DataNotFound,
    fetch_fashion,
    find_fashion,
    load_fashion,
)

__all__ = [
    "FASHION_CLASSES",
    "DataNotFound",
    "fetch_fashion",
    "find_fashion",
    "load_digits",
    "load_fashion",
]
