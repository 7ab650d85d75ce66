"""Export the network of a run to a file, which is verified before it is written.

uv run scripts/export.py run=outputs/quickstart/…                  # weights, as safetensors
uv run scripts/export.py run=outputs/quickstart/… format=onnx      # for ONNX Runtime; extra export
uv run scripts/export.py run=outputs/quickstart/… format=torch_export
"""

try:
    from simplecnn.cli import export
except ModuleNotFoundError as error:  # outside the environment
    raise SystemExit(f"{error}. Type: uv run scripts/export.py") from None

if __name__ == "__main__":
    export()
