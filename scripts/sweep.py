"""Show the report of a sweep: which run was best, what the values have to do with it.

uv run scripts/train.py -m hparams_search=grid    # a sweep
uv run scripts/sweep.py sweep=outputs/train/…     # its report, while it runs and afterwards
"""

try:
    from simplecnn.cli import sweep
except ModuleNotFoundError as error:  # outside of the environment
    raise SystemExit(f"{error}. Type: uv run scripts/sweep.py") from None

if __name__ == "__main__":
    sweep()
