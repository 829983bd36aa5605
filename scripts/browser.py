"""Find a Chromium for the tests of the interactives, or install one with apt where that is allowed.

    python scripts/browser.py

Prints its path. Where there is none and none may be installed, it says what to do; that is an
error in CI alone, for elsewhere those tests are skipped.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

VARIABLE = "MINIDIFF_CHROMIUM"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MISSING = (
    "NO BROWSER, so the interactives are not tested: no Chromium or Chrome was found. Install one "
    f"(on Debian: apt install chromium), or let {VARIABLE} name its executable."
)


def find() -> str | None:
    """Return the executable of the first Chromium that starts, or None."""
    if VARIABLE in os.environ:
        named = os.environ[VARIABLE]
        if not _starts(named):
            raise FileNotFoundError(f"{VARIABLE} must name a Chromium that starts, got {named!r}")
        return named
    candidates = [*filter(None, map(shutil.which, NAMES)), *_playwrights_own()]
    return next(filter(_starts, candidates), None)


def _playwrights_own() -> list[str]:
    """Return the Chromium that `playwright install` once left, if any; nothing is downloaded."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return [path] if Path(path).exists() else []


def _starts(executable: str) -> bool:
    """Tell whether the program runs; Ubuntu's `chromium-browser` may be a stub that does not."""
    try:
        command = [executable, "--version"]
        return subprocess.run(command, capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def install() -> bool:
    """Install Chromium with apt, as root or where sudo asks for no password; tell whether it did.

    No other way is tried, and nothing is asked.
    """
    if not shutil.which("apt-get"):
        return False
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if sudo and not (shutil.which("sudo") and _runs(*sudo, "true")):
        return False
    apt = [*sudo, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "--yes"]
    command = [*apt, "install", "--no-install-recommends", "chromium"]
    return _runs(*command) or (_runs(*apt, "update") and _runs(*command))


def _runs(*command: str) -> bool:
    """Tell whether the command ends with exit code 0; what it prints goes to stderr."""
    return subprocess.run(command, stdout=sys.stderr).returncode == 0


def main() -> int:
    """Run the command line; return the exit code."""
    path = find()
    if path is None:
        print("No Chromium found; trying to install it with apt", file=sys.stderr, flush=True)
        path = find() if install() else None
    print(path or MISSING)
    return 1 if path is None and os.environ.get("CI") == "true" else 0


if __name__ == "__main__":
    sys.exit(main())
