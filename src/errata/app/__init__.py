"""A page to try edits on: write a fact, edit, see before and after, take it back."""
