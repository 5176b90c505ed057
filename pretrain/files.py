"""Writing files whole or not at all, and reading checkpoints without running code from them."""

import argparse
import contextlib
import hashlib
import json
import os
import pickle
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pretrain.errors import UserError

LONGEST_NAME = 230  # bytes; of the 255 that a file's name may have a draft's takes some
SHARING = 8  # times a file's size: what its tensors may have in all, where some are the same
MAX_CONTAINERS, MAX_VALUES = 100_000, 10_000_000  # of a checkpoint
FOLDER = 0x10  # of a zip record's attributes
CHECKSUM = "crc32"  # in the metadata of a `.safetensors` file; torch's files have one of each record


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Gives a draft's path beside `path`; when the block ends well the draft becomes `path` at once, synced to disk.

    Raises:
        UserError: it could not be written (a full disk, say). What was at `path` before is untouched.
    """
    path = Path(path)
    encoded = os.fsencode(path.name)
    name = path.name if len(encoded) <= LONGEST_NAME else hashlib.sha256(encoded).hexdigest()
    draft = path.with_name(f".{name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield draft
        with open(draft, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(draft, path)
    except (OSError, RuntimeError) as error:  # torch's writer wraps a full disk in a RuntimeError
        raise UserError(f"cannot write {path}: {_reason(error)}; what was there before is untouched") from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
    _sync_folder(path.parent)


def remove_drafts(folder: Path) -> None:
    """Remove what killed processes had begun to write in `folder`; call it while nobody writes there."""
    for draft in filter(is_draft, folder.glob(".*")):
        draft.unlink(missing_ok=True)


def is_draft(path: Path) -> bool:
    """By its name; see `replacing`."""
    return bool(re.fullmatch(r"\.(.*\.)?\d+\.partial(\.\w+)?", path.name, re.DOTALL)) and path.is_file()


def write_text(path: str | Path, text: str) -> None:
    """Write `text` in UTF-8, whole or not at all; raises UserError as `replacing` does."""
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8")


def write_json(path: str | Path, data) -> None:
    """Write `data` as indented JSON, whole or not at all; raises UserError as `replacing` does."""
    write_text(path, json.dumps(data, indent=2) + "\n")


def write_torch_file(path: str | Path, data) -> None:
    """`torch.save`, whole or not at all; raises UserError as `replacing` does."""
    with replacing(path) as draft, open(draft, "wb") as file:  # given a path, torch would not say what went wrong
        torch.save(data, file)


def read_torch_file(path: str | Path):
    """What `torch.save` wrote, on the CPU; only tensors and plain values are accepted.

    Raises:
        UserError: the file is absent, damaged (also by a single bit), no torch file, would run code on loading, or
            would take more memory than its size.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder, not a checkpoint; give one of its files")
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}; check the path")
    try:
        _check_records(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
        _check_extent(content, path.stat().st_size)
        return content
    except pickle.UnpicklingError as error:
        with open(path, "rb") as file:
            ours = file.read(2) in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # zip, pickle 2 to 5
        could_run = "weights_only" in str(error).lower()
        reason = "it is no file of PyTorch" if not ours else "it could run code" if could_run else "it is damaged"
        raise UserError(
            f"{path} is not a file of tensors only ({reason}): refused; get it again from whoever made it"
        ) from None
    except Exception as error:  # damaged bytes raise whatever the reader stumbles on
        reason = str(error).partition("\n")[0] or ("it is empty" if not path.stat().st_size else type(error).__name__)
        raise UserError(f"{path} is truncated or no checkpoint ({reason}); copy it again") from None


def _check_extent(content, size: int) -> None:
    """Raise ValueError where `content`, of a file of `size` bytes, would take far more memory when it is used: a stride
    of 0 makes any number of elements of one, a dictionary may hold another many times, and that one again."""
    rest, containers, total = [content], 0, 0
    while rest:
        value = rest.pop()
        if isinstance(value, Tensor):
            if value.layout != torch.strided or value.device.type != "cpu":
                raise ValueError(f"it holds a tensor that is {value.layout} on {value.device}, not plain numbers")
            extent = value.numel() * value.element_size()
            total += extent
            if extent > value.untyped_storage().nbytes() or total > SHARING * size:
                raise ValueError(f"its tensors have {total:,} bytes, and the file {size:,}")
        elif isinstance(value, dict | list | tuple | set):
            containers += 1
            rest += value.values() if isinstance(value, dict) else value
            if containers > MAX_CONTAINERS or len(rest) > MAX_VALUES:
                raise ValueError("its dictionaries and lists hold each other too often")


def _check_records(path: Path) -> None:
    """Compare each record with its CRC-32, which torch writes and does not read.

    Files in the format of before torch 1.6 have none, and it can be switched off (`set_crc32_options`): then all are 0.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as file:
        check_stored(file)
        if any(record.CRC for record in file.infolist()) and (damaged := file.testzip()):
            raise zipfile.BadZipFile(f"{damaged} does not fit its checksum")


def check_stored(archive: zipfile.ZipFile) -> None:
    """Raise BadZipFile unless all records are stored as ours and torch's are.

    A compressed one may unpack to any size. Of one that is marked as a folder torch reads nothing and says nothing: the
    tensor is then whatever was in memory.
    """
    for record in archive.infolist():
        if record.compress_type != zipfile.ZIP_STORED:
            raise zipfile.BadZipFile("its records are compressed")
        if record.external_attr & FOLDER:
            raise zipfile.BadZipFile(f"{record.filename} is marked as a folder")


def sha256(path: str | Path) -> str:
    """Of a file's bytes, in hexadecimal. Raises OSError."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_or_none(path: str | Path) -> str | None:
    """`sha256`; None of what cannot be read, or is a pipe, which can be read only once."""
    with contextlib.suppress(OSError):
        return sha256(path) if os.path.isfile(path) else None


def checksum(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    """CRC-32 of names, types, shapes and values, and of the metadata, in any order."""
    crc = zlib.crc32(json.dumps({k: v for k, v in metadata.items() if k != CHECKSUM}, sort_keys=True).encode())
    for name, value in sorted(tensors.items()):
        crc = zlib.crc32(f"{name} {value.dtype} {tuple(value.shape)}".encode(), crc)
        crc = zlib.crc32(value.contiguous().reshape(-1).view(torch.uint8).numpy(), crc)
    return f"{crc:08x}"


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a `.safetensors` or torch file, and its metadata. Never runs code.

    Dictionaries inside the file become prefixes: `{"teacher": {"norm.bias": ...}}` gives "teacher.norm.bias".

    Raises:
        UserError: the file is absent, truncated, no checkpoint, or would run code on loading.
    """
    path = Path(path)
    if path.suffix == ".safetensors" and path.is_file():
        return _read_safetensors(path)
    # DINO, iBOT and MAE save their command line beside the weights; a Namespace is plain values by name.
    with torch.serialization.safe_globals([argparse.Namespace]):
        content = read_torch_file(path)
    state = dict(_flatten(content)) if isinstance(content, dict) else {}
    if not state:
        raise UserError(f"{path} holds no tensors by name: it is not a checkpoint of a model")
    metadata = content.get("metadata")
    return state, metadata if isinstance(metadata, dict) else {}


def _flatten(content: dict, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    for name, value in content.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value
        elif isinstance(value, dict) and name != "optimizer":
            yield from _flatten(value, f"{prefix}{name}.")


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:80]
        raise UserError(f"{path} is truncated or no safetensors file ({reason}); copy it again") from None
    noted = metadata.pop(CHECKSUM, None)
    if noted not in (None, checksum(tensors, metadata)):
        raise UserError(
            f"{path} does not fit its checksum: it is damaged, or was changed; copy it again, or take {CHECKSUM} out "
            "of its metadata"
        )
    return tensors, metadata


def _reason(error: BaseException) -> str:
    """What the system said, where a library has wrapped it; else the error's first line."""
    inner = error
    while inner is not None:
        if isinstance(inner, OSError) and inner.strerror:
            return inner.strerror
        inner = inner.__cause__ or inner.__context__
    return str(error).partition("\n")[0]


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut. Best effort: some network file systems cannot, and the file is whole."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
