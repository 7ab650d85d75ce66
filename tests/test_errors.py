"""What the screen shows of an exception that is not a sentence of simplecnn."""

import errno
import importlib
import logging
import os

import pytest

from simplecnn.atomic import atomic_write
from simplecnn.errors import log_error


def test_an_error_in_the_users_own_code_is_logged_with_its_place(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger(), "handlers", [caplog.handler])
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own_code.py").write_text("def run():\n    return {}['key']\n")
    try:
        importlib.import_module("own_code").run()
    except KeyError as error:
        code, message = log_error(error)
    assert (code, message) == (1, "KeyError: 'key' (own_code.py, line 2)")
    (record,) = caplog.records
    assert record.exc_info and "is shown with HYDRA_FULL_ERROR=1" in record.getMessage()
    file = logging.FileHandler(tmp_path / "train.log")
    logging.getLogger().addHandler(file)
    try:
        assert log_error(ValueError("elsewhere"))[1] == "ValueError: elsewhere"
    finally:
        logging.getLogger().removeHandler(file)
        file.close()
    assert "The traceback is in train.log\n" in (tmp_path / "train.log").read_text()


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (errno.ENOSPC, "runs/x.png cannot be written: No space left on device."),
        (errno.EACCES, "runs/x.png cannot be accessed: Permission denied."),
        (errno.EEXIST, "runs/x.png cannot be accessed: File exists."),
        (errno.EISDIR, "runs/x.png cannot be accessed: Is a directory."),
        (errno.ENAMETOOLONG, "runs/x.png cannot be accessed: File name too long."),
    ],
)
def test_a_file_that_cannot_be_written_is_named(number, sentence, tmp_path, monkeypatch, caplog):
    """The operating system does not say which file was written when the disk became full."""

    def fail(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/x.png").write_text("old")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="x.png") as caught:
        atomic_write(tmp_path / "runs/x.png", b"new")
    assert os.listdir(tmp_path / "runs") == ["x.png"]
    assert (tmp_path / "runs/x.png").read_text() == "old"
    monkeypatch.setattr(logging.getLogger(), "handlers", [caplog.handler])
    assert log_error(caught.value) == (1, sentence)
    (record,) = caplog.records
    assert record.getMessage() == sentence and record.exc_info
    full = OSError(errno.ENOSPC, "No space left on device")  # of NumPy, matplotlib or TensorBoard
    assert log_error(full) == (1, "A file cannot be written: No space left on device.")
