"""Time a training step: the tutorial's loop, a bare loop of our step, and our Trainer, in turn.

uv run scripts/benchmark.py                      # MNIST, 15 minutes on two cores
uv run scripts/benchmark.py data=mnist_5k rounds=10
"""

try:
    from simplecnn.cli import benchmark
except ModuleNotFoundError as error:  # outside of the environment
    raise SystemExit(f"{error}. Type: uv run scripts/benchmark.py") from None

if __name__ == "__main__":
    benchmark()
