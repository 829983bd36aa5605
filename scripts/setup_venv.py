"""Make the course's virtual environment: `python3 scripts/setup_venv.py .venv [EXTRA ...]`.

The same as `python3 -m venv .venv && .venv/bin/pip install -e '.[EXTRA,...]'`, and it also works
where Python comes without venv's own pip (Debian splits it off). It uses the standard library
alone, and syntax old enough that an old Python gets to read the sentence meant for it.
"""

import glob
import os
import shutil
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MINIMUM = (3, 11)  # requires-python in pyproject.toml
DEBIAN_WHEELS = "usr/share/python-wheels/pip-*.whl"


class SetupError(Exception):
    """What went wrong and what to do about it, in one sentence."""


def check_python(version, executable):
    """Raise SetupError where `version`, a tuple such as (3, 9), is too old for the course."""
    if tuple(version[:2]) < MINIMUM:
        raise SetupError(
            f"minidiff needs Python {MINIMUM[0]}.{MINIMUM[1]} or newer, but {executable} is "
            f"{version[0]}.{version[1]}; name a newer one, as in `make setup PYTHON=python3.12`"
        )


def runs(*command, quiet=True):
    """Tell whether `command` ends with exit code 0; a program that is not there does not."""
    try:
        output = subprocess.DEVNULL if quiet else None
        return subprocess.call(command, cwd=ROOT, stdout=output, stderr=output) == 0
    except OSError:
        return False


def venv_python(venv):
    """Return the path of the interpreter in the environment `venv`."""
    parts = ("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")
    return os.path.join(venv, *parts)


def pip_from_debian(python):
    """Put pip into the environment of `python` from Debian's wheel of it; needs no root."""
    with tempfile.TemporaryDirectory() as folder:
        wheels = glob.glob("/" + DEBIAN_WHEELS)
        if not wheels and shutil.which("apt-get") and shutil.which("dpkg"):
            script = 'cd "$0" && apt-get -q download python3-pip-whl && dpkg -x *.deb .'
            runs("sh", "-c", script, folder)
            wheels = glob.glob(os.path.join(folder, DEBIAN_WHEELS))
        # A wheel is a zip archive, and Python runs the package inside it.
        return any(runs(python, w + "/pip", "install", "--no-index", w) for w in wheels)


def make_venv(venv):
    """Create the environment `venv` with a working pip, by the first of four ways that works."""
    python = venv_python(venv)
    if runs(sys.executable, "-m", "venv", venv) and runs(python, "-m", "pip", "--version"):
        return
    shutil.rmtree(venv, ignore_errors=True)
    if runs(sys.executable, "-m", "venv", "--without-pip", venv) and (
        runs(sys.executable, "-m", "pip", "--python", python, "install", "pip")
        or pip_from_debian(python)
    ):
        return
    shutil.rmtree(venv, ignore_errors=True)
    if runs(sys.executable, "-m", "virtualenv", venv):
        return
    shutil.rmtree(venv, ignore_errors=True)
    raise SetupError(
        f"{sys.executable} can make no virtual environment with pip in it; install its venv "
        "module (on Debian and Ubuntu: apt install python3-venv) and try again"
    )


def main(arguments):
    """Make the environment named first and install the project with the extras named after it."""
    venv, extras = os.path.join(ROOT, arguments[0]), ",".join(arguments[1:])
    check_python(sys.version_info, sys.executable)
    if not runs(venv_python(venv), "-m", "pip", "--version"):
        print("Making the virtual environment", arguments[0], flush=True)
        make_venv(venv)
    print("Installing into it; PyTorch and its libraries are large, so be patient", flush=True)
    target = f".[{extras}]" if extras else "."
    if not runs(venv_python(venv), "-m", "pip", "install", "-q", "-e", target, quiet=False):
        raise SetupError(
            "pip could not install the project (its own words stand above); check the network, "
            "pip's settings and the free disk space, then try again: what is done is kept"
        )


if __name__ == "__main__":
    try:
        main(sys.argv[1:] or [".venv", "notebooks", "test", "grading"])
    except SetupError as error:
        sys.exit(f"setup: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
