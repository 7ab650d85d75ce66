"""Receptive fields of the layers of any torch network. Requires only torch and NumPy;
`simplecnn.receptive_field.report`, which also draws figures, requires matplotlib.
"""

from simplecnn.receptive_field.chains import Stack, receptive_field, stack
from simplecnn.receptive_field.checks import Check, all_agree, check_fields
from simplecnn.receptive_field.effective_field import EffectiveField, effective_fields
from simplecnn.receptive_field.fields import Field, receptive_fields
from simplecnn.receptive_field.trace import named_outputs

__all__ = [
    "Check",
    "EffectiveField",
    "Field",
    "Stack",
    "all_agree",
    "check_fields",
    "effective_fields",
    "named_outputs",
    "receptive_field",
    "receptive_fields",
    "stack",
]
