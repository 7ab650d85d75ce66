"""Output to a pipe whose reader, such as `head`, has closed it, and to a full disk."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

LOG_THREE_TIMES = """
import logging
from simplecnn.console import ScreenHandler

logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[ScreenHandler()])
for _ in range(3):
    logging.getLogger("simplecnn").info("to stdout")
    logging.getLogger("simplecnn").warning("to stderr")
"""


def run_into_closed_pipe(*arguments: str) -> subprocess.CompletedProcess[str]:
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [sys.executable, *arguments]
    try:
        return subprocess.run(command, stdout=write_end, stderr=subprocess.PIPE, text=True)
    finally:
        os.close(write_end)


def test_a_command_ends_without_a_traceback():
    script = Path(__file__).parents[1] / "scripts/train.py"
    done = run_into_closed_pipe(str(script), "--help")
    assert (done.returncode, done.stderr) == (1, "")


def test_a_run_goes_on_in_silence():
    done = run_into_closed_pipe("-c", LOG_THREE_TIMES)
    assert (done.returncode, done.stderr.splitlines()) == (0, ["to stderr"] * 3)


def test_a_command_prints_into_closed_streams_and_characters_that_they_lack():
    code = "from simplecnn.console import prepare_output as p; p(); print('1 ± 2', '日')"
    command = [sys.executable, "-c", f"{code}; import sys; sys.stderr.write('x')"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1 ? 2 ?\n", "x")
    code = code.replace("日", r"\udcff")  # a byte of a file name that is not UTF-8
    for encoding, expected in ("ascii", "1 ? 2 ?\n"), ("utf-8", "1 ± 2 ?\n"):
        done = subprocess.run(
            [sys.executable, "-c", code], env=os.environ | {"PYTHONIOENCODING": encoding},
            capture_output=True, encoding="utf-8",
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (0, expected)
    shell = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command]
    assert subprocess.run(shell, env=environment).returncode == 0


FULL_DISK = """
import logging, threading
from simplecnn.console import LogFile, prepare_output

prepare_output()
logging.basicConfig(level=logging.INFO, handlers=[LogFile("/dev/full")])
logging.info("to the log file")
logging.getLogger().handlers[0] = LogFile("log")
logging.info("1 \\u00b1 2 \\udcff")
for code in ("open('/dev/full', 'w').write('x' * 10_000)", "1 / 0"):
    thread = threading.Thread(target=exec, args=[code])
    thread.start()
    thread.join()
"""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux only")
def test_no_log_file_or_thread_shows_its_own_traceback(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK], capture_output=True, text=True, cwd=tmp_path,
        env=os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    )  # fmt: skip
    assert (tmp_path / "log").read_text(encoding="utf-8") == "1 ± 2 \\udcff\n"
    assert "No space left" not in done.stderr and "Logging error" not in done.stderr
    assert "ZeroDivisionError" in done.stderr  # other errors of threads are shown
