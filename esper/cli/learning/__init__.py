"""What is learned from field reports, and the reports as rows for other tools."""
