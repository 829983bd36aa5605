"""Every way to the data, every failure, and the tensors that come out."""

import errno
import functools
import gzip
import hashlib
import os
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random

import pytest
import torch
from platformdirs import user_cache_path
from torchvision.datasets import FashionMNIST

from minidiff.data import (
    FASHION_CLASSES,
    DataNotFound,
    digits,
    fashion,
    fetch_fashion,
    find_fashion,
    load_digits,
    load_fashion,
)

NAMES = tuple(fashion._SHA256)
needs_posix = pytest.mark.skipif(os.name != "posix", reason="needs fork, signals and sh")


# --- a small stand-in of the same layout, so that every failure can be played in milliseconds ---


@dataclass
class Stand:
    """Where the code under test looks, and what it should find there."""

    cache: Path
    debian: Path
    content: dict[str, bytes]

    @property
    def raw(self) -> Path:
        return self.cache / "FashionMNIST" / "raw"

    def pack(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.content.items():
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        return folder

    def is_whole(self) -> bool:
        """Whether the cache holds the four files, right to the last byte, and nothing else."""
        return files_under(self.cache) == {self.raw / n: c for n, c in self.content.items()}


def files_under(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def idx_images(pixels: bytes) -> bytes:
    return struct.pack(">4i", 0x803, len(pixels) // 784, 28, 28) + pixels


def idx_labels(labels: bytes) -> bytes:
    return struct.pack(">2i", 0x801, len(labels)) + labels


def stand_in(content: dict[str, bytes], folder: Path, monkeypatch: pytest.MonkeyPatch) -> Stand:
    """Make the code look only into ``folder`` and expect ``content``, with no network."""

    def offline(work: Path) -> Path:
        raise fashion._WayError("offline")

    stand = Stand(folder / "cache", folder / "debian", content)
    sha256 = {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}
    monkeypatch.setenv("MINIDIFF_CACHE", str(stand.cache))
    monkeypatch.setattr(fashion, "_SHA256", sha256)
    monkeypatch.setattr(fashion, "_DEBIAN_FOLDER", stand.debian)
    monkeypatch.setattr(fashion, "_from_torchvision", offline)
    monkeypatch.setattr(fashion, "_from_apt", offline)
    return stand


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the real programs: on a busy machine they may be slow, which is not what is tested."""
    monkeypatch.setattr(fashion, "_STALL_SECONDS", 120.0)


@pytest.fixture
def stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stand:
    pixels = bytes([0, 51, 255]) + Random(0).randbytes(3 * 784 - 3)
    content = {
        "train-images-idx3-ubyte": idx_images(pixels),
        "train-labels-idx1-ubyte": idx_labels(bytes([9, 0, 3])),
        "t10k-images-idx3-ubyte": idx_images(pixels[784:]),
        "t10k-labels-idx1-ubyte": idx_labels(bytes([2, 1])),
    }
    return stand_in(content, tmp_path, monkeypatch)


# --- ways that need no network ------------------------------------------------------------------


def test_debian_files_are_copied_into_the_cache_and_read(stand: Stand) -> None:
    stand.pack(stand.debian)
    assert find_fashion() is None
    images, labels = load_fashion("train", download=False)
    assert stand.is_whole()
    assert find_fashion() == stand.cache
    assert images.shape == (3, 1, 28, 28)
    assert images.flatten()[:3].tolist() == pytest.approx([-1.0, 51 / 127.5 - 1, 1.0], abs=1e-7)
    assert labels.tolist() == [9, 0, 3]


def test_what_lies_in_the_cache_is_not_fetched_again(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand.pack(stand.debian)
    fetch_fashion()
    monkeypatch.setattr(fashion, "_install", lambda *_: pytest.fail("fetched a second time"))
    assert fetch_fashion() == stand.cache


def test_packed_files_in_the_cache_come_first(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand.pack(stand.raw)
    monkeypatch.setattr(fashion, "_from_debian", lambda: pytest.fail("the cache comes first"))
    fetch_fashion()
    assert {name: (stand.raw / name).read_bytes() for name in NAMES} == stand.content


def test_the_folder_is_the_argument_else_the_variable_else_the_users_cache(
    stand: Stand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand.pack(stand.debian)
    assert fetch_fashion(tmp_path / "mine") == tmp_path / "mine"
    assert not stand.cache.exists()
    assert fetch_fashion() == stand.cache
    monkeypatch.setenv("MINIDIFF_CACHE", "here")  # relative to where the process stands
    monkeypatch.chdir(tmp_path)
    assert fetch_fashion() == tmp_path / "here"
    monkeypatch.delenv("MINIDIFF_CACHE")
    assert fashion._root(None) == user_cache_path("minidiff")


def test_torchvision_reads_the_same_folder(stand: Stand) -> None:
    stand.pack(stand.debian)
    dataset = FashionMNIST(str(fetch_fashion()), train=False, download=False)
    images, labels = load_fashion("test")
    assert torch.equal(((images[:, 0] + 1) * 127.5).round().byte(), dataset.data)
    assert torch.equal(labels, dataset.targets)


# --- damage -------------------------------------------------------------------------------------


def flip_last_byte(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def empty(data: bytes) -> bytes:
    return b""


def page_of_html(data: bytes) -> bytes:
    return b"<html>please log in to the wireless network</html>"


DAMAGE = [flip_last_byte, cut, empty, page_of_html]


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_cached_file_is_named_and_fetched_again(
    stand: Stand, name: str, damage: Callable[[bytes], bytes]
) -> None:
    stand.pack(stand.debian)
    fetch_fashion()
    path = stand.raw / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(UserWarning, match=f"{name} is damaged") as caught:
        assert find_fashion() is None
    assert len(caught) == 1
    with pytest.warns(UserWarning, match=f"{name} is damaged"):
        fetch_fashion()
    assert stand.is_whole()


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_debian_file_is_named_and_the_next_way_is_tried(
    stand: Stand,
    name: str,
    damage: Callable[[bytes], bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = stand.pack(stand.debian) / f"{name}.gz"
    path.write_bytes(damage(path.read_bytes()))
    monkeypatch.setattr(fashion, "_from_apt", lambda work: stand.pack(tmp_path / "apt"))
    with pytest.warns(UserWarning, match=f"Debian's package files: .*{name}.gz is damaged"):
        fetch_fashion()
    assert stand.is_whole()


def test_an_incomplete_debian_folder_is_left_for_the_next_way(
    stand: Stand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (stand.pack(stand.debian) / f"{NAMES[2]}.gz").unlink()
    monkeypatch.setattr(fashion, "_from_torchvision", lambda work: stand.pack(tmp_path / "mirror"))
    fetch_fashion()
    assert stand.is_whole()


# --- no way works -------------------------------------------------------------------------------


@pytest.mark.usefixtures("patient")
def test_the_error_names_every_way_why_it_failed_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed_port = server.getsockname()[1]
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(FashionMNIST, "mirrors", [f"http://127.0.0.1:{closed_port}/"])
    monkeypatch.setattr(fashion, "_DEBIAN_FOLDER", tmp_path / "debian")
    monkeypatch.setattr(shutil, "which", lambda program: None)
    with pytest.raises(DataNotFound) as error:
        fetch_fashion(tmp_path)
    raw = tmp_path / "FashionMNIST" / "raw"
    head, cache, debian, torchvision, apt, what_to_do = str(error.value).splitlines()
    assert head == "Fashion-MNIST was found in none of these ways:"
    assert cache == f"  1. the user's cache: no *-ubyte.gz files in {raw}"
    assert debian == f"  2. Debian's package files: no folder {tmp_path / 'debian'}"
    assert torchvision.startswith("  3. torchvision's download: ")
    assert "refused" in torchvision
    assert apt == "  4. apt-get download: there is no apt-get on this machine"
    assert what_to_do.startswith("What to do: connect to the internet")
    assert "apt-get install dataset-fashion-mnist" in what_to_do
    assert what_to_do.endswith(str(raw))
    assert files_under(tmp_path) == {}


def test_without_download_no_network_way_is_tried(
    stand: Stand, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for way in ("_from_torchvision", "_from_apt"):
        monkeypatch.setattr(fashion, way, lambda work: pytest.fail("used the network"))
    with pytest.raises(DataNotFound, match="apt-get download: not tried, because download=False"):
        load_fashion("train", download=False)
    assert capsys.readouterr().err == ""


def test_a_full_disk_is_the_reason_and_leaves_nothing(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    stand.pack(stand.debian)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataNotFound, match=f"package files: .*{os.strerror(errno.ENOSPC)}"):
        fetch_fashion()
    assert files_under(stand.cache) == {}


def test_a_cache_that_cannot_be_written_says_how_to_choose_another(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand.pack(stand.debian)
    blocked = stand.debian / f"{NAMES[0]}.gz" / "below-a-file"
    with pytest.raises(DataNotFound, match=r"cannot be written .*set MINIDIFF_CACHE to a folder"):
        fetch_fashion(blocked)


@pytest.mark.parametrize("split", ["valid", "all", None])
def test_an_unknown_split_is_refused(split: str) -> None:
    with pytest.raises(ValueError, match=f'split must be "train" or "test", got {split!r}'):
        load_fashion(split)


# --- kills and company --------------------------------------------------------------------------


def in_a_fork(action: Callable[[], object]) -> int:
    """Run ``action`` in a copy of this process; its exit status is 0 where nothing was raised."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the copy uses no torch, no locks
        child = os.fork()
    if child == 0:
        status = 1
        try:
            action()
            status = 0
        finally:
            os._exit(status)
    return child


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stand:
    """The stand with files of 1, 2, 3 and 4 MiB, so that a kill falls into the copy."""
    content = {name: Random(name).randbytes((i + 1) * 2**20) for i, name in enumerate(NAMES)}
    large = stand_in(content, tmp_path, monkeypatch)
    large.pack(large.debian)
    return large


@needs_posix
@pytest.mark.parametrize("n_whole", range(len(NAMES)))
def test_a_fetch_killed_halfway_through_a_file_leaves_only_whole_files(
    large: Stand, n_whole: int
) -> None:
    import resource

    def fetch_until_killed() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # the system kills whoever writes too much
        limit = n_whole * 2**20 + 2**19  # bytes in one file: half a MiB into the next
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        fetch_fashion()

    status = os.waitpid(in_a_fork(fetch_until_killed), 0)[1]
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGXFSZ
    whole = {large.raw / name: large.content[name] for name in NAMES[:n_whole]}
    assert files_under(large.raw) == whole
    (left,) = large.cache.glob("partial-*")
    assert (left / NAMES[n_whole]).stat().st_size == n_whole * 2**20 + 2**19
    fetch_fashion()
    assert files_under(large.raw) == {large.raw / n: data for n, data in large.content.items()}


@needs_posix
def test_a_fetch_killed_at_any_moment_leaves_only_whole_files(large: Stand, tmp_path: Path) -> None:
    started = time.monotonic()
    fetch_fashion(tmp_path / "undisturbed")
    duration = time.monotonic() - started

    n_kills, n_incomplete = 8, 0
    for kill in range(n_kills):
        root = tmp_path / f"killed-{kill}"
        child = in_a_fork(functools.partial(fetch_fashion, root))
        time.sleep(duration * kill / n_kills)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        files = files_under(root / "FashionMNIST" / "raw")
        assert all(large.content[path.name] == data for path, data in files.items())
        n_incomplete += len(files) < len(NAMES)
        assert fetch_fashion(root) == root  # goes on from whatever the killed one left
    assert n_incomplete >= n_kills // 4, "most kills came too late to test anything"


def test_what_a_killed_fetch_left_is_cleared_away_later(stand: Stand) -> None:
    stand.pack(stand.debian)
    abandoned, busy = stand.cache / "partial-abandoned", stand.cache / "partial-busy"
    for folder in (abandoned, busy):
        folder.mkdir(parents=True)
        (folder / NAMES[0]).write_bytes(b"half")
    two_hours_ago = time.time() - 7200
    os.utime(abandoned, (two_hours_ago, two_hours_ago))
    fetch_fashion()
    assert not abandoned.exists()
    assert busy.exists()  # it may belong to a fetch that is going on


@needs_posix
def test_fetches_at_the_same_time_do_not_hurt_each_other(large: Stand) -> None:
    children = [in_a_fork(fetch_fashion) for _ in range(4)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    assert large.is_whole()


# --- ways over the network ----------------------------------------------------------------------


def python(script: str, *arguments: str) -> list[str]:
    return [sys.executable, "-I", "-c", script, *arguments]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> float:
    monkeypatch.setattr(fashion, "_STALL_SECONDS", 1.0)
    monkeypatch.setattr(fashion, "_STALL_BYTES", 100)
    return 1.0


def test_the_error_of_a_stalled_network_comes_within_twenty_seconds() -> None:
    assert fashion._STALL_SECONDS * len(fashion._NETWORK_WAYS) <= 20


def test_a_server_that_never_answers_is_given_up(tmp_path: Path, impatient: float) -> None:
    ask = (
        "import os, socket, sys; server = ('127.0.0.1', int(sys.argv[1])); "
        "asked = socket.create_connection(server); os.mkdir('ready'); asked.recv(1)"
    )
    with socket.create_server(("127.0.0.1", 0)) as server:
        command = python(ask, str(server.getsockname()[1]))
        started = time.monotonic()
        with pytest.raises(fashion._WayError, match="no progress within 1 s"):
            fashion._run(command, tmp_path, ready=tmp_path / "ready")
        assert impatient <= time.monotonic() - started < impatient + 10


WRITE_STEADILY = """
import sys, time
for _ in range(20):
    with open("download", "ab") as file:
        file.write(bytes(int(sys.argv[1])))
    time.sleep(0.1)
"""


def test_a_trickle_is_given_up(tmp_path: Path, impatient: float) -> None:
    with pytest.raises(fashion._WayError, match="no progress"):
        fashion._run(python(WRITE_STEADILY, "1"), tmp_path, ready=tmp_path / "download")
    assert (tmp_path / "download").stat().st_size < 20


def test_a_download_that_stops_halfway_is_given_up(tmp_path: Path, impatient: float) -> None:
    stop = "import time; open('download', 'wb').write(bytes(1000)); time.sleep(60)"
    with pytest.raises(fashion._WayError, match="no progress"):
        fashion._run(python(stop), tmp_path, ready=tmp_path / "download")
    assert (tmp_path / "download").stat().st_size == 1000


def test_a_slow_but_steady_download_is_waited_for(tmp_path: Path, impatient: float) -> None:
    command = python(WRITE_STEADILY, "100")  # 2 s, twice the patience
    fashion._run(command, tmp_path, ready=tmp_path / "download")
    assert (tmp_path / "download").stat().st_size == 2000


def test_a_slow_start_is_no_stall(tmp_path: Path, impatient: float) -> None:
    start = "import os, time; time.sleep(2); os.mkdir('ready'); time.sleep(60)"
    started = time.monotonic()
    with pytest.raises(fashion._WayError, match="no progress"):
        fashion._run(python(start), tmp_path, ready=tmp_path / "ready")
    assert 2 + impatient <= time.monotonic() - started < 2 + impatient + 10


@pytest.fixture(scope="module")
def real_root() -> Path:
    """The real data in the user's cache, fetched as a reader would fetch it."""
    try:
        return fetch_fashion()
    except DataNotFound as error:
        pytest.skip(str(error))


@pytest.fixture
def mirror(real_root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A web server on this machine with the publisher's own .gz files, byte for byte.

    GNU gzip makes them again from the content, once name and date (2017-08-31) stand in the header.
    """
    if shutil.which("gzip") is None:
        pytest.skip("there is no gzip on this machine to pack the publisher's files")
    files: dict[str, bytes] = {}
    for name, md5 in FashionMNIST.resources:
        unpacked = real_root / "FashionMNIST" / "raw" / name.removesuffix(".gz")
        date = 1504176606 if name.startswith("train") else 1504176627
        header = b"\x1f\x8b\x08\x08" + struct.pack("<I", date) + b"\x00\x03"
        packed = subprocess.run(["gzip", "-nc", unpacked], capture_output=True, check=True).stdout
        files[f"/{name}"] = header + unpacked.name.encode() + b"\0" + packed[10:]
        if hashlib.md5(files[f"/{name}"], usedforsecurity=False).hexdigest() != md5:
            pytest.skip("this machine's gzip packs otherwise than the publisher's")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = files[self.path]
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with suppress(ConnectionError):  # torchvision asks once only to learn of redirects
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.mark.usefixtures("patient")
def test_torchvisions_download_from_a_mirror(
    mirror: str, real_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FashionMNIST, "mirrors", [mirror])
    monkeypatch.setattr(fashion, "_DEBIAN_FOLDER", tmp_path / "debian")
    monkeypatch.setattr(fashion, "_from_apt", lambda work: pytest.fail("torchvision comes first"))
    assert fetch_fashion(tmp_path / "cache") == tmp_path / "cache"
    assert find_fashion(tmp_path / "cache") is not None
    assert {path.name for path in files_under(tmp_path / "cache")} == set(NAMES)


def why_apt_cannot_run() -> str | None:
    """Why the package cannot be downloaded here; None where it must succeed."""
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        return "there is no apt-get on this machine"
    where = ["apt-get", "download", "--print-uris", fashion._DEBIAN_PACKAGE]
    answer = subprocess.run(where, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        return "apt-get's package lists do not have the package"
    try:
        uri = answer.stdout.split("'")[1]
        urllib.request.urlopen(urllib.request.Request(uri, method="HEAD"), timeout=5).close()
    except OSError as error:
        return f"Debian's server is out of reach ({error})"
    return None


@pytest.mark.usefixtures("patient")
def test_apt_get_download_of_the_real_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason := why_apt_cannot_run():
        pytest.skip(reason)
    monkeypatch.setattr(fashion, "_DEBIAN_FOLDER", tmp_path / "debian")

    def offline(work: Path) -> Path:
        raise fashion._WayError("offline")

    monkeypatch.setattr(fashion, "_from_torchvision", offline)
    fetch_fashion(tmp_path / "cache")
    assert find_fashion(tmp_path / "cache") is not None
    assert {path.name for path in files_under(tmp_path / "cache")} == set(NAMES)


@dataclass
class FakeApt:
    """A machine whose apt-get knows the package only after ``apt-get update``."""

    calls: Path

    def words(self) -> list[str]:
        """The command word of every call so far."""
        lines = self.calls.read_text().splitlines()
        return [next(w for w in line.split() if w in ("download", "update")) for line in lines]


@pytest.fixture
def fake_apt(
    stand: Stand, patient: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> FakeApt:
    if shutil.which("dpkg") is None:
        pytest.skip("there is no dpkg on this machine")
    package = tmp_path / "package"
    stand.pack(package / "usr" / "share" / "datasets" / "fashion-mnist")
    (package / "DEBIAN").mkdir()
    (package / "DEBIAN" / "control").write_text(
        "Package: dataset-fashion-mnist\nVersion: 1\nArchitecture: all\n"
        "Maintainer: nobody <nobody@localhost>\nDescription: for this test\n"
    )
    subprocess.run(["dpkg-deb", "-b", package, tmp_path / "made.deb"], check=True)
    lists = tmp_path / "lists"
    lists.mkdir()
    calls = tmp_path / "calls"
    program = tmp_path / "bin" / "apt-get"
    program.parent.mkdir()
    program.write_text(
        "#!/bin/sh\n"
        f'echo "$*" >> {calls}\n'
        f'case "$*" in *update*) touch {lists}/known; exit 0;; esac\n'
        f'test -e {lists}/known || {{ echo "E: Unable to locate package x" >&2; exit 100; }}\n'
        f"cp {tmp_path}/made.deb dataset-fashion-mnist_1_all.deb\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    monkeypatch.setattr(fashion, "_APT_LISTS", lists)
    monkeypatch.setattr(fashion, "_from_apt", REAL_FROM_APT)
    return FakeApt(calls)


REAL_FROM_APT = fashion._from_apt  # the stand's is offline


@needs_posix
@pytest.mark.parametrize("lists", ["present", "missing"])
def test_apt_get_updates_its_lists_once_and_only_if_they_lack_the_package(
    fake_apt: FakeApt, stand: Stand, lists: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if lists == "present":
        (fashion._APT_LISTS / "known").touch()
    monkeypatch.setattr(fashion, "_is_root", lambda: True)
    fetch_fashion()
    assert stand.is_whole()
    missing = ["download", "update", "download"]
    assert fake_apt.words() == (["download"] if lists == "present" else missing)


@needs_posix
def test_without_root_missing_package_lists_are_the_reason(
    fake_apt: FakeApt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fashion, "_is_root", lambda: False)
    with pytest.raises(DataNotFound, match=r"Unable to locate.*`apt-get update` as root"):
        fetch_fashion()
    assert fake_apt.words() == ["download"]


# --- the real data ------------------------------------------------------------------------------


@pytest.mark.parametrize(("split", "per_class"), [("train", 6000), ("test", 1000)])
def test_fashion_tensors(real_root: Path, split: str, per_class: int) -> None:
    images, labels = load_fashion(split, root=real_root)
    assert images.shape == (10 * per_class, 1, 28, 28)
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert labels.shape == (10 * per_class,)
    assert torch.bincount(labels, minlength=10).tolist() == [per_class] * 10
    assert (images.min(), images.max()) == (-1, 1)


def test_fashion_has_its_published_mean_deviation_and_first_labels(real_root: Path) -> None:
    images, labels = load_fashion("train", root=real_root)
    pixels = (images + 1) / 2  # [0, 1]
    assert pixels.mean().item() == pytest.approx(0.2860, abs=1e-4)
    assert pixels.std().item() == pytest.approx(0.3530, abs=1e-4)
    assert [FASHION_CLASSES[label] for label in labels[:4]] == [
        "Ankle boot",
        "T-shirt/top",
        "T-shirt/top",
        "Dress",
    ]


def test_the_class_names_are_torchvisions() -> None:
    assert list(FASHION_CLASSES) == FashionMNIST.classes


def test_data_lies_on_the_cpu_whatever_the_default_device(stand: Stand) -> None:
    stand.pack(stand.debian)
    with torch.device("meta"):
        loaded = [load_fashion("train"), load_digits("all"), load_digits("test")]
    assert {tensor.device.type for pair in loaded for tensor in pair} == {"cpu"}


# --- digits -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("split", "count"), [("all", 1797), ("train", 1442), ("test", 355)])
def test_digit_tensors(split: str, count: int) -> None:
    images, labels = load_digits(split)
    assert images.shape == (count, 1, 8, 8)
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert labels.shape == (count,)
    assert set(images.unique().tolist()) == {level / 8 - 1 for level in range(17)}
    counts = torch.bincount(labels, minlength=10) / count
    assert (counts - 0.1).abs().max() < 0.005  # stratified


def test_digits_are_those_of_scikit_learn() -> None:
    from sklearn import datasets

    bunch = datasets.load_digits()
    images, labels = load_digits()
    assert torch.equal((images[:, 0] + 1) * 8, torch.from_numpy(bunch.images).float())
    assert torch.equal(labels, torch.from_numpy(bunch.target).long())


def test_digit_splits_are_fixed_disjoint_and_complete() -> None:
    def rows(split: str) -> list[tuple[float, ...]]:
        images, labels = load_digits(split)
        return [tuple(row) for row in torch.cat([images.flatten(1), labels[:, None]], 1).tolist()]

    assert not set(rows("train")) & set(rows("test"))
    assert sorted(rows("train") + rows("test")) == sorted(rows("all"))
    assert rows("train") == rows("train")
    held_out = load_digits("test")[0]
    again = hashlib.sha256(held_out.numpy().tobytes()).hexdigest()
    assert again == DIGITS_TEST_SHA256  # the same images on every machine and in every version


DIGITS_TEST_SHA256 = "d344b6c0cb571124f8cb0cbb64ee2bdb3ff9f3bfe6a54215d6fa3321938061aa"


def test_the_nearest_training_digit_has_the_label_of_a_test_digit() -> None:
    images, labels = load_digits("train")
    test_images, test_labels = load_digits("test")
    nearest = torch.cdist(test_images.flatten(1), images.flatten(1)).argmin(1)  # (355,)
    assert (labels[nearest] == test_labels).double().mean() >= 0.97


@pytest.mark.parametrize("split", ["valid", 0, None])
def test_an_unknown_digits_split_is_refused(split: str) -> None:
    expected = f'split must be "train", "test" or "all", got {split!r}'
    with pytest.raises(ValueError, match=expected):
        digits.load_digits(split)
