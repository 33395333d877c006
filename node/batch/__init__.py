"""`lungnode batch`: an archive in, a table of all findings and the result objects out."""
