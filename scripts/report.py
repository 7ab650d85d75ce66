"""Write the HTML report of a run, of two compared runs, or of a sweep.

uv run scripts/report.py run=last                          # report.html in the run directory
uv run scripts/report.py run=outputs/… image=my_seven.png  # with your own image
uv run scripts/report.py run=outputs/…,outputs/…           # two runs on one page
uv run scripts/report.py sweep=outputs/…                   # sweep.html
"""

try:
    from simplecnn.cli import report
except ModuleNotFoundError as error:  # outside the environment
    raise SystemExit(f"{error}. Type: uv run scripts/report.py") from None

if __name__ == "__main__":
    report()
