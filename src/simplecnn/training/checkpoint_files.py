"""Checkpoints on disk: written whole, with a checksum; what is wrong with one, in a sentence."""

import hashlib
import io
import zipfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from simplecnn.atomic import atomic_write
from simplecnn.errors import InputError, RunError, short

ZIP = b"PK\x03\x04"  # how torch's files begin
MOST_GROWTH = 20  # times that a file may grow when it is unpacked
KEYS = {"state_dict", "loops", "callbacks", "optimizer_states"}


def write_checkpoint(
    content: Mapping[str, Any], path: Path, note: Callable[[str, str], None] | None = None
) -> None:
    """Write a checkpoint whole. `note` is told its name and SHA-256 before it takes its place.

    Raises RunError where it cannot be written; the one before it is then as it was.
    """
    import torch

    buffer = io.BytesIO()
    torch.save(content, buffer)
    data = buffer.getbuffer()

    def tell() -> None:
        if note is not None:
            note(path.name, hashlib.sha256(data).hexdigest())

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, data, before_rename=tell)
    except OSError as error:
        kept = " The one before it is whole." if path.is_file() else ""
        raise RunError(f"{short(path)} cannot be written: {error.strerror}.{kept}") from None


def read_checkpoint(path: Path, *, to_go_on: bool = True) -> dict[str, Any]:
    """The content of a checkpoint, without running what is in it.

    With `to_go_on` it must hold the state of a run, else weights are enough. Raises InputError.
    """
    import torch

    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > MOST_GROWTH * path.stat().st_size:
            raise InputError(_foreign(path, f"it would unpack to {unpacked:,} bytes"))
        content = torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{short(path)} does not exist.") from None
    except Exception as error:
        reason = str(error).strip().splitlines()
        if "weights_only" in str(error) or "Unsupported" in str(error):
            reason = ["it holds more than weights and plain values, which is never run"]
        raise InputError(_foreign(path, reason[0] if reason else type(error).__name__)) from None
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise InputError(_foreign(path, "it holds no weights"))
    if to_go_on and not content.keys() >= KEYS:
        raise InputError(_foreign(path, "it holds no state of a run"))
    return content


def problem(path: Path, expected: Collection[str] = ()) -> str | None:
    """What is wrong with a checkpoint, as the end of a sentence; None where nothing is. No torch.

    `expected` are the SHA-256 that it may have; without them, the checksums in it have to do.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return "does not exist"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if not data:
        return "is empty"
    if not data.startswith(ZIP):
        return "is not a checkpoint"
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if not any(name.endswith("/data.pkl") for name in archive.namelist()):
                return "is not a checkpoint"
            if not expected and archive.testzip():
                return "is damaged: a checksum in it is wrong"
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return "is cut short or damaged"
    if expected and hashlib.sha256(data).hexdigest() not in expected:
        return "is not as its run wrote it: its SHA-256 is another one"
    return None


def _foreign(path: Path, reason: str) -> str:
    return f"{short(path)} is not a checkpoint of simplecnn: {reason}."
