"""Draw what kernels respond to, and compare conv2d with PyTorch on every response.

uv run scripts/convolution.py
uv run scripts/convolution.py digit=2500
"""

try:
    from simplecnn.cli import convolution
except ModuleNotFoundError as error:  # outside the environment
    raise SystemExit(f"{error}. Type: uv run scripts/convolution.py") from None

if __name__ == "__main__":
    convolution()
