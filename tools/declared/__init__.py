"""What the protos and the registries declare, and who uses it: tools/check_contract's parts."""
