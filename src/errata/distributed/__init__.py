"""Many machines: base models that stay loaded, and Ray to spread runs and evaluations over them."""
