"""Show the report of a sweep again: which run was best, what the values have to do with it.

uv run scripts/train.py -m hparams_search=grid    # a sweep
uv run scripts/sweep.py sweep=outputs/train/…     # its report, while it runs and afterwards
"""

from simplecnn.cli import sweep

if __name__ == "__main__":
    sweep()
