"""The judge: whether growth paid, from paired scores alone; the twin test of one seed and the looks at a stack."""
