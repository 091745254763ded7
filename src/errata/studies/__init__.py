"""Studies: whole runs and their comparison."""
