"""report.html: one page drawn from the files that a run left behind. Imports nothing of the trainer but the reader."""
