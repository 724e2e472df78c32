"""What runs a model or builds one for a device: each backend loads its runtime lazily, and knows only `ir`."""
