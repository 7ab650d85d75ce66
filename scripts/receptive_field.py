"""Print and draw the receptive field of each layer, verified by two experiments.

uv run scripts/receptive_field.py
uv run scripts/receptive_field.py model=lenet
uv run scripts/receptive_field.py run=outputs/quickstart/…      # before and after training
"""

try:
    from simplecnn.cli import receptive_field
except ModuleNotFoundError as error:  # outside the environment
    raise SystemExit(f"{error}. Type: uv run scripts/receptive_field.py") from None

if __name__ == "__main__":
    receptive_field()
