"""Explain what a run's network learned, or compare the networks of a sweep.

uv run scripts/explain.py run=outputs/quickstart/…
uv run scripts/explain.py run=last parts=channels,attribution channels.layers=[conv1]
uv run scripts/train.py -m hparams_search=ablation hydra.sweep.dir=outputs/ablation
uv run scripts/explain.py sweep=outputs/ablation
"""

try:
    from simplecnn.cli import explain
except ModuleNotFoundError as error:  # outside the environment
    raise SystemExit(f"{error}. Type: uv run scripts/explain.py") from None

if __name__ == "__main__":
    explain()
