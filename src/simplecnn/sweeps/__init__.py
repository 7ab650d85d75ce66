"""Many runs: their directory, their report, the search."""
