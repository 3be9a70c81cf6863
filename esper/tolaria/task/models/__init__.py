"""Host networks by name: MLPs, convolutions, decoders, and any other by entry point."""
