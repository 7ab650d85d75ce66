"""Checkpoints on disk: written atomically; what is wrong with one, in a sentence."""

import io
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simplecnn.atomic import atomic_write
from simplecnn.errors import InputError, RunError, short

ZIP = b"PK\x03\x04"  # how torch's files begin
MAX_GROWTH = 20  # times that a file may grow when it is unpacked


def write_checkpoint(content: Mapping[str, Any], path: Path, *, checked: bool = False) -> None:
    """Write a checkpoint atomically; `checked`: only if it could be read again.

    Raises RunError where it cannot be written; the one before it is then as it was.
    """
    import torch

    buffer = io.BytesIO()
    torch.save(content, buffer)
    if checked:
        try:
            torch.load(io.BytesIO(buffer.getbuffer()), weights_only=True)
        except Exception as error:
            refused = re.search(r"GLOBAL (\S+)", str(error))
            raise RunError(
                f"No run could be resumed from {short(path)}, which was not written: what "
                f"on_save_checkpoint and state_dict give must be tensors and plain values"
                f"{f', not {refused[1]}' if refused else ''}."
            ) from None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, buffer.getbuffer())
    except OSError as error:
        kept = " The one before it is intact." if path.is_file() else ""
        raise RunError(f"{short(path)} cannot be written: {error.strerror}.{kept}") from None


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, without running what is in it. Raises InputError."""
    import torch

    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > MAX_GROWTH * path.stat().st_size:
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
    return content


def problem(path: Path) -> str | None:
    """What is wrong with a checkpoint, as the end of a sentence, or None. Without torch."""
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
            if archive.testzip():
                return "is damaged: a checksum in it is wrong"
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return "is cut short or damaged"
    return None


def check_checkpoint(path: Path) -> None:
    """Raise InputError where a checkpoint is missing or damaged. No torch.

    The sentence names another one beside it that is intact.
    """
    if reason := problem(path):
        others = (p for p in sorted(path.parent.glob("*.ckpt")) if p.name != path.name)
        intact = [p for p in others if not problem(p)]
        hint = f" {short(intact[0])} is intact: it can take its place." if intact else ""
        raise InputError(f"{short(path)} {reason}.{hint}")


def _foreign(path: Path, reason: str) -> str:
    return f"{short(path)} is not a checkpoint of simplecnn: {reason}."
