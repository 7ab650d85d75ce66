"""Evaluate a finished run on test digits.

uv run scripts/evaluate.py run=outputs/quickstart/…
uv run scripts/evaluate.py run=outputs/quickstart/… data=mnist    # on the official test set
"""

from simplecnn.cli import evaluate

if __name__ == "__main__":
    evaluate()
