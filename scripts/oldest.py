"""Print pip constraints that pin every dependency to its lower bound in pyproject.toml."""

import re
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"


def lower_bounds(project: dict) -> list[str]:
    """Turn each `name>=1.2` of the dependencies and extras into `name==1.2`.

    A dependency without a lower bound raises ValueError: nobody could test it.
    """
    extras = project["optional-dependencies"].values()
    pins = set()
    for requirement in [*project["dependencies"], *(r for extra in extras for r in extra)]:
        match = re.fullmatch(r"([\w.-]+)(?:>=|==|~=)([\w.]+)", requirement)
        if match is None:
            raise ValueError(f"{requirement!r} must read name>=version, name==version or name~=...")
        pins.add("{}=={}".format(*match.groups()))
    return sorted(pins)


if __name__ == "__main__":
    print("\n".join(lower_bounds(tomllib.loads(PYPROJECT.read_text())["project"])))
