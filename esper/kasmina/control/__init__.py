"""Control: who may change a seed, when, and by which evidence. Decides; never touches a tensor."""
