"""Write the weights of a run as a safetensors file, which others can load without trusting it.

uv run scripts/export.py run=outputs/quickstart/…
"""

from simplecnn.cli import export

if __name__ == "__main__":
    export()
