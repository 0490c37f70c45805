"""Weights are downloaded once, and only if they are what their name says."""

import hashlib
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from shared_data import shared

from paretune.errors import ParetuneError
from paretune.tasks.published import DIGITS, PUBLISHED, fetched, published


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A folder and the address that it is served under; downloads are kept below `tmp_path`."""
    folder = tmp_path / "served"
    folder.mkdir()
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield folder, f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_a_file_is_downloaded_once(served: tuple[Path, str]) -> None:
    folder, address = served
    content = b"weights"
    name = f"net-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    (folder / name).write_bytes(content)
    path = fetched(f"{address}/{name}")
    (folder / name).unlink()
    assert fetched(f"{address}/{name}") == path
    assert path.read_bytes() == content


def test_another_file_than_its_name_says_is_refused_and_not_kept(served: tuple[Path, str]) -> None:
    folder, address = served
    (folder / "net-00000000.pth").write_bytes(b"other")
    for _ in range(2):
        with pytest.raises(ParetuneError, match=r"net-00000000.pth cannot be downloaded .*invalid hash.*set"):
            fetched(f"{address}/net-00000000.pth")


def test_an_absent_file_and_no_file_are_refused(served: tuple[Path, str]) -> None:
    _, address = served
    with pytest.raises(ParetuneError, match=r"none.pth cannot be downloaded \(HTTP Error 404"):
        fetched(f"{address}/none.pth")
    with pytest.raises(ParetuneError, match=r"names no file such as net.pth"):
        fetched(f"{address}/folder/")


def test_a_network_without_published_weights_says_so() -> None:
    with pytest.raises(ParetuneError, match=r"none are published for 'resnet50'.*resnet56"):
        published("resnet50")


@pytest.mark.parametrize("name", ["resnet20", "resnet56"])
def test_the_digits_are_those_of_the_files(name: str) -> None:
    held = shared("data/weights") / f"akamaster_cifar10_{name}.th"
    (digits,) = DIGITS.findall(PUBLISHED[name])
    assert hashlib.sha256(held.read_bytes()).hexdigest().startswith(digits)
