"""Train a network on MNIST and look at what it learns.

uv run scripts/train.py experiment=quickstart       # bundled digits, a minute in all
uv run scripts/train.py                             # MNIST, defaults
uv run scripts/train.py --help
"""

try:
    from simplecnn.cli import train
except ModuleNotFoundError as error:  # outside of the environment
    raise SystemExit(f"{error}. Type: uv run scripts/train.py") from None

if __name__ == "__main__":
    train()
