"""Who may order what: keys, signed envelopes, tokens, and the nonces that were seen."""
