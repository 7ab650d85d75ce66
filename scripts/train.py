"""Train a network on MNIST and look at what it learns.

uv run scripts/train.py experiment=quickstart       # bundled digits, a minute in all
uv run scripts/train.py                             # MNIST, defaults
uv run scripts/train.py --help
"""

from simplecnn.cli import train

if __name__ == "__main__":
    train()
