"""Weights by an address: downloaded once from a real server on this machine; a sentence where there is none."""

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest
from detectron2.utils.file_io import PathManager

from pretrain.engine import addresses
from pretrain.engine.addresses import local_file
from pretrain.errors import UserError


class Silent(SimpleHTTPRequestHandler):
    asked: list[str] = []

    def log_message(self, form: str, *values) -> None:
        self.asked.append(self.path)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The address of a server of TMP_PATH/served."""
    (tmp_path / "served").mkdir()
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    for handler in PathManager._path_handlers.values():
        if hasattr(handler, "cache_map"):
            monkeypatch.setattr(handler, "cache_map", {})
    Silent.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=tmp_path / "served"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_stays_what_it_is(kind):
    for name in ("a.pth", "/a/b.pth", "C:/a.pth", "a:b.pth", "some folder/a.pth"):
        assert local_file(kind(name)) == Path(name)


def test_a_file_is_downloaded_once(server, tmp_path):
    (tmp_path / "served" / "w.pth").write_bytes(b"weights")
    first = local_file(f"{server}/w.pth")
    assert first.read_bytes() == b"weights" and first == local_file(Path(f"{server}/w.pth"))
    assert Silent.asked == ["/w.pth"]


def test_what_is_not_there_is_a_sentence(server):
    with pytest.raises(UserError, match=r"http://127.0.0.1.*/none.pth cannot be downloaded: .*404.*give its path"):
        local_file(f"{server}/none.pth")


def test_without_a_network_it_is_a_sentence(monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *_: (_ for _ in ()).throw(OSError("Network is unreachable")))
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: (_ for _ in ()).throw(OSError("no name service")))
    monkeypatch.setattr(addresses, "PATIENCE", 1)
    with pytest.raises(UserError, match="ImageNetPretrained/x.pth cannot be downloaded: .*no name service"):
        local_file("detectron2://ImageNetPretrained/x.pth")


@pytest.mark.parametrize("address", ["s3://bucket/w.pth", "gs://bucket/w.pth"])
def test_other_kinds_are_named(address):
    with pytest.raises(UserError, match=f"{address}: {address[:2]}:// is not a kind of address"):
        local_file(address)


def test_hugging_face(monkeypatch, tmp_path):
    asked = []

    def download(repo: str, name: str, revision: str | None) -> str:
        asked.append((repo, name, revision))
        if repo == "nobody/nothing":
            raise huggingface_hub.errors.LocalEntryNotFoundError("Connection error")
        (tmp_path / "w").write_bytes(b"")
        return str(tmp_path / "w")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert local_file("hf://timm/vit_small/model.safetensors") == tmp_path / "w"
    assert local_file("hf://facebook/dinov2-small@v1/folder/w.pth") == tmp_path / "w"
    assert asked == [("timm/vit_small", "model.safetensors", None), ("facebook/dinov2-small", "folder/w.pth", "v1")]
    with pytest.raises(UserError, match="hf://nobody/nothing/w.pth cannot be downloaded: Connection error"):
        local_file("hf://nobody/nothing/w.pth")
    for nonsense in ("hf://timm", "hf://timm/vit_small", "hf://timm/vit_small@v1"):
        with pytest.raises(UserError, match="is not hf://OWNER/NAME/FILE"):
            local_file(nonsense)
