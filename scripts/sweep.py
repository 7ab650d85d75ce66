"""Show the report of a sweep: the best run, and the effect of each hyperparameter.

uv run scripts/train.py -m hparams_search=grid    # a sweep
uv run scripts/sweep.py sweep=outputs/train/…     # its report, during or after it
"""

try:
    from simplecnn.cli import sweep
except ModuleNotFoundError as error:  # outside the environment
    raise SystemExit(f"{error}. Type: uv run scripts/sweep.py") from None

if __name__ == "__main__":
    sweep()
