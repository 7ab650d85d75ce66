"""Write the weights of a run as a safetensors file, which others can load without trusting it.

uv run scripts/export.py run=outputs/quickstart/…
"""

try:
    from simplecnn.cli import export
except ModuleNotFoundError as error:  # outside of the environment
    raise SystemExit(f"{error}. Type: uv run scripts/export.py") from None

if __name__ == "__main__":
    export()
