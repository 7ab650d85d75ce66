"""Train a network on MNIST and watch what it learns.

uv run scripts/train.py experiment=quickstart       # the bundled digits, in a minute
uv run scripts/train.py                             # MNIST, defaults
uv run scripts/train.py --help
"""

try:
    from simplecnn.cli import train
except ModuleNotFoundError as error:  # outside the environment
    raise SystemExit(f"{error}. Type: uv run scripts/train.py") from None

if __name__ == "__main__":
    train()
