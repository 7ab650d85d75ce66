"""What a unit sees, for any torch network, and two experiments that must agree."""
