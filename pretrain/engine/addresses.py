"""Weights by an address: https://, detectron2:// (Detectron2's model zoo) and hf:// (Hugging Face)."""

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pretrain.errors import UserError, in_a_line

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.+)")  # a Path has lost one slash; one letter is a disk
PATIENCE = 30  # seconds until a server that does not answer is given up


def local_file(path: str | Path) -> Path:
    """`path` itself, or the file that is downloaded once (into the cache of who downloads it) where it is an address.

    hf://OWNER/NAME/FILE or hf://OWNER/NAME@REVISION/FILE goes through huggingface_hub, everything else through
    Detectron2's path manager, which knows http, https, ftp, detectron2 and what is registered with it.

    Raises:
        UserError: nobody knows this kind of address, or the file cannot be downloaded.
    """
    match = _ADDRESS.fullmatch(str(path))
    if match is None:
        return Path(path)
    kind, rest = match[1].lower(), match[2]
    address = f"{kind}://{rest}"
    try:
        with _patience():
            found = Path(_from_hugging_face(address, rest) if kind == "hf" else _by_path_manager(address))
    except UserError:
        raise
    except Exception as error:  # URLError, HTTPError, huggingface_hub's own, whatever a handler raises
        raise UserError(
            f"{address} cannot be downloaded: {in_a_line(error)}; check the address, or download the file where "
            "there is a network and give its path"
        ) from error
    if not found.is_file():
        raise UserError(
            f"{address}: {kind}:// is not a kind of address known here; give https://, detectron2://, hf:// "
            "or the path of a local file"
        )
    return found


def _from_hugging_face(address: str, rest: str) -> str:
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise UserError(f"{address} needs huggingface_hub ({error}): pip install huggingface_hub") from error
    parts = re.fullmatch(r"([^/@]+/[^/@]+)(?:@([^/]+))?/(.+)", rest)
    if parts is None:
        raise UserError(f"{address} is not hf://OWNER/NAME/FILE, such as hf://timm/vit_base/model.safetensors")
    return hf_hub_download(parts[1], parts[3], revision=parts[2])


def _by_path_manager(address: str) -> str:
    from detectron2.utils.file_io import PathManager

    return PathManager.get_local_path(address)


@contextmanager
def _patience() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
