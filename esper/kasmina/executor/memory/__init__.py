"""Memory of two arms: predicted before a graft, compared with what is free; and arms that wait in host memory."""
