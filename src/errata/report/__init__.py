"""Reports: charts, tables and the page."""
