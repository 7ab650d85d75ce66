"""Draw what kernels respond to, and hold our convolution against PyTorch's.

uv run scripts/convolution.py
uv run scripts/convolution.py digit=2500 num_calls=2000
"""

from simplecnn.cli import convolution

if __name__ == "__main__":
    convolution()
