"""Checkpoint files: atomic writes, safe reads, and one-sentence errors for damaged files."""

import io
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simplecnn.atomic import atomic_write
from simplecnn.errors import InputError, RunError, first_line, relative_path

ZIP = b"PK\x03\x04"  # the first bytes of files that torch saves
MAX_GROWTH = 20  # maximum ratio of unpacked to file size, against zip bombs


def write_checkpoint(content: Mapping[str, Any], path: Path, *, checked: bool = False) -> None:
    """Write a checkpoint atomically; with `checked`, only after loading it back from memory.

    Raises RunError if it cannot be written or loaded; an existing file at `path` stays intact.
    """
    import torch

    if isinstance(saved := content.get("hyper_parameters"), Mapping):
        # A custom module that calls save_hyperparameters saves objects that config.yaml rebuilds.
        plain = {name: value for name, value in saved.items() if not callable(value)}
        content = {**content, "hyper_parameters": plain}
    buffer = io.BytesIO()
    torch.save(content, buffer)
    if checked:
        try:
            torch.load(io.BytesIO(buffer.getbuffer()), weights_only=True)
        except Exception as error:
            rejected = re.search(r"GLOBAL (\S+)", str(error))
            raise RunError(
                f"{relative_path(path)} was not written, because it could not be loaded again: "
                f"on_save_checkpoint and state_dict must return tensors and plain values"
                f"{f', not {rejected[1]}' if rejected else ''}."
            ) from None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, buffer.getbuffer())
    except OSError as error:
        intact = " The previous one is intact." if path.is_file() else ""
        raise RunError(
            f"{relative_path(path)} cannot be written: {error.strerror}.{intact}"
        ) from None


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint onto the CPU without executing code in it. Raises InputError."""
    import torch

    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > MAX_GROWTH * path.stat().st_size:
            raise InputError(_not_a_checkpoint(path, f"it would unpack to {unpacked:,} bytes"))
        content = torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{relative_path(path)} does not exist.") from None
    except Exception as error:
        reason = first_line(error)
        if "weights_only" in str(error) or "Unsupported" in str(error):
            reason = "it contains more than tensors and plain values"
        raise InputError(_not_a_checkpoint(path, reason)) from None
    weights = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(name, str) for name in weights):
        raise InputError(_not_a_checkpoint(path, "it contains no weights"))
    if not isinstance(content.get("hyper_parameters") or {}, dict):
        raise InputError(_not_a_checkpoint(path, "its hyper_parameters are not a dict"))
    return content


def find_damage(path: Path) -> str | None:
    """Return what makes a checkpoint unusable, to complete a sentence, or None.

    Checks the zip archive and its checksums; does not import torch.
    """
    if path.exists() and not path.is_file():  # reading a named pipe would never end
        return "is not a file"
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
                return "is damaged: a checksum does not match"
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return "is truncated or damaged"
    return None


def check_checkpoint(path: Path) -> None:
    """Raise InputError if a checkpoint is missing or damaged. Does not import torch.

    The message suggests an intact checkpoint from the same directory.
    """
    if reason := find_damage(path):
        others = (p for p in sorted(path.parent.glob("*.ckpt")) if p.name != path.name)
        intact = [p for p in others if not find_damage(p)]
        hint = f" {relative_path(intact[0])} is intact and can replace it." if intact else ""
        raise InputError(f"{relative_path(path)} {reason}.{hint}")


def _not_a_checkpoint(path: Path, reason: str) -> str:
    return f"{relative_path(path)} is not a checkpoint of simplecnn: {reason}."
