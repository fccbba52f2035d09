"""One self-contained HTML file that shows a dataset: a module for each section."""
