"""Tell which digit is on an image of yours.

uv run scripts/predict.py run=outputs/quickstart/… image=my_seven.png
uv run scripts/predict.py run=outputs/quickstart/… 'image=[one.png,two.jpg]'
"""

try:
    from simplecnn.cli import predict
except ModuleNotFoundError as error:  # outside of the environment
    raise SystemExit(f"{error}. Type: uv run scripts/predict.py") from None

if __name__ == "__main__":
    predict()
