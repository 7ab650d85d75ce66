"""Tell which digit is on an image of yours.

uv run scripts/predict.py run=outputs/quickstart/… image=my_seven.png
uv run scripts/predict.py run=outputs/quickstart/… 'image=[one.png,two.jpg]'
"""

from simplecnn.cli import predict

if __name__ == "__main__":
    predict()
