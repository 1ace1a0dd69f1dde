"""A report as HTML, Markdown, LaTeX and CSV, and read back from its JSON. No number is made here."""
