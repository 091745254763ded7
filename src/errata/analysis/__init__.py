"""Analysis of recorded rows; needs no model."""
