"""Draw what kernels respond to, and compare conv2d with PyTorch on all of it.

uv run scripts/convolution.py
uv run scripts/convolution.py digit=2500
"""

from simplecnn.cli import convolution

if __name__ == "__main__":
    convolution()
