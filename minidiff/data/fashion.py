"""Fashion-MNIST: 60,000 + 10,000 real photographs of clothes, 28x28, ten classes.

Xiao et al. 2017, "Fashion-MNIST: a novel image dataset for benchmarking machine learning
algorithms". Four ways lead to its files; ``fetch_fashion`` tries them in turn.
"""

import gzip
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from platformdirs import user_cache_path
from torch import Tensor
from torchvision.datasets import FashionMNIST

FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

# SHA-256 of the *unpacked* files: Debian packed the same bytes anew, so its .gz files differ from
# the publisher's (in the header: no name, another date), and a checksum of those would not serve
# every way.
_SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
_DEBIAN_PACKAGE = "dataset-fashion-mnist"
_DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
_APT_LISTS = Path("/var/lib/apt/lists")
_STALL_SECONDS = 10.0  # a download that gains less than _STALL_BYTES in this time is given up
_STALL_BYTES = 2**18
_WORK_PREFIX = "partial-"
_WORK_EXPIRES = 3600.0  # seconds after which no fetch can still be at work in such a folder
_NETWORK_WAYS = ("torchvision's download", "apt-get download")


class DataNotFound(RuntimeError):
    """No way led to the data; the message names every way, why it failed, and what to do."""


class _WayError(Exception):
    """One way does not lead to the files; its text is the reason."""


class _DamagedError(_WayError):
    """One way led to a file whose content is not Fashion-MNIST; its text names the file."""


def load_fashion(
    split: Literal["train", "test"] = "train", root: Path | None = None, download: bool = True
) -> tuple[Tensor, Tensor]:
    """Load one split of Fashion-MNIST, fetching it first where it is not in the cache.

    Args:
        split: "train" (60,000 images, 6,000 of each class) or "test" (10,000; 1,000).
        root: folder with torchvision's layout, ``root/FashionMNIST/raw/*-ubyte``.
            Default: the environment variable MINIDIFF_CACHE, else the user's cache folder.
        download: False allows only the ways that need no network.

    Returns:
        images (N, 1, 28, 28), float32, pixels 0..255 mapped to [-1, 1] by x / 127.5 - 1, and
        labels (N,), int64, indices into FASHION_CLASSES; both on the CPU.

    Raises:
        ValueError: if ``split`` is neither of the two.
        DataNotFound: if no way leads to the data.

    Example:
        >>> images, labels = load_fashion("test")
        >>> images.shape, FASHION_CLASSES[labels[0]]
        (torch.Size([10000, 1, 28, 28]), 'Ankle boot')
    """
    if split not in ("train", "test"):
        raise ValueError(f'split must be "train" or "test", got {split!r}')
    root = fetch_fashion(root, download)
    dataset = FashionMNIST(str(root), train=split == "train", download=False)
    pixels: Tensor = dataset.data.unsqueeze(1)  # (N, 28, 28) -> (N, 1, 28, 28), uint8
    labels: Tensor = dataset.targets
    return pixels.float().div_(127.5).sub_(1), labels.long()


def find_fashion(root: Path | None = None) -> Path | None:
    """Look for Fashion-MNIST in the cache, fetching nothing; a warning names each damaged file.

    Args:
        root: as in ``load_fashion``.

    Returns:
        the folder for ``torchvision.datasets.FashionMNIST(folder)``, or None where one of its four
        files is missing or damaged.
    """
    root = _root(root)
    complete = True
    for name in _SHA256:
        path = _raw(root) / name
        if not path.is_file():
            complete = False
        elif _sha256(path) != _SHA256[name]:
            message = f"{path} is damaged (wrong SHA-256) and must be fetched again"
            warnings.warn(message, stacklevel=2)
            complete = False
    return root if complete else None


def fetch_fashion(root: Path | None = None, download: bool = True) -> Path:
    """Return the folder that holds Fashion-MNIST, whole and verified; fetch it if need be.

    Each file appears in the cache at once and whole, so a fetch may be killed, and several
    processes may fetch at the same time.

    Args:
        root: as in ``load_fashion``.
        download: False allows only the ways that need no network.

    Returns:
        a folder from which ``torchvision.datasets.FashionMNIST(folder)`` reads.

    Raises:
        DataNotFound: if no way leads to the data, or the folder cannot be written.
    """
    root = _root(root)
    if find_fashion(root) is not None:
        return root
    failures: list[str] = []
    with _work_folder(root) as work:
        ways: dict[str, Callable[[], Path]] = {  # each gives a folder with the four .gz files
            "the user's cache": lambda: _from_cache(root),
            "Debian's package files": _from_debian,
            "torchvision's download": lambda: _from_torchvision(work),
            "apt-get download": lambda: _from_apt(work),
        }
        for name, find_packed in ways.items():
            if name in _NETWORK_WAYS:
                if not download:
                    failures.append(f"{name}: not tried, because download=False")
                    continue
                print(f"Fashion-MNIST (30 MB): trying {name} ...", file=sys.stderr, flush=True)
            try:
                _install(find_packed(), work, _raw(root))
            except (_WayError, OSError) as error:
                if isinstance(error, _DamagedError):
                    warnings.warn(f"{name}: {error}", stacklevel=2)
                failures.append(f"{name}: {error}")
            else:
                return root
    listed = "\n".join(f"  {i}. {failure}" for i, failure in enumerate(failures, start=1))
    raise DataNotFound(
        f"Fashion-MNIST was found in none of these ways:\n{listed}\n"
        "What to do: connect to the internet and try again; "
        f"or run `apt-get install {_DEBIAN_PACKAGE}` as root (Debian, Ubuntu); "
        f"or copy its four files *-ubyte.gz from another machine into {_raw(root)}"
    )


# --- the four ways: each returns a folder with the four .gz files, or raises _WayError ----------


def _from_cache(root: Path) -> Path:
    """Packed files that the user, or torchvision, has put into the cache."""
    if not any((_raw(root) / f"{name}.gz").is_file() for name in _SHA256):
        raise _WayError(f"no *-ubyte.gz files in {_raw(root)}")
    return _raw(root)


def _from_debian() -> Path:
    """Files of the package, where it is installed."""
    if not _DEBIAN_FOLDER.is_dir():
        raise _WayError(f"no folder {_DEBIAN_FOLDER}")
    return _DEBIAN_FOLDER


def _from_torchvision(work: Path) -> Path:
    """The library's own download, in a process that we can kill: it sets no timeout itself."""
    script = (
        "import sys; from torchvision.datasets import FashionMNIST; "
        "FashionMNIST.mirrors = sys.argv[2:]; FashionMNIST(sys.argv[1], download=True)"
    )
    command = [sys.executable, "-c", script, str(work), *FashionMNIST.mirrors]
    _run(command, work, ready=_raw(work))  # imported, it makes that folder first
    return _raw(work)


def _from_apt(work: Path) -> Path:
    """Debian's package, unpacked without being installed: needs no root."""
    for program in ("apt-get", "dpkg"):
        if shutil.which(program) is None:
            raise _WayError(f"there is no {program} on this machine")
    apt_get = ["apt-get", "-q", "-o", "Acquire::Retries=0"]  # _run gives up soon enough
    try:
        _run([*apt_get, "download", _DEBIAN_PACKAGE], work)
    except _WayError as error:
        if "Unable to locate package" not in str(error):
            raise
        if not _is_root():
            raise _WayError(
                f"{error} (are apt's package lists missing? `apt-get update` as root gets them)"
            ) from None
        _run([*apt_get, "update"], _APT_LISTS)
        _run([*apt_get, "download", _DEBIAN_PACKAGE], work)
    for package in work.glob("*.deb"):
        _run(["dpkg", "-x", str(package), str(work)], work)
    return work / "usr/share/datasets/fashion-mnist"


# --- the steps they share -----------------------------------------------------------------------


def _root(root: Path | None) -> Path:
    """The folder that the caller named, else MINIDIFF_CACHE, else the user's cache folder."""
    named = root or os.environ.get("MINIDIFF_CACHE")
    return Path(named).expanduser().absolute() if named else user_cache_path("minidiff")


def _raw(root: Path) -> Path:
    """Where torchvision looks for the files."""
    return root / "FashionMNIST" / "raw"


def _is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _work_folder(root: Path) -> Iterator[Path]:
    """A folder of our own in ``root``: a rename is atomic only within one file system."""
    try:
        _raw(root).mkdir(parents=True, exist_ok=True)
        for left in root.glob(f"{_WORK_PREFIX}*"):  # by a fetch that was killed
            with suppress(FileNotFoundError):  # another process has just ended and removed its own
                if time.time() - left.stat().st_mtime > _WORK_EXPIRES:
                    shutil.rmtree(left, ignore_errors=True)
        work = tempfile.mkdtemp(prefix=_WORK_PREFIX, dir=root)
    except OSError as error:
        raise DataNotFound(
            f"the cache cannot be written ({error}): "
            "set MINIDIFF_CACHE to a folder that you may write to"
        ) from error
    try:
        yield Path(work)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _install(packed: Path, work: Path, raw: Path) -> None:
    """Unpack the four files into ``work``, verify them, and move each into ``raw`` atomically."""
    for name, sha256 in _SHA256.items():
        path = packed / f"{name}.gz"
        try:
            content = gzip.decompress(path.read_bytes())
        except FileNotFoundError:
            raise _WayError(f"no file {path}") from None
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise _DamagedError(f"{path} is damaged ({error})") from error
        if hashlib.sha256(content).hexdigest() != sha256:
            raise _DamagedError(f"{path} is damaged (wrong SHA-256 of its content)")
        with (work / name).open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        (work / name).replace(raw / name)  # atomic: the whole file or none


def _size(folder: Path) -> int:
    """Bytes in all files under ``folder``."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):  # renamed meanwhile by the process that we watch
            total += path.stat().st_size
    return total


def _run(command: Sequence[str], folder: Path, ready: Path | None = None) -> None:
    """Run ``command`` in ``folder``; kill it once the files there have stopped growing.

    The clock stands still until ``ready`` exists: importing torch may take long, and is no stall.
    """
    ready = ready or folder
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "LC_ALL": "C"},  # we read apt's messages
        )
        try:
            size, deadline = _size(folder), time.monotonic() + _STALL_SECONDS
            while process.poll() is None:
                time.sleep(0.05)
                grown = _size(folder)
                if grown - size >= _STALL_BYTES or not ready.exists():
                    size, deadline = grown, time.monotonic() + _STALL_SECONDS
                elif time.monotonic() > deadline:
                    raise _WayError(f"no progress within {_STALL_SECONDS:g} s, given up")
        finally:
            process.kill()
            process.wait()
        output.seek(0)
        said = output.read().decode(errors="replace").strip()
    if process.returncode != 0:
        reason = said.splitlines()[-1] if said else f"exit code {process.returncode}, no message"
        raise _WayError(reason)
