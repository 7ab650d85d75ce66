"""Evaluate a run's checkpoint on test images.

uv run scripts/evaluate.py run=outputs/quickstart/…
uv run scripts/evaluate.py run=outputs/quickstart/… data=mnist    # on the official test set
"""

try:
    from simplecnn.cli import evaluate
except ModuleNotFoundError as error:  # outside the environment
    raise SystemExit(f"{error}. Type: uv run scripts/evaluate.py") from None

if __name__ == "__main__":
    evaluate()
