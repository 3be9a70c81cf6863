"""One evaluation: what is proposed, what risk makes of it, and the commands that are left."""
