"""Reproduce a paper: its claims, the runs that test them, and a table of what holds."""
