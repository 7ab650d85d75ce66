"""Classify your own images: prints a table, writes predictions.csv and a contact sheet.

uv run scripts/predict.py run=outputs/quickstart/… image=my_seven.png
uv run scripts/predict.py run=outputs/quickstart/… 'image=scans,more/*.jpg' reject=0.9
uv run scripts/predict.py run=outputs/quickstart/… image=my_seven.png explain=true
"""

try:
    from simplecnn.cli import predict
except ModuleNotFoundError as error:  # outside the environment
    raise SystemExit(f"{error}. Type: uv run scripts/predict.py") from None

if __name__ == "__main__":
    predict()
